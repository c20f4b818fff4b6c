"""Saves a stage's checkpoints, resumes from the newest intact one, deletes all but the last and the
best.

newest intact one -> learner, LoopState    (a damaged one is put aside, the one before is loaded)
learner, LoopState -> saved -> all but the last and the best are deleted
"""

import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from cluster.config.stages import KEEP_LAST
from cluster.driver.progress import console
from cluster.resume.loop_state import LOOP_FILE, Ancestor, LoopState
from learner import checkpoint
from wire.archive import Archive
from wire.errors import CheckpointDamaged, UserError


class CheckpointedLearner(Protocol):
    """A learner whose state can be saved and loaded."""

    async def save(self, directory: str, tag: str, notes: dict[str, str]) -> None:
        """Write ``directory/tag``, whole or not at all; ``notes``: file name -> text beside it."""
        ...

    async def load(self, directory: str, tag: str) -> None:
        """Load a checkpoint. Raises CheckpointDamaged."""
        ...


class Checkpoints:
    """Checkpoints of one stage of a run."""

    def __init__(
        self,
        directory: Path,
        learner: CheckpointedLearner,
        archive: Archive,
        attempt: int,
        keep_last: int = KEEP_LAST,
        keep_best: int = 0,
    ) -> None:
        """``directory``: of this stage alone; ``attempt``: the number of this attempt."""
        self._directory, self._stage = directory, directory.name
        self._learner, self._archive, self._attempt = learner, archive, attempt
        self._keep_last, self._keep_best = keep_last, keep_best
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

    async def save(self, state: LoopState, version_step: int = 0) -> None:
        """Save a checkpoint, then delete all but the last and the best. ``version_step``: of the
        weights."""
        here = Ancestor(attempt=self._attempt, until=version_step)
        state = replace(
            state,
            ancestors=(*self._ancestors, here),
            journal_position=self._archive.num_groups,
        )
        tag = checkpoint.tag_of(state.step)
        await self._learner.save(str(self._directory), tag, {LOOP_FILE: state.to_json()})
        tags = checkpoint.tags(self._directory)
        kept = {*tags[: self._keep_last], *best_of(self._directory, tags, self._keep_best)}
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


def best_of(directory: Path, tags: Iterable[str], count: int) -> list[str]:
    """Tags of the ``count`` checkpoints with the highest score; of equal scores the newer first."""
    scores = {tag: score for tag in tags if (score := _score(directory / tag)) is not None}
    return sorted(scores, key=lambda tag: (scores[tag], tag), reverse=True)[:count]


def keep_of_finished(directory: Path, count: int, *, keep_last: bool) -> None:
    """Delete the checkpoints of a finished stage but the ``count`` best, unless the last one, whose
    weights the stage exported, is the best. ``keep_last``: the last one stays in any case, for a
    resume that makes the stage longer."""
    tags = checkpoint.tags(directory)
    best = best_of(directory, tags, count)
    if best and best[0] == tags[0]:
        best = []
    kept = {*best, *(tags[:1] if keep_last else ())}
    for tag in set(tags) - kept:
        shutil.rmtree(directory / tag)
    if not kept:
        shutil.rmtree(directory, ignore_errors=True)
    if best:
        console.print(f"{directory} keeps {', '.join(best)}: higher rewards than at the end")


def _score(folder: Path) -> float | None:
    try:
        score = LoopState.read(folder).score
    except UserError:
        return None
    return score if score is not None and math.isfinite(score) else None
