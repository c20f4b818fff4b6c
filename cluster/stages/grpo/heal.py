"""Groups that a step of GRPO has trained, read from the archive again where a lost learner rank is
healed (cluster/actors/learner_healing.py).

    groups of a step -> TrainedStep: their ids, hashes of their traces -> archive -> the same groups

In memory are some bytes per trace; the traces themselves are read when they are needed.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.actors.deadlines import on_disk
from wire.archive.archive import Archive
from wire.archive.group_reader import GroupReader, index_groups
from wire.errors import ArchiveError
from wire.types import Trace, TraceGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStep:
    """What a step has trained: the ids of its groups in their order, and a hash of each trace that
    counted, since some may have been left out.

    Example:
        TrainedStep(groups={"grpo/00000042": (3735928559, 195936478)})
    """

    groups: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, groups: Sequence[TraceGroup]) -> "TrainedStep":
        """Of groups as they are trained."""
        return cls(groups={group.group_id: tuple(map(_hash, group.scored)) for group in groups})


class TrainedGroups:
    """Reads the groups of trained steps from the archive of a run that goes on."""

    def __init__(self, archive: Archive, name: str) -> None:
        """``name``: of the stage or arm."""
        self._archive, self._name = archive, name
        self._reader = GroupReader({})

    async def read(self, step: TrainedStep, version: int) -> list[TraceGroup]:
        """The groups as they were trained. ``version``: step of the newest weights, after which a
        new file of the archive is named. Raises ArchiveError."""
        return await on_disk("give back trained groups", self._read, step, version)

    def _read(self, step: TrainedStep, version: int) -> list[TraceGroup]:
        if not all(group_id in self._reader for group_id in step.groups):
            self._archive.compact(version)  # groups of the last step may be in the journal still
            first, own = min(step.groups), index_groups(self._archive.directory, f"{self._name}/")
            self._reader = GroupReader({g.group_id: g.place for g in own if g.group_id >= first})
        return [
            _as_trained(self._reader.group(group_id), hashes)
            for group_id, hashes in step.groups.items()
            if hashes
        ]


def _as_trained(group: TraceGroup, hashes: Sequence[int]) -> TraceGroup:
    """A group without the traces that did not count."""
    left, traces = Counter(hashes), []
    for trace in group.scored:
        mark = _hash(trace)
        if left[mark]:
            left[mark] -= 1
            traces.append(trace)
    if len(traces) < len(hashes):
        raise ArchiveError(
            f"group {group.group_id!r} of the archive lacks {len(hashes) - len(traces)} of the "
            f"{len(hashes)} traces that were trained; --resume goes on from the last checkpoint"
        )
    return replace(group, traces=tuple(traces))


def _hash(trace: Trace) -> int:
    completion = trace.completion
    return zlib.crc32(completion.token_ids.tobytes() + completion.logprobs.tobytes())
