"""Trace writer of calibration: the policy's own traces, from the run's engines."""

from collections.abc import Sequence

from cluster.driver.progress import progress_bar
from cluster.session import Session
from cluster.stages.evaluation import write_evaluation_traces
from cluster.stages.failure_limits import refuse_failures
from rollout.engine import Sampling
from wire.types import Purpose, Sample, TraceGroup, stable_seed


class RunTraceWriter:
    """calibrate's TraceWriter on the run's rollout engines, for a stage or arm of this name."""

    def __init__(self, session: Session, name: str) -> None:
        self._session, self._name = session, name

    async def write(
        self, samples: Sequence[Sample], k: int, temperature: float, purpose: Purpose
    ) -> list[TraceGroup]:
        """Write ``k`` traces per sample, kept right or wrong. Raises TooManyFailures."""
        session = self._session

        def sampling(sample: Sample) -> Sampling:
            return Sampling(
                n=k,
                temperature=temperature,
                max_tokens=session.config.rollout.max_response_length,
                seed=stable_seed(purpose, session.config.seed, sample.id),
            )

        with progress_bar(f"{purpose} traces", len(samples)) as bar:
            groups = await session.writer.write_all(
                samples, sampling, purpose, self._name, bar.advance
            )
        session.archive.compact(groups[0].policy_version.step)
        refuse_failures(groups, session.config.reward.max_failure_frac)
        return groups

    async def write_evaluation(self, samples: Sequence[Sample]) -> list[TraceGroup]:
        """Write one near-greedy trace per sample. Raises TooManyFailures."""
        temperature = self._session.config.evaluate.temperature
        return await write_evaluation_traces(self._session, self._name, samples, temperature)
