"""Control arms: measurements beside the four stages that each stage is compared with.

    finished stages + recipe -> arms that have not finished -> predictions/ARM.parquet, done.json

An arm writes the files that a stage writes, except a model, and changes no stage's files. The
function of an arm says what it measures (cluster/controls/policy_arms.py,
cluster/controls/verdict_arms.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from cluster.config.controls import ARMS, ArmName
from cluster.config.recipe import RunConfig
from cluster.controls import policy_arms as policy
from cluster.controls import verdict_arms as verdict
from cluster.controls.arm_inputs import calibration_clips
from cluster.driver.daemon_thread import run_in_daemon_thread
from cluster.driver.peak_memory import MemoryWatch
from cluster.driver.progress import console
from cluster.inputs.preflight import bring_model
from cluster.inputs.samples import SampleSplits
from cluster.run import finish_all
from cluster.run_dir import RunDir
from cluster.session import Session, open_session
from cluster.stages.policy_versions import model_after
from cluster.stages.stage import Stage, StageFn, run_stage
from video.address import View
from wire.errors import ConfigError, DataError
from wire.types import Sample, Split

_REMEDY = "leave the arm out (controls.arms, or --only with the others)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One control arm: its function, and the stages and clips that it needs."""

    run: StageFn
    start: str
    """Stage whose policy the arm starts from; base: the recipe's model."""
    after: str
    """Last stage that must have finished."""
    loads_engines: bool = True
    """Whether the arm writes traces with its start weights."""
    needs: tuple[Literal["val", "cal"], ...] = ()
    """Splits that the arm uses beside train and the evaluated one; cal: the calibration's."""


def _video_only(name: ArmName, times: int) -> Arm:
    run = partial(verdict.video_only, name=name, times=times)
    return Arm(run=run, start="grpo", after="grpo", loads_engines=False, needs=("cal",))


def _policy_on(name: ArmName, view: View) -> Arm:
    return Arm(run=partial(policy.on_view, name=name, view=view), start="grpo", after="grpo")


def _verdict_on(name: ArmName, view: View) -> Arm:
    run = partial(verdict.verdict_on_view, name=name, view=view)
    return Arm(run=run, start="grpo", after="calibrated")


_ARM: dict[ArmName, Arm] = {
    "coldstart_val": Arm(
        run=policy.coldstart_val, start="coldstart", after="coldstart", needs=("val",)
    ),
    "rejection": Arm(run=policy.rejection, start="coldstart", after="coldstart"),
    "coldstart_2x": Arm(
        run=policy.coldstart_2x,
        start="base",
        after="coldstart",
        loads_engines=False,
        needs=("val",),
    ),
    "policy_probability": Arm(
        run=policy.policy_probability, start="grpo", after="grpo", loads_engines=False
    ),
    "vote": Arm(run=policy.vote, start="grpo", after="grpo"),
    "trace_accuracy": Arm(
        run=policy.trace_accuracy, start="grpo", after="grpo", needs=("val", "cal")
    ),
    "blank": _policy_on("blank", View.BLANK),
    "shuffled": _policy_on("shuffled", View.SHUFFLED),
    "verdict_teacher": Arm(
        run=verdict.verdict_teacher,
        start="grpo",
        after="grpo",
        loads_engines=False,
        needs=("cal",),
    ),
    "verdict_train": Arm(run=verdict.verdict_train, start="grpo", after="grpo", needs=("cal",)),
    "video_only_1x": _video_only("video_only_1x", 1),
    "video_only_3x": _video_only("video_only_3x", 3),
    "video_only_10x": _video_only("video_only_10x", 10),
    "verdict_blank": _verdict_on("verdict_blank", View.BLANK),
    "verdict_shuffled": _verdict_on("verdict_shuffled", View.SHUFFLED),
    "grpo_more": Arm(run=policy.grpo_more, start="grpo", after="grpo", needs=("cal",)),
}


async def run_controls(
    config: RunConfig, run_dir: RunDir, *, debug: bool = False
) -> dict[str, Any]:
    """Run the unfinished arms of ``controls.arms``, and write the summary anew. Returns the
    summary.

    Raises UserError for mistakes that the user can mend; finished arms stay finished.
    """
    wanted = [arm for arm in ARMS if arm in config.controls.arms]
    _check_stages(run_dir, [arm for arm in wanted if run_dir.result(arm) is None])
    return await finish_all(config, run_dir, wanted, partial(_run, config, run_dir, debug=debug))


async def _run(
    config: RunConfig, run_dir: RunDir, todo: Sequence[str], memory: MemoryWatch, *, debug: bool
) -> None:
    arms = [arm for arm in ARMS if arm in todo]
    check_data = partial(check_arms, config, arms)
    config = await run_in_daemon_thread(bring_model, config, check_data)
    start = model_after(config, run_dir, _ARM[arms[0]].start)
    async with open_session(config, run_dir, check_data, *start, debug=debug) as session:
        await run_arms(session, arms, memory)


async def run_arms(session: Session, arms: Sequence[ArmName], memory: MemoryWatch) -> None:
    """Run control arms one after another, in the order given."""
    for name in arms:
        arm = _ARM[name]
        console.print(f"control arm {name}")
        stage = Stage(name=name, run=arm.run, loads_engines=arm.loads_engines)
        start = model_after(session.config, session.run_dir, arm.start)
        await run_stage(session, stage, start, memory)


def _check_stages(run_dir: RunDir, arms: Sequence[ArmName]) -> None:
    """Raise ConfigError unless the run has finished the stages that the arms need."""
    for name in arms:
        stage = _ARM[name].after
        if run_dir.result(stage) is None or not run_dir.model(stage).exists():
            raise ConfigError(
                f"control arm {name} needs the model that stage {stage} leaves, and there is none "
                f"in {run_dir.path}; finish the run first (--resume), or {_REMEDY}"
            )


def check_arms(config: RunConfig, arms: Sequence[ArmName], data: SampleSplits) -> None:
    """Raise ConfigError or DataError if the samples lack a split or traces that an arm needs."""
    data.of(Split.TRAIN)
    for name in arms:
        for part in _ARM[name].needs:
            try:
                data.of(Split.VAL if part == "val" else Split(config.calibrate.split))
            except DataError as error:
                raise DataError(f"control arm {name}: {error}, or {_REMEDY}") from error
    if "coldstart_2x" in arms:
        _ = data.with_teacher_trace
    if "verdict_teacher" in arms:
        _check_teacher(config, calibration_clips(config, data))


def _check_teacher(config: RunConfig, clips: Sequence[Sample]) -> None:
    bare = [sample.id for sample in clips if not sample.trace]
    if bare:
        raise ConfigError(
            f"control arm verdict_teacher learns from the teacher's traces of the calibration "
            f"clips, but {len(bare)} of {len(clips)} samples with "
            f"split={config.calibrate.split!r} have none, such as {bare[0]!r}; add them to the "
            f"manifest's 'trace' column, or {_REMEDY}"
        )
