"""Saves a stage's checkpoints, resumes from the newest intact one, deletes all but the last and the
best.

newest intact one -> learner, LoopState    (a damaged one is put aside, the one before is loaded)
learner, LoopState -> saved -> all but the last and the best are deleted
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from cluster.config.stages import KEEP_LAST
from cluster.config.validation import PREFIX, Mode
from cluster.driver.progress import console
from cluster.resume.loop_state import LOOP_FILE, Ancestor, LoopState
from learner import checkpoint
from wire.errors import CheckpointDamaged, UserError


class CheckpointedLearner(Protocol):
    """A learner whose state can be saved and loaded."""

    async def save(self, directory: str, tag: str, notes: dict[str, str]) -> None:
        """Write ``directory/tag``, whole or not at all; ``notes``: file name -> text beside it."""
        ...

    async def load(self, directory: str, tag: str) -> None:
        """Load a checkpoint. Raises CheckpointDamaged."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepBest:
    """How many of the best checkpoints are kept, and by which metric.

    Example:
        KeepBest(count=1, metric="val/accuracy")
    """

    count: int = 0
    metric: str = "reward/mean"
    mode: Mode = "max"


class CountsGroups(Protocol):
    """Counts what an attempt has archived; wire/archive/archive.py implements it."""

    @property
    def num_groups(self) -> int:
        """Groups appended so far."""
        ...


class Checkpoints:
    """Checkpoints of one stage of a run."""

    def __init__(
        self,
        directory: Path,
        learner: CheckpointedLearner,
        archive: CountsGroups,
        attempt: int,
        keep_last: int = KEEP_LAST,
        keep_best: Sequence[KeepBest] = (),
        *,
        prompts: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """``directory``: of this stage alone; ``attempt``: the number of this attempt;
        ``prompts``: versions of the prompts' wording."""
        self._directory, self._stage = directory, directory.name
        self._learner, self._archive, self._attempt = learner, archive, attempt
        self._keep_last, self._keep_best = keep_last, keep_best
        self._prompts = dict(prompts)
        self._ancestors: tuple[Ancestor, ...] = ()

    async def resume(self) -> LoopState:
        """Load the newest intact checkpoint; returns its LoopState, or the start without one.

        A damaged checkpoint is reported by name and renamed to ``damaged-TAG``.
        """
        for tag in checkpoint.tags(self._directory):
            try:
                await self._learner.load(str(self._directory), tag)
                state = LoopState.read(self._directory / tag)
            except CheckpointDamaged as error:
                self._put_aside(tag, error)
                continue
            console.print(f"{self._stage}: going on from checkpoint {tag}")
            self._ancestors = state.ancestors
            return state
        return LoopState()

    async def go_back(self, step: int) -> None:
        """Load the checkpoint of an earlier step into the learner. Raises CheckpointDamaged."""
        await self._learner.load(str(self._directory), checkpoint.tag_of(step))

    async def save(self, state: LoopState, version_step: int = 0) -> None:
        """Save a checkpoint, then delete all but the last and the best. ``version_step``: of the
        weights."""
        here = Ancestor(attempt=self._attempt, until=version_step)
        state = replace(
            state,
            ancestors=(*self._ancestors, here),
            journal_position=self._archive.num_groups,
            prompts=self._prompts,
        )
        tag = checkpoint.tag_of(state.step)
        await self._learner.save(str(self._directory), tag, {LOOP_FILE: state.to_json()})
        tags = checkpoint.tags(self._directory)
        kept = set(tags[: self._keep_last])
        for best in self._keep_best:
            kept.update(best_of(self._directory, tags, best))
        for old in set(tags) - kept:
            shutil.rmtree(self._directory / old)

    def _put_aside(self, tag: str, error: CheckpointDamaged) -> None:
        aside = self._directory / f"damaged-{tag}"
        shutil.rmtree(aside, ignore_errors=True)
        (self._directory / tag).rename(aside)
        before = checkpoint.tags(self._directory)
        instead = f"checkpoint {before[0]} is tried" if before else "the stage starts anew"
        text = f"{self._stage}: REFUSED: {error}. It is now {aside.name}; {instead} instead"
        console.print(text, style="bold red", soft_wrap=True)


def best_of(directory: Path, tags: Sequence[str], best: KeepBest) -> list[str]:
    """Tags of the best checkpoints by a metric, newest first in ``tags``; of equal scores the newer
    first."""
    if not tags or not best.count:
        return []
    if best.metric.startswith(PREFIX):
        scores = _validated(directory / tags[0], best.metric)
    else:
        scores = {tag: _score(directory / tag, best.metric) for tag in tags}
    sign = 1 if best.mode == "max" else -1
    known = {tag: sign * scores[tag] for tag in tags if math.isfinite(scores.get(tag, math.nan))}
    return sorted(known, key=lambda tag: (known[tag], tag), reverse=True)[: best.count]


def keep_of_finished(
    directory: Path, best: KeepBest, *, keep_last: bool, left_step: int | None = None
) -> None:
    """Delete the checkpoints of a finished stage but the best, unless the one whose weights the
    stage left, of ``left_step`` or else the last, is the best. ``keep_last``: the last one stays in
    any case, for a resume that makes the stage longer."""
    tags = checkpoint.tags(directory)
    left = tags[:1] if left_step is None else [checkpoint.tag_of(left_step)]
    kept_best = best_of(directory, tags, best)
    if kept_best and kept_best[0] in left:
        kept_best = []
    # a longer stage may go back to what this one left
    kept = {*kept_best, *({*tags[:1], *left} if keep_last else ())}
    for tag in set(tags) - kept:
        shutil.rmtree(directory / tag)
    if not kept & set(tags):
        shutil.rmtree(directory, ignore_errors=True)
    if kept_best:
        names = ", ".join(kept_best)
        console.print(f"{directory} keeps {names}: better {best.metric} than at the end")


def _score(folder: Path, metric: str) -> float:
    """Score of a checkpoint; NaN without one by this metric."""
    try:
        state = LoopState.read(folder)
    except UserError:
        return math.nan
    return state.score if state.score is not None and state.scored_by == metric else math.nan


def _validated(newest: Path, metric: str) -> Mapping[str, float]:
    """Tag -> value of a metric of validation, as the newest checkpoint remembers it."""
    try:
        validations = LoopState.read(newest).validations
    except UserError:
        return {}
    return {checkpoint.tag_of(v.step): v.figures.get(metric, math.nan) for v in validations}
