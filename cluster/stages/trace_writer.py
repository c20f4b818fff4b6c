"""Trace writer: the policy's own texts from a run's engines: traces to evaluate and calibrate with,
rationales.

samples -> GroupWriter, some at a time, or the archive of an earlier attempt -> archive -> TraceSet
"""

import time
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from calibrate.traces import GroupFacts, TraceSet
from cluster.actors.deadlines import on_disk
from cluster.driver.bounded import run_bounded
from cluster.driver.progress import console, progress_bar
from cluster.metrics.catalogue import EVALUATION
from cluster.resume.archived_groups import ArchivedGroups
from cluster.resume.taken_up import SameWeights, find_written, same_weights
from cluster.session import Session
from cluster.stages.failure_limits import FailureCount
from cluster.stages.grpo.training_groups import OneGroupWriter, groups_in_flight
from rollout.engine import Sampling
from rollout.prompt import PromptKind
from wire.archive.archive import Archive
from wire.archive.group_reader import GroupsOnDisk, read_newest
from wire.daemon_thread import run_in_daemon_thread
from wire.labels import LabelSet
from wire.types import Purpose, Sample, stable_seed

_GROUPS_PER_FILE = 1024  # of the archive: bounds its journal


class FigureLog(Protocol):
    """Takes a stage's figures of a step; cluster/metrics/metrics_log.py implements it."""

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append one line."""
        ...


class RunTraceWriter:
    """calibrate's TraceWriter on the run's rollout engines, for a stage or arm of this name."""

    def __init__(
        self,
        name: str,
        writer: OneGroupWriter,
        archive: Archive,
        weights: SameWeights,
        log: FigureLog,
        labels: LabelSet,
        *,
        seed: int,
        max_tokens: int,
        evaluation_temperature: float,
        max_failure_frac: float,
        max_in_flight: int,
    ) -> None:
        """``weights``: versions of what the engines serve, whose archived traces are taken up;
        ``seed``: the recipe's; ``max_tokens``: of a trace; ``max_in_flight``: groups written at a
        time."""
        self._name, self._writer, self._archive = name, writer, archive
        self.weights, self._log, self._labels = weights, log, labels
        self._seed, self._max_tokens = seed, max_tokens
        self._evaluation_temperature = evaluation_temperature
        self._max_failure_frac, self._max_in_flight = max_failure_frac, max_in_flight
        self.num_taken_up = 0
        """Groups so far that an earlier attempt had written."""
        self.evaluation_seconds: float | None = None
        """Of the last ``write_evaluation``; None if some of its traces were taken up."""
        self.num_evaluated = 0
        """Clips of the last ``write_evaluation``."""

    @classmethod
    def of(cls, session: Session, name: str, *, trained: bool = False) -> Self:
        """With the engines and settings of a run; ``trained``: the stage has trained the weights
        that the engines serve, else it started from them."""
        config, now = session.config, session.version(session.engine_weights_step)
        return cls(
            name,
            session.writer,
            session.archive,
            same_weights(config, session.run_dir, name, now, trained=trained),
            session.metrics,
            config.label_set,
            seed=config.seed,
            max_tokens=config.rollout.max_response_length,
            evaluation_temperature=config.evaluate.temperature,
            max_failure_frac=config.reward.max_failure_frac,
            max_in_flight=groups_in_flight(config),
        )

    async def write(
        self, samples: Sequence[Sample], k: int, temperature: float, purpose: Purpose
    ) -> TraceSet:
        """Write ``k`` traces per sample, kept right or wrong. Raises TooManyFailures."""
        return await self._write(samples, k, temperature, purpose, purpose, f"{purpose} traces")

    async def write_evaluation(
        self, samples: Sequence[Sample], temperature: float | None = None
    ) -> TraceSet:
        """Write one trace per sample, near-greedy as the policy is measured, unless another
        temperature is given. Raises TooManyFailures."""
        temperature = self._evaluation_temperature if temperature is None else temperature
        title, purpose = f"evaluate {self._name}", Purpose.EVALUATION
        taken_up, begun = self.num_taken_up, time.monotonic()
        traces = await self._write(samples, 1, temperature, purpose, "evaluate", title)
        seconds = time.monotonic() - begun
        self.num_evaluated = len(samples)
        self.evaluation_seconds = seconds if self.num_taken_up == taken_up else None
        return traces

    async def write_rationales(
        self,
        samples: Sequence[Sample],
        k: int,
        temperature: float,
        *,
        ask: PromptKind,
        max_tokens: int | None,
    ) -> TraceSet:
        """Write ``k`` rationales or captions per sample, as ``ask`` says, which no reward judges;
        ``max_tokens``: of each, where not as many as of a trace. Raises TooManyFailures."""
        purpose, title = Purpose.RATIONALE, f"{self._name}: {len(samples) * k} texts"
        return await self._write(samples, k, temperature, purpose, purpose, title, ask, max_tokens)

    async def _write(
        self,
        samples: Sequence[Sample],
        k: int,
        temperature: float,
        purpose: Purpose,
        seed_name: str,
        title: str,
        ask: PromptKind = "trace",
        max_tokens: int | None = None,
    ) -> TraceSet:
        ids = [f"{self._name}/{purpose}/{sample.id}" for sample in samples]
        archived = await self._find_written(ids, k, purpose)
        facts: list[GroupFacts | None] = [None] * len(samples)
        failures = FailureCount(self._max_failure_frac)
        num_written = 0

        async def one(number: int) -> None:
            nonlocal num_written
            sample = samples[number]
            group = await archived.take(ids[number])
            if group is None:
                sampling = Sampling(
                    n=k,
                    temperature=temperature,
                    max_tokens=max_tokens or self._max_tokens,
                    seed=stable_seed(seed_name, self._seed, sample.id),
                    turn=number,
                )
                group = await self._writer.write(sample, sampling, purpose, ids[number], ask=ask)
                num_written += 1
                if num_written % _GROUPS_PER_FILE == 0:
                    await self._compact()
            facts[number] = GroupFacts.of(group, self._labels, sample)
            failures.add(group)
            bar.advance()

        with progress_bar(title, len(samples)) as bar:
            await run_bounded(len(samples), self._max_in_flight, one)
        await self._compact()
        failures.refuse()
        reader = await run_in_daemon_thread(
            read_newest, self._archive.directory, self._name, set(ids)
        )
        return TraceSet([one for one in facts if one is not None], GroupsOnDisk(reader, ids))

    async def _find_written(self, ids: Sequence[str], k: int, purpose: Purpose) -> ArchivedGroups:
        """The groups that an earlier attempt has written, which are counted."""
        archived = await run_in_daemon_thread(
            find_written, self._archive.directory, self._name, set(ids), self.weights, k
        )
        if len(archived):
            left = len(ids) - len(archived)
            console.print(
                f"{self._name}: {len(archived)} archived groups of {purpose} are taken up, {left} "
                "are to be written"
            )
            self.num_taken_up += len(archived)
            figures = {f"{self._name}/num_taken_up": float(self.num_taken_up)}
            self._log.write(EVALUATION, self.weights.now.step, figures)
        return archived

    async def _compact(self) -> None:
        await on_disk("compact the archive", self._archive.compact, self.weights.now.step)
