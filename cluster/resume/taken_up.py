"""Traces that a stage takes up from earlier attempts instead of writing them anew: those that the
weights wrote which the engines serve now.

    attempts.jsonl, checkpoint, recipes -> SameWeights -> archive -> ArchivedGroups

Weights that a stage starts from are an export, which nothing changes while the stage is to be done
(a resume that does change them begins it anew). Weights that a stage has trained are those of its
last checkpoint: what its writer, and attempts that went on from it, served as the last version.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from cluster.config.arm_names import ARMS
from cluster.config.chain import BASE
from cluster.config.controls import own_step
from cluster.config.recipe import RunConfig
from cluster.resume.archived_groups import ArchivedGroups, Renumbered, renumbered
from cluster.resume.attempts import first_own_attempt, read_attempts
from cluster.resume.loop_state import LoopState
from cluster.run_dir import RunDir
from learner.checkpoint import tags
from wire.archive.group_reader import index_groups
from wire.types import PolicyVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class SameWeights:
    """Policy versions, of this attempt and of earlier ones, that name the weights served now.

    Example:
        SameWeights(now=PolicyVersion(attempt=2, step=241), attempts=frozenset({1}))
    """

    now: PolicyVersion
    attempts: frozenset[int] = frozenset()
    """Earlier attempts whose version of this step names the same weights."""
    renumbered: tuple[Renumbered, ...] = ()
    """Steps that the weights had by the recipes of earlier attempts, oldest first."""

    def __contains__(self, version: object) -> bool:
        if not isinstance(version, PolicyVersion) or version == self.now:
            return version == self.now
        if version.attempt not in self.attempts:
            return False
        for earlier in self.renumbered:
            if version.attempt < earlier.before_attempt:
                return version.step == earlier.first_step
        return version.step == self.now.step


def same_weights(
    config: RunConfig, run_dir: RunDir, name: str, now: PolicyVersion, *, trained: bool
) -> SameWeights:
    """The versions that name the weights served as ``now`` to a stage or arm. ``trained``: it has
    trained them itself; else it started from them."""
    since = first_own_attempt(run_dir.path, name)
    if trained:
        since = max(since, _writer_of_checkpoint(run_dir.checkpoints(name), now.attempt))
    wording = config.prompt_set.versions
    return SameWeights(
        now=now,
        attempts=frozenset(
            number
            for number, attempt in read_attempts(run_dir.path).items()
            if since <= number < now.attempt and _asked_alike(attempt.prompts, wording)
        ),
        renumbered=renumbered(run_dir, now.attempt, _step_in_recipes(config, name, now.step)),
    )


def find_written(
    archive: Path, name: str, wanted: Set[str], weights: SameWeights, num_traces: int
) -> ArchivedGroups:
    """Archived groups of a stage or arm, with the ids ``wanted``, that need not be written again:
    of each the newest, where these weights wrote it, with all its traces, and each has its
    score."""
    newest = {
        group.group_id: group
        for group in index_groups(archive, f"{name}/")
        if group.group_id in wanted
    }
    return ArchivedGroups(
        {
            group_id: group.place
            for group_id, group in newest.items()
            if group.version in weights
            and group.num_traces == num_traces
            and not group.num_failures
        }
    )


def _asked_alike(earlier: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether the texts that an earlier attempt knew are worded now as then; later programs know
    further ones."""
    return bool(earlier) and earlier.items() <= now.items()


def _writer_of_checkpoint(folder: Path, now: int) -> int:
    """The attempt that wrote the newest checkpoint in a folder; -1 if there is none: nothing has
    been trained. Of one that does not say so, the present attempt."""
    newest = tags(folder)
    if not newest:
        return -1
    ancestors = LoopState.read(folder / newest[0]).ancestors
    return ancestors[-1].attempt if ancestors else now


def _step_in_recipes(config: RunConfig, name: str, step: int) -> Callable[[RunConfig], int]:
    """Version step of the same weights by another recipe of the run."""
    chain = config.chain
    leaving = [stage for stage in chain.names if chain[stage].leaves_policy]
    for owner in (BASE, *leaving):
        if chain.last_step(owner) == step:
            return lambda recipe: recipe.chain.last_step(owner)
    arm = next((arm for arm in ARMS if arm == name), None)
    if arm is None:
        return lambda _: step
    ahead = step - own_step(config, arm)
    return lambda recipe: own_step(recipe, arm) + ahead
