"""Stage functions by kind: how each kind of stage runs.

A new kind is a class in cluster/config/stage_kinds.py, a file in this folder and a line here.
"""

from cluster.config.recipe import RunConfig
from cluster.inputs.narration import refuse_unread
from cluster.resume.archived_groups import ReusableGroups
from cluster.run_dir import RunDir
from cluster.stages.calibration import run_calibration
from cluster.stages.evaluation import run_evaluation
from cluster.stages.grpo.stage import run_grpo_stage
from cluster.stages.policy_versions import model_before
from cluster.stages.rationales import run_rationales
from cluster.stages.semantic_tokens import run_semantic_tokens
from cluster.stages.sft import run_sft
from cluster.stages.stage import StageFn, StageRun

STAGE_FNS: dict[str, StageFn] = {
    "evaluate": run_evaluation,
    "rationales": run_rationales,
    "sft": run_sft,
    "grpo": run_grpo_stage,
    "calibrate": run_calibration,
    "semantic_tokens": run_semantic_tokens,
}
"""Kind -> the function that runs it."""


def stage_run(
    config: RunConfig, run_dir: RunDir, name: str, archived: ReusableGroups | None = None
) -> StageRun:
    """A stage of the chain, ready to run. Raises ConfigError if it has nothing to start from."""
    chain = config.chain
    stage = chain[name]
    refuse_unread(config, run_dir.path, name)
    return StageRun(
        stage=stage,
        run=STAGE_FNS[stage.kind],
        start=model_before(config, run_dir, name),
        first_step=chain.first_step(name),
        last_step=chain.last_step(name),
        archived=archived if archived is not None and archived.name == name else None,
    )
