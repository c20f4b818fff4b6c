"""Groups that an earlier attempt archived and this one trains: none is lost, none trained twice.

    checkpoint's LoopState + archive -> may it be trained? -> groups by place, as they were written

A group keeps its place (``grpo/00000042``) and its policy version, so what was trained can be read
from the archive and the metrics: step s took the places from ``rollout/next_place`` of step s - 1
up to its own, in the last line of metrics.jsonl for each, and of each place the newest group.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

import pyarrow as pa

from cluster.loop_state import LoopState
from wire.archive import read_rows_of, read_tables
from wire.trace_rows import groups_in
from wire.types import PolicyVersion, TraceGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which archived groups may be trained by an attempt that goes on from a checkpoint."""

    state: LoopState
    first_step: int
    """Version step of the weights that the stage started from; the same in every attempt."""
    alike_since: int
    """Attempts from this one on make the same bits: what they wrote would be written again."""
    groups_per_step: int
    max_staleness: int

    def allows(self, version: PolicyVersion, index: int) -> bool:
        """Whether the group of place ``index``, written with ``version``, may be trained.

        No kept step has taken its place, and its weights lead to those that it will train: an
        ancestor's, no older than ``max_staleness`` versions by then (a step takes at least
        ``groups_per_step`` places, so it comes no later than this counts). In a deterministic run
        also those of a lost step: this attempt will have them, too.
        """
        ahead = index - self.state.next_index
        if ahead < 0:
            return False
        if version.attempt >= self.alike_since:
            return True
        trained_from = self.first_step + self.state.step + ahead // self.groups_per_step
        return self._leads_here(version) and trained_from - version.step <= self.max_staleness

    def _leads_here(self, version: PolicyVersion) -> bool:
        return version.step <= self.first_step or any(
            version.attempt == ancestor.attempt and version.step <= ancestor.until
            for ancestor in self.state.ancestors
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What earlier attempts wrote for places that no kept step has taken."""

    usable: dict[str, int]
    """Group id -> attempt, of those that will be trained."""
    num_others: int
    """Places whose groups are kept in the archive, and written anew."""
    num_lost: int
    """Groups that the checkpoint counts on, and the archive has no more."""


def find_groups(archive: Path, name: str, rule: Rule) -> Found:
    """Look through the archive for a stage's training groups. Of each place the newest group
    counts, so that what is trained there can be told from the archive."""
    newest: dict[str, PolicyVersion] = {}
    written: set[str] = set()
    state = rule.state
    writer = state.ancestors[-1].attempt if state.ancestors else -1
    for group_id, version in _versions(archive):
        if version.attempt == writer:
            written.add(group_id)
        known = newest.get(group_id)
        if known is None or version.attempt > known.attempt:
            newest[group_id] = version
    missing = sum(group_id not in newest for group_id in state.buffered)
    own = {
        group_id: version
        for group_id, version in newest.items()
        if (index := place_of(name, group_id)) is not None and index >= state.next_index
    }
    usable = {
        group_id: version.attempt
        for group_id, version in own.items()
        if rule.allows(version, place_of(name, group_id) or 0)
    }
    return Found(
        usable=usable,
        num_others=len(own) - len(usable),
        num_lost=max(missing, state.journal_position - len(written)),
    )


class WrittenBefore:
    """The groups of earlier attempts, each handed out once, as it was written."""

    def __init__(self, rows: Mapping[str, pa.Table] = MappingProxyType({})) -> None:
        self._rows = dict(rows)
        self.num_taken = 0
        """Groups handed out since the start."""

    @classmethod
    def read(cls, archive: Path, found: Found) -> Self:
        """Those that may be trained."""
        return cls(dict(read_rows_of(archive, found.usable)))

    def take(self, group_id: str) -> TraceGroup | None:
        """The group of a place; None if it must be written."""
        rows = self._rows.pop(group_id, None)
        if rows is None:
            return None
        self.num_taken += 1
        (group,) = groups_in(rows, source=f"group {group_id}")
        return group


def group_id_of(name: str, index: int) -> str:
    """The id of the group at a place of a stage or arm."""
    return f"{name}/{index:08d}"


def place_of(name: str, group_id: str) -> int | None:
    """The inverse of :func:`group_id_of`; None for a group that is none of this training."""
    owner, _, index = group_id.rpartition("/")
    return int(index) if owner == name and index.isdigit() else None


def _versions(archive: Path) -> Iterator[tuple[str, PolicyVersion]]:
    """Of each group, as often as it has traces."""
    for table in read_tables(archive, ["group_id", "attempt", "step"]):
        columns = (table[name].to_pylist() for name in ("group_id", "attempt", "step"))
        for group_id, attempt, step in zip(*columns, strict=True):
            yield group_id, PolicyVersion(attempt=attempt, step=step)
