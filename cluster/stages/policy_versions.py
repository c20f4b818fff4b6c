"""Weights that stages start from: where they lie, and the version step that engines serve them as.

The steps are the chain's (cluster/config/chain.py): one range per stage, so that a version names
one set of weights in all of a run.
"""

from pathlib import Path
from typing import NamedTuple

from cluster.config.chain import BASE
from cluster.config.recipe import RunConfig
from cluster.run_dir import RunDir
from wire.errors import ConfigError


class Weights(NamedTuple):
    """Weights on disk, and the version step under which the engines serve them."""

    model_dir: Path
    step: int


def model_before(config: RunConfig, run_dir: RunDir, stage: str) -> Weights:
    """Start weights of a stage: those of the stage that it names, or else of the last finished
    stage before it that left a policy.

    Raises ConfigError if the stage that it names has left none in this run, or if one is to go on
    first.
    """
    for earlier in config.chain.candidates(stage):
        if earlier in run_dir.plan.reopened:
            raise ConfigError(
                f"stage {stage} starts from {earlier}, which is to be made longer and has not "
                f"finished; run {earlier} first"
            )
        if earlier == BASE or has_model(run_dir, earlier):
            return model_after(config, run_dir, earlier)
    parent = config.chain.parent(stage)
    raise ConfigError(
        f"stage {stage} starts from {parent}, which has left no model in {run_dir.path}; run "
        f"{parent} first"
    )


def model_after(config: RunConfig, run_dir: RunDir, stage: str) -> Weights:
    """Weights of the policy that a stage left; of ``BASE``: the recipe's model."""
    folder = config.model if stage == BASE else run_dir.model(stage)
    return Weights(folder, config.chain.last_step(stage))


def has_model(run_dir: RunDir, stage: str) -> bool:
    """Whether a stage has finished and its model is there."""
    return run_dir.result(stage) is not None and run_dir.model(stage).exists()
