"""Trace writer: the policy's own traces from a run's engines, for evaluation and calibration.

samples -> GroupWriter, all at once -> archive compacted -> groups, or TooManyFailures
"""

from collections.abc import Callable, Sequence
from typing import Protocol, Self

from cluster.driver.progress import progress_bar
from cluster.session import Session
from cluster.stages.failure_limits import refuse_failures
from rollout.engine import Sampling
from wire.archive import Archive
from wire.types import Purpose, Sample, TraceGroup, stable_seed


class GroupsWriter(Protocol):
    """Writes one group per sample; cluster/group_writer.py implements it."""

    async def write_all(
        self,
        samples: Sequence[Sample],
        sampling_of: Callable[[Sample], Sampling],
        purpose: Purpose,
        stage: str,
        advance: Callable[[], None],
    ) -> list[TraceGroup]:
        """Write and archive the groups, in the order of ``samples``."""
        ...


class RunTraceWriter:
    """calibrate's TraceWriter on the run's rollout engines, for a stage or arm of this name."""

    def __init__(
        self,
        name: str,
        writer: GroupsWriter,
        archive: Archive,
        *,
        seed: int,
        max_tokens: int,
        evaluation_temperature: float,
        max_failure_frac: float,
    ) -> None:
        """``seed``: the recipe's; ``max_tokens``: of a trace."""
        self._name, self._writer, self._archive = name, writer, archive
        self._seed, self._max_tokens = seed, max_tokens
        self._evaluation_temperature = evaluation_temperature
        self._max_failure_frac = max_failure_frac

    @classmethod
    def of(cls, session: Session, name: str) -> Self:
        """With the engines and settings of a run."""
        config = session.config
        return cls(
            name,
            session.writer,
            session.archive,
            seed=config.seed,
            max_tokens=config.rollout.max_response_length,
            evaluation_temperature=config.evaluate.temperature,
            max_failure_frac=config.reward.max_failure_frac,
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
        def sampling(sample: Sample) -> Sampling:
            return Sampling(
                n=k,
                temperature=temperature,
                max_tokens=self._max_tokens,
                seed=stable_seed(seed_name, self._seed, sample.id),
            )

        with progress_bar(title, len(samples)) as bar:
            groups = await self._writer.write_all(
                samples, sampling, purpose, self._name, bar.advance
            )
        self._archive.compact(groups[0].policy_version.step)
        refuse_failures(groups, self._max_failure_frac)
        return groups
