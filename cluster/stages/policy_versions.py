"""Version steps of the weights that stages start from, and where these weights lie."""

from pathlib import Path
from typing import NamedTuple

from cluster.config.recipe import RunConfig
from cluster.config.stages import STAGES
from cluster.run_dir import RunDir

FIRST_STEP = 1
"""Version step of the weights that GRPO starts from: 0 is the base, 1 the cold start."""


class Weights(NamedTuple):
    """Weights on disk, and the version step under which the engines serve them."""

    model_dir: Path
    step: int


def model_before(config: RunConfig, run_dir: RunDir, stage: str) -> Weights:
    """Start weights of a stage: those of the last finished stage before it that left a model."""
    for earlier in reversed(STAGES[: STAGES.index(stage)]):
        if run_dir.result(earlier) is not None and run_dir.model(earlier).exists():
            return model_after(config, run_dir, earlier)
    return model_after(config, run_dir, "base")


def model_after(config: RunConfig, run_dir: RunDir, stage: str) -> Weights:
    """Weights that a stage ended with: base, coldstart or grpo."""
    if stage == "base":
        return Weights(config.model, 0)
    steps = {"coldstart": FIRST_STEP, "grpo": FIRST_STEP + config.grpo.num_steps}
    return Weights(run_dir.model(stage), steps[stage])
