"""Training groups by place: each is written anew, or taken from the archive as it was written."""

from typing import Protocol

from cluster.config.recipe import RunConfig
from cluster.resume.archived_groups import ArchivedGroups, group_id_of
from rollout.config import RolloutConfig
from rollout.engine import Sampling
from rollout.prompt import PromptKind
from wire.types import Purpose, Sample, TraceGroup, stable_seed


class OneGroupWriter(Protocol):
    """Writes one group; cluster/group_writer.py implements it."""

    async def write(
        self,
        sample: Sample,
        sampling: Sampling,
        purpose: Purpose,
        group_id: str,
        upcoming: Sample | None = None,
        ask: PromptKind = "trace",
    ) -> TraceGroup:
        """Write and archive a group."""
        ...


class TrainingGroupWriter:
    """Writes the training group of a place, or reuses the one of an earlier attempt."""

    def __init__(
        self,
        writer: OneGroupWriter,
        name: str,
        archived: ArchivedGroups,
        rollout: RolloutConfig,
        *,
        seed: int | None,
    ) -> None:
        """``name``: of the stage or arm; ``seed``: from which, with the place, each group's comes,
        so that a resumed run samples the same; none: groups are not seeded."""
        self._writer, self._name, self._archived = writer, name, archived
        self._rollout, self._seed = rollout, seed

    async def write(self, sample: Sample, index: int, upcoming: Sample | None = None) -> TraceGroup:
        """Write or reuse one archived group."""
        group_id = group_id_of(self._name, index)
        if (group := await self._archived.take(group_id)) is not None:
            return group
        sampling = Sampling(
            n=self._rollout.group_size,
            temperature=self._rollout.temperature,
            for_training=True,
            max_tokens=self._rollout.max_response_length,
            seed=None if self._seed is None else stable_seed(self._name, self._seed, index),
            turn=index,
        )
        return await self._writer.write(sample, sampling, Purpose.TRAIN, group_id, upcoming)


def groups_in_flight(config: RunConfig) -> int:
    """Number of groups that are written at a time: as many as the engines answer, and as many again
    that are judged and archived meanwhile."""
    return 2 * config.rollout.max_concurrency * config.rollout.num_workers
