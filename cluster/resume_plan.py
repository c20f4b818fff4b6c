"""Plan of a resume: what its recipe changes, which finished stages go on, and what has to be done
anew because of that.

    run.json + recipe + done.json, checkpoints -> ResumePlan -> RunDir.adopt

Reads only. A stage is to go on ("reopened") while its result is of fewer steps or epochs than the
recipe asks for, so a run that is killed at any moment in between plans the same again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.config.arm_names import ARMS
from cluster.config.controls import control_arms
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.recipe import RunConfig
from cluster.config.resume_rules import ORDER, Change, StageProgress, changes_of
from cluster.config.trainings import training_of
from cluster.run_files import read_result, read_run_recipe, read_started_from
from wire.config import flatten
from wire.errors import ConfigError

_MANIFEST = "manifest.json"  # of a checkpoint, written last (learner/checkpoint.py)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePlan:
    """What a resume changes, and what it does again."""

    changes: tuple[Change, ...] = ()
    """Settings that differ from those of the attempt before."""
    reopened: tuple[str, ...] = ()
    """Finished stages that go on from their last checkpoint, because they are to be longer."""
    restarted: tuple[str, ...] = ()
    """Stages, then control arms, whose weights came from those of a reopened stage, or whose
    settings follow from its length: they are done anew."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Steps or epochs of the finished stages, whose results may not say so (earlier versions)."""
    before: RunConfig | None = None
    """The recipe of the attempt before."""
    predicted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Calibration stage -> names of its predictions beside the verdict's."""

    def also_predicted(self, name: str) -> Sequence[str]:
        """Other names of predictions that a stage writes."""
        return self.predicted.get(name, ())

    def without(self, stage: str) -> "ResumePlan":
        """The rest of the plan, once a stage has finished."""
        if stage not in (*self.reopened, *self.restarted):
            return self
        return replace(
            self,
            reopened=tuple(name for name in self.reopened if name != stage),
            restarted=tuple(name for name in self.restarted if name != stage),
        )


def plan_resume(path: Path, config: RunConfig) -> ResumePlan:
    """Plan how the run in ``path`` goes on with a recipe. Raises UserError if its run.json cannot
    be read, or if the recipe changes what may not change."""
    before = read_run_recipe(path)
    _refuse_other_start(path, before, config)
    old, new = settings_of(before), settings_of(config)
    results = {stage.name: read_result(path, stage.name) for stage in config.chain}
    lengths = {
        name: length
        for name, result in results.items()
        if result is not None and (length := _length_of(result, name, before)) is not None
    }
    progress = {
        name: StageProgress(
            length=_finished_length(results[name], lengths.get(name)),
            step=newest_checkpoint(path, name),
            can_go_on=_can_go_on(path, name, results[name], lengths.get(name)),
            has_policy=results[name] is not None and config.chain[name].leaves_policy,
        )
        for name in results
    }
    reopened = tuple(
        stage.name
        for stage in config.chain
        if (training := training_of(stage)) is not None
        and lengths.get(stage.name, training.length) < training.length
    )
    restarted = _restarted(config, before, reopened)
    anew = {
        name: replace(progress[name], length=None, step=None)
        for name in restarted
        if name in progress
    }
    return ResumePlan(
        changes=changes_of(old, new, progress | anew, str(path)),
        reopened=reopened,
        restarted=restarted,
        lengths=lengths,
        before=before,
        predicted={s.name: s.also_predicted for s in config.chain if isinstance(s, CalibrateStage)},
    )


def _refuse_other_start(path: Path, before: RunConfig, config: RunConfig) -> None:
    record = read_started_from(path)
    if record is not None and before.model != config.model:
        raise ConfigError(
            f"the run in {path} started from {record.get('run')}:{record.get('stage')}, and this "
            f"resume from {config.model}; give --from {record.get('run')}:{record.get('stage')} "
            "again"
        )


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Settings by dotted names, those of a stage as ``stages.NAME.key``."""
    values = config.model_dump(mode="json")
    stages = {stage["name"]: stage for stage in values.get("stages", ())}
    order = {ORDER.partition(".")[2]: list(stages)} if stages else {}
    return flatten({**values, "stages": {**order, **stages}})


def newest_checkpoint(path: Path, stage: str) -> int | None:
    """Step of the newest whole checkpoint of a stage of the run in ``path``, by its name."""
    marks = (path / "checkpoints" / stage).glob(f"step-*/{_MANIFEST}")
    numbers = [mark.parent.name.removeprefix("step-") for mark in marks]
    return max((int(number) for number in numbers if number.isdigit()), default=None)


def _length_of(result: Mapping[str, Any], name: str, before: RunConfig) -> int | None:
    """Steps or epochs that a result is of; of earlier versions: as the recipe said."""
    if isinstance(length := result.get("length"), int):
        return length
    training = training_of(before.chain.get(name, None))
    return None if training is None else training.length


def _finished_length(result: Mapping[str, Any] | None, length: int | None) -> int | None:
    return None if result is None else length or 0


def _can_go_on(path: Path, name: str, result: Mapping[str, Any] | None, length: int | None) -> bool:
    """Whether a finished stage's last checkpoint is there, or a newer one of its way on."""
    last = (result or {}).get("last_step", length)
    newest = newest_checkpoint(path, name)
    return last is not None and newest is not None and newest >= last


def _restarted(config: RunConfig, before: RunConfig, reopened: Sequence[str]) -> tuple[str, ...]:
    if not reopened:
        return ()
    after = {name for stage in reopened for name in config.chain.dependents(stage)}
    stages = [name for name in config.chain.names if name in after]
    arms, earlier = control_arms(config), control_arms(before)
    changed = {*reopened, *after}
    return (
        *stages,
        *(
            name
            for name in ARMS
            if {arms[name].after, arms[name].stage.from_} & changed
            or arms[name].stage != earlier[name].stage
        ),
    )
