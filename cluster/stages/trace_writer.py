"""Trace writer: the policy's own traces from a run's engines, for evaluation and calibration.

samples -> GroupWriter, or the archive of an earlier attempt -> archive compacted -> groups
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from cluster.driver.bounded import run_bounded
from cluster.driver.progress import console, progress_bar
from cluster.metrics.catalogue import EVALUATION
from cluster.resume.taken_up import SameWeights, find_written, same_weights
from cluster.session import Session
from cluster.stages.failure_limits import refuse_failures
from cluster.stages.training_groups import OneGroupWriter, groups_in_flight
from rollout.engine import Sampling
from wire.archive import Archive
from wire.daemon_thread import run_in_daemon_thread
from wire.types import Purpose, Sample, TraceGroup, stable_seed


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
        self.weights, self._log = weights, log
        self._seed, self._max_tokens = seed, max_tokens
        self._evaluation_temperature = evaluation_temperature
        self._max_failure_frac, self._max_in_flight = max_failure_frac, max_in_flight
        self.num_taken_up = 0
        """Groups so far that an earlier attempt had written."""

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
            seed=config.seed,
            max_tokens=config.rollout.max_response_length,
            evaluation_temperature=config.evaluate.temperature,
            max_failure_frac=config.reward.max_failure_frac,
            max_in_flight=groups_in_flight(config),
        )

    async def write(
        self, samples: Sequence[Sample], k: int, temperature: float, purpose: Purpose
    ) -> list[TraceGroup]:
        """Write ``k`` traces per sample, kept right or wrong. Raises TooManyFailures."""
        return await self._write(samples, k, temperature, purpose, purpose, f"{purpose} traces")

    async def write_evaluation(
        self, samples: Sequence[Sample], temperature: float | None = None
    ) -> list[TraceGroup]:
        """Write one trace per sample, near-greedy as the policy is measured, unless another
        temperature is given. Raises TooManyFailures."""
        temperature = self._evaluation_temperature if temperature is None else temperature
        title, purpose = f"evaluate {self._name}", Purpose.EVALUATION
        return await self._write(samples, 1, temperature, purpose, "evaluate", title)

    async def _write(
        self,
        samples: Sequence[Sample],
        k: int,
        temperature: float,
        purpose: Purpose,
        seed_name: str,
        title: str,
    ) -> list[TraceGroup]:
        ids = [f"{self._name}/{purpose}/{sample.id}" for sample in samples]
        archived = await run_in_daemon_thread(
            find_written, self._archive.directory, self._name, set(ids), self.weights, k
        )
        if len(archived):
            left = len(samples) - len(archived)
            console.print(
                f"{self._name}: {len(archived)} archived groups of {purpose} are taken up, {left} "
                "are to be written"
            )
            self.num_taken_up += len(archived)
            figures = {f"{self._name}/num_taken_up": float(self.num_taken_up)}
            self._log.write(EVALUATION, self.weights.now.step, figures)

        groups: list[TraceGroup | None] = [None] * len(samples)

        async def one(number: int) -> None:
            group = await archived.take(ids[number])
            if group is None:
                sampling = Sampling(
                    n=k,
                    temperature=temperature,
                    max_tokens=self._max_tokens,
                    seed=stable_seed(seed_name, self._seed, samples[number].id),
                    turn=number,
                )
                group = await self._writer.write(samples[number], sampling, purpose, ids[number])
            groups[number] = group
            bar.advance()

        with progress_bar(title, len(samples)) as bar:
            await run_bounded(len(samples), self._max_in_flight, one)
        await run_in_daemon_thread(self._archive.compact, self.weights.now.step)
        written = [group for group in groups if group is not None]
        refuse_failures(written, self._max_failure_frac)
        return written
