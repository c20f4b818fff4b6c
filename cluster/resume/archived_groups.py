"""Reuse of archived groups on resume: groups that an earlier attempt wrote and this one trains.
None is lost, none trained twice.

    checkpoint's LoopState + archive -> ReusePolicy -> ReusableGroups -> ArchivedGroups by place

A group keeps its place (``grpo/00000042``) and its policy version, so what was trained can be read
from the archive and the metrics: step s took the places from ``rollout/next_place`` of step s - 1
up to its own, in the last line of metrics.jsonl for each, and of each place the newest group.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

from cluster.config.arm_names import ARMS
from cluster.config.controls import own_step
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.recipe import RunConfig
from cluster.resume.attempts import (
    describe_attempt,
    first_bitwise_equal_attempt,
    first_own_attempt,
)
from cluster.resume.loop_state import LoopState
from cluster.run_dir import RunDir
from wire.archive.archive import read_tables
from wire.archive.group_reader import GroupReader, Place, index_groups
from wire.types import PolicyVersion, TraceGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Renumbered:
    """Version step of a stage's start weights in attempts before one that changed the length of an
    earlier stage, and with it the numbers of all versions after that.

    Example:
        Renumbered(before_attempt=2, first_step=241)
    """

    before_attempt: int
    first_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusePolicy:
    """Decides which archived groups an attempt that resumes from a checkpoint may train."""

    state: LoopState
    first_step: int
    """Version step of the weights that the stage started from, in this attempt."""
    first_bitwise_equal_attempt: int
    """Attempts from this number on give bitwise equal results: they would write the same groups."""
    groups_per_step: int
    max_staleness: int
    first_attempt: int = 0
    """The attempt that the training began with: groups of earlier ones are of a training that a
    resume has replaced, whatever their version steps say."""
    renumbered: tuple["Renumbered", ...] = ()
    """Earlier attempts whose recipes gave the stage other version steps, oldest first."""

    def allows(self, version: PolicyVersion, index: int) -> bool:
        """Whether the group of place ``index``, written with ``version``, may be trained.

        It may if no kept step has taken its place, and the policy being trained descends from its
        weights: they are an ancestor's, no older than ``max_staleness`` versions when the step
        comes (a step takes at least ``groups_per_step`` places, so it comes no later than counted
        here). In a deterministic run the weights of a lost step count too: this attempt makes the
        same ones again.
        """
        ahead = index - self.state.next_index
        if ahead < 0 or version.attempt < self.first_attempt:
            return False
        if version.attempt >= self.first_bitwise_equal_attempt:
            return True
        at, written_at = self.state.step + ahead // self.groups_per_step, self._in_stage(version)
        return self._is_ancestor(version) and at - written_at <= self.max_staleness

    def _is_ancestor(self, version: PolicyVersion) -> bool:
        return self._in_stage(version) <= 0 or any(
            version.attempt == ancestor.attempt and version.step <= ancestor.until
            for ancestor in self.state.ancestors
        )

    def _in_stage(self, version: PolicyVersion) -> int:
        """Steps of the stage that led to a version: its step, less the one that the stage's start
        weights had in that attempt."""
        for earlier in self.renumbered:
            if version.attempt < earlier.before_attempt:
                return version.step - earlier.first_step
        return version.step - self.first_step


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusableGroups:
    """Archived groups at places that no kept step has taken: which will be trained, how many
    not."""

    name: str
    """Of the stage or arm."""
    reuse: ReusePolicy
    usable: dict[str, int]
    """Group id -> attempt, of the groups that will be trained."""
    num_others: int
    """Places whose archived groups may not be trained: rollout writes them anew."""
    num_lost: int
    """Groups that the checkpoint refers to and the archive lacks."""


def find_reusable_groups(archive: Path, name: str, reuse: ReusePolicy) -> ReusableGroups:
    """Find a stage's training groups in the archive. Of each place the newest group counts, so that
    the archive alone shows which group was trained there."""
    newest: dict[str, PolicyVersion] = {}
    written: set[str] = set()
    state = reuse.state
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
        if reuse.allows(version, place_of(name, group_id) or 0)
    }
    return ReusableGroups(
        name=name,
        reuse=reuse,
        usable=usable,
        num_others=len(own) - len(usable),
        num_lost=max(missing, state.journal_position - len(written)),
    )


class ArchivedGroups:
    """Archived groups of earlier attempts, each handed out once, as it was written; read when it is
    asked for."""

    def __init__(self, places: Mapping[str, Place] = MappingProxyType({})) -> None:
        """``places``: where each group lies, by its id."""
        self._left, self._reader = set(places), GroupReader(places)
        self.num_taken = 0
        """Number of groups handed out since the start."""

    @classmethod
    def of(cls, archive: Path, reusable: ReusableGroups) -> Self:
        """The reusable groups of a training."""
        return cls(
            {
                group.group_id: group.place
                for group in index_groups(archive, f"{reusable.name}/")
                if reusable.usable.get(group.group_id) == group.version.attempt
            }
        )

    def __len__(self) -> int:
        return len(self._left)

    async def take(self, group_id: str) -> TraceGroup | None:
        """Take the group of this id; None if rollout must write it. Raises ArchiveError."""
        if group_id not in self._left:
            return None
        self._left.remove(group_id)
        self.num_taken += 1
        return await asyncio.get_running_loop().run_in_executor(None, self._reader.group, group_id)


def group_id_of(name: str, index: int) -> str:
    """The id of the group at a place of a stage or arm."""
    return f"{name}/{index:08d}"


def place_of(name: str, group_id: str) -> int | None:
    """The place in a group id, inverse of :func:`group_id_of`; None for another training's
    group."""
    owner, _, index = group_id.rpartition("/")
    return int(index) if owner == name and index.isdigit() else None


def _versions(archive: Path) -> Iterator[tuple[str, PolicyVersion]]:
    """Group id and policy version of each archived trace."""
    for table in read_tables(archive, ["group_id", "attempt", "step"]):
        columns = (table[name].to_pylist() for name in ("group_id", "attempt", "step"))
        for group_id, attempt, step in zip(*columns, strict=True):
            yield group_id, PolicyVersion(attempt=attempt, step=step)


def reusable_groups(
    config: RunConfig,
    run_dir: RunDir,
    grpo: GrpoStage,
    first_step: int,
    state: LoopState,
    attempt: int,
    known: ReusableGroups | None = None,
) -> ReusableGroups:
    """Archived groups of this training that an attempt which resumes from ``state`` may reuse;
    ``known``: an earlier result, returned if it is for the same training and state."""
    reuse = ReusePolicy(
        state=state,
        first_step=first_step,
        first_bitwise_equal_attempt=first_bitwise_equal_attempt(
            run_dir.path, describe_attempt(config, attempt)
        ),
        groups_per_step=grpo.groups_per_step,
        max_staleness=grpo.max_staleness,
        first_attempt=first_own_attempt(run_dir.path, grpo.name),
        renumbered=renumbered(run_dir, attempt, lambda recipe: first_step_in(recipe, grpo.name)),
    )
    if known is not None and (known.name, known.reuse) == (grpo.name, reuse):
        return known
    return find_reusable_groups(run_dir.archive, grpo.name, reuse)


def renumbered(
    run_dir: RunDir, attempt: int, first_step: Callable[[RunConfig], int]
) -> tuple[Renumbered, ...]:
    """How the recipes of earlier attempts numbered a stage's start weights. ``first_step``: their
    number by a recipe; ``attempt``: the present one."""
    recipes = dict(run_dir.earlier_recipes())
    if run_dir.plan.changes and run_dir.plan.before is not None:  # not yet put into effect
        recipes.setdefault(attempt, run_dir.plan.before)
    return tuple(
        Renumbered(before_attempt=before, first_step=first_step(recipe))
        for before, recipe in sorted(recipes.items())
    )


def first_step_in(recipe: RunConfig, name: str) -> int:
    """Version step of the weights that a stage or arm starts from, by a recipe of the run."""
    arm = next((arm for arm in ARMS if arm == name), None)
    return recipe.chain.first_step(name) if arm is None else own_step(recipe, arm)
