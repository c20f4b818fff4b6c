"""Weights of a version of the policy, from what its run saves: the model that the stage started
from, a checkpoint, or the model that the stage left.

    MeasuredVersion -> find_weights -> Saved | NotYet | Gone
    Saved -> hold   -> hard links, which stay when the run deletes the checkpoint
          -> export -> Hugging Face directory
"""

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.config.chain import BASE
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.recipe import RunConfig
from cluster.fitting.watch_versions import MeasuredVersion
from cluster.resume.loop_state import Ancestor, LoopState
from cluster.run_files import read_history, read_result
from learner.checkpoint import read_manifest, step_of, tag_of, tags
from wire.errors import UserError
from wire.types import PolicyVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """Weights on disk: a Hugging Face directory, or a checkpoint to make one from."""

    folder: Path
    is_checkpoint: bool
    ancestors: tuple[Ancestor, ...] = ()
    """Attempts that the weights build on, as the checkpoint says; none for a model."""

    def versions(self, version: PolicyVersion, count: int) -> frozenset[PolicyVersion]:
        """The versions of the last ``count`` steps that led to these weights, which are those of
        ``version``; the weights that a resume started from have two."""
        steps = range(max(0, version.step - count + 1), version.step + 1)
        own = {PolicyVersion(attempt=version.attempt, step=version.step)}
        if not self.ancestors:
            own |= {PolicyVersion(attempt=version.attempt, step=step) for step in steps}
        since = 0
        for one in self.ancestors:
            led = [step for step in steps if since <= step <= one.until]
            own |= {PolicyVersion(attempt=one.attempt, step=step) for step in led}
            since = one.until
        return frozenset(own)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotYet:
    """Weights that the run is about to save."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """Weights that cannot be had."""

    reason: str
    """Why, and what would keep them the next time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedStage:
    """The GRPO stage of a run whose versions are watched."""

    run: Path
    config: RunConfig
    stage: GrpoStage

    @property
    def start_model(self) -> Path:
        """The model that the stage started from."""
        parent = self.config.chain.parent(self.stage.name)
        return self.config.model if parent == BASE else model_of(self.run, parent)

    @property
    def checkpoints(self) -> Path:
        """Where the stage saves its checkpoints."""
        return self.run / "checkpoints" / self.stage.name

    @property
    def result(self) -> Mapping[str, Any] | None:
        """What the stage left (done.json), once it has finished."""
        return read_result(self.run, self.stage.name)


def model_of(run: Path, stage: str) -> Path:
    """Where a stage of a run leaves its model."""
    return run / "stages" / stage / "model"


def find_weights(
    watched: WatchedStage, measured: MeasuredVersion, *, newest_attempt: int, runs: bool
) -> Saved | NotYet | Gone:
    """Where the weights of a version are. ``newest_attempt``: the newest of those that measured
    this step; ``runs``: whether the run goes on."""
    stage, step, attempt = watched.stage, measured.step, measured.version.attempt
    beginning = read_history(watched.run).beginnings.get(stage.name, 0)
    if attempt < beginning:
        return Gone(reason=f"attempt {beginning} began the stage anew")
    if step == 0:
        return Saved(folder=watched.start_model, is_checkpoint=False)
    folder = watched.checkpoints / tag_of(step)
    if folder.name in tags(watched.checkpoints):
        return _of_attempt(folder, attempt)
    if attempt < newest_attempt:
        return Gone(reason=f"attempt {newest_attempt} trained step {step} again")
    if (left := watched.result) is not None and _left_step(left, stage) == step:
        return Saved(folder=model_of(watched.run, stage.name), is_checkpoint=False)
    saved = [step_of(tag) for tag in tags(watched.checkpoints)]
    if not stage.saves_at(step):
        return Gone(
            reason=f"step {step} is not saved ({stage.name}.save_every = {stage.save_every}); the "
            "next better version that is saved will be fitted. validate.restore_best = true saves "
            "every step that is validated"
        )
    if runs and max(saved, default=0) < step:
        return NotYet()
    return Gone(
        reason=f"its checkpoint was deleted before it could be read ({stage.name}.keep_last = "
        f"{stage.keep_last}); a higher keep_last leaves more time"
    )


def _of_attempt(folder: Path, attempt: int) -> Saved | Gone:
    """A checkpoint, if an attempt's version has its weights: that attempt wrote it, or went on from
    it (one that trained the step itself has saved over it)."""
    try:
        ancestors = LoopState.read(folder).ancestors
    except UserError as error:
        return Gone(reason=str(error))
    if ancestors and ancestors[-1].attempt > attempt:
        return Gone(reason=f"attempt {ancestors[-1].attempt} trained the step again")
    return Saved(folder=folder, is_checkpoint=True, ancestors=ancestors)


def _left_step(result: Mapping[str, Any], stage: GrpoStage) -> int:
    """The step whose weights a finished stage left."""
    validation = result.get("validation") or {}
    return int(validation.get("left_step", result.get("length", stage.num_steps)))


def hold(weights: Saved, folder: Path) -> Saved:
    """Hold a checkpoint so that the run may delete its own: by hard links, or where the file system
    has none, copies. Models of stages are held as they are. Raises FileNotFoundError or
    CheckpointDamaged if the run was faster."""
    if not weights.is_checkpoint:
        return weights
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in sorted(weights.folder.iterdir()):
        _link(file, partial / file.name)
    if missing := [n for n in read_manifest(partial).files if not (partial / n).exists()]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), missing[0])
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return replace(weights, folder=folder)


def held_before(folder: Path) -> Saved | None:
    """A checkpoint that an earlier watcher held, and had not fitted when it ended; None without."""
    if not folder.is_dir():
        return None
    ancestors = LoopState.read(folder).ancestors
    return Saved(folder=folder, is_checkpoint=True, ancestors=ancestors)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copy2(source, target)


def export(watched: WatchedStage, weights: Saved, folder: Path) -> Path:
    """A Hugging Face directory with these weights: the model of a stage itself, or what is made of
    a checkpoint in ``folder``. Raises CheckpointDamaged."""
    if not weights.is_checkpoint:
        return weights.folder
    from learner.export import export_checkpoint  # torch

    export_checkpoint(weights.folder, watched.start_model, watched.config.learner, folder)
    return folder
