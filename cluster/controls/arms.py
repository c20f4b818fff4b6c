"""Control arms: measurements beside the stages that each stage is compared with.

    finished stages + recipe -> arms that have not finished -> predictions/ARM.parquet, done.json

An arm is a stage off the main line, declared in cluster/config/controls.py: many are stages of the
usual kinds, the others have a function in policy_arms.py or verdict_arms.py. An arm writes the
files that a stage writes, except a model, and changes no stage's files.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from cluster.config.arm_names import ARMS, ArmName
from cluster.config.controls import control_arms, main_stages, own_step
from cluster.config.kinds.evaluate import EvaluateStage
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.sft import SftStage
from cluster.config.recipe import RunConfig
from cluster.controls import policy_arms as policy
from cluster.controls import verdict_arms as verdict
from cluster.controls.arm_inputs import archived_cost, cost
from cluster.inputs.samples import SampleSplits
from cluster.run import run_all
from cluster.run_dir import RunDir
from cluster.session import Session
from cluster.stages.policy_versions import has_model, model_after
from cluster.stages.stage import StageFn, StageRun
from cluster.stages.stage_functions import STAGE_FNS
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import ConfigError, DataError
from wire.types import Split

_REMEDY = "leave the arm out (controls.arms, or --only with the others)"


async def run_controls(
    config: RunConfig, run_dir: RunDir, *, debug: bool = False
) -> dict[str, Any]:
    """Run the unfinished arms of ``controls.arms``, and write the summary anew. Returns the
    summary.

    Raises UserError for mistakes that the user can mend; finished arms stay finished.
    """
    _refuse_narratives(config)
    wanted = [arm for arm in ARMS if arm in config.controls.arms]
    _check_stages(config, run_dir, [arm for arm in wanted if run_dir.result(arm) is None])
    check_data = partial(check_arms, config)
    return await run_all(config, run_dir, wanted, arm_run, check_data, debug=debug)


def _refuse_narratives(config: RunConfig) -> None:
    """Raise ConfigError if arms, which show videos, would stand beside a stage that reads
    narratives."""
    main = main_stages(config.chain)
    for name in (main.coldstart, main.grpo):
        if config.chain.tokenizer(name) is not None:
            raise ConfigError(
                f"control arms show clips as videos, and stage {name} reads narratives "
                '(input = "tokens"); measure its policy with stages of kind evaluate, such as '
                'view = "shuffled", "dropped" or "random"'
            )


def arm_run(config: RunConfig, run_dir: RunDir, name: ArmName) -> StageRun:
    """A control arm, ready to run."""
    stage = control_arms(config)[name].stage
    first_step = own_step(config, name)
    return StageRun(
        stage=stage,
        run=_ARM_FNS.get(stage.kind, _as_arm),
        start=model_after(config, run_dir, stage.from_ or ""),
        first_step=first_step,
        last_step=first_step + max(0, stage.num_versions - 1),
        exports=False,
    )


async def _as_arm(session: Session, run: StageRun) -> dict[str, Any]:
    """A stage of one of the usual kinds, with its split and cost as every arm has them."""
    stage = run.stage
    result = await STAGE_FNS[stage.kind](session, run)
    split = session.config.evaluate.split
    if isinstance(stage, EvaluateStage | SftStage):
        split = stage.split or split
    result = {"split": split, "cost": cost(), **result, "settings": stage.model_dump(mode="json")}
    if isinstance(stage, GrpoStage):
        # from the archive: a resumed arm has not all its groups in memory
        num_updates = stage.num_steps * stage.updates_per_step
        result["cost"] = await run_in_daemon_thread(archived_cost, session, stage.name, num_updates)
        result["num_clips"] = len(stage.clips.of(session.data.samples))
    return result


_ARM_FNS: dict[str, StageFn] = {
    "policy_probability": policy.policy_probability,
    "vote": policy.vote,
    "trace_accuracy": policy.trace_accuracy,
    "verdict": verdict.other_verdict,
    "verdict_on_view": verdict.verdict_on_view,
}
"""Kind -> the function that runs it, for the kinds that are no stages."""


def _check_stages(config: RunConfig, run_dir: RunDir, arms: Sequence[ArmName]) -> None:
    """Raise ConfigError unless the run has finished the stages that the arms need."""
    declared = control_arms(config)
    for name in arms:
        stage = declared[name].after
        if not has_model(run_dir, stage):
            raise ConfigError(
                f"control arm {name} needs the model that stage {stage} leaves, and there is none "
                f"in {run_dir.path}; finish the run first (--resume), or {_REMEDY}"
            )


def check_arms(config: RunConfig, data: SampleSplits, names: Sequence[ArmName]) -> None:
    """Raise UserError if the samples lack a split or traces that an arm needs."""
    data.of(Split.TRAIN)
    declared = control_arms(config)
    for name in names:
        for fault in declared[name].stage.data_faults(data.samples):
            raise DataError(f"control arm {name}: {fault}, or {_REMEDY}") from fault
