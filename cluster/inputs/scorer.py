"""Makes the recipe's scorer, for the run, `check`, `plan` and the reward tools."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from cluster.config.recipe import RunConfig
from cluster.run_files import read_run_recipe
from reward.plugins.spread import FunctionNode
from reward.scorer import Scorer
from reward.tools.rescore import NewReward
from video.jpeg_frames import read_frames
from wire.errors import UserError
from wire.types import Sample


def make_scorer(
    config: RunConfig,
    columns: Collection[str] | None = None,
    nodes: Sequence[FunctionNode] = (),
) -> Scorer:
    """Make the scorer of a recipe, not started yet. ``columns``: the manifest's extra columns, if
    known; a reward function that needs another is refused when it is loaded. ``nodes``: those that
    run user functions (cluster/actors/reward_nodes.py), else they run beside this process.

    Raises ConfigError for a missing file, or parameters that do not fit the task.
    """
    return Scorer(
        config.reward,
        config.label_set,
        columns=columns,
        max_response_length=config.rollout.max_response_length,
        read_frames=read_frames,
        nodes=nodes,
    )


def columns_of(samples: Sequence[Sample]) -> frozenset[str] | None:
    """Extra columns of a manifest; None if it has no rows."""
    if not samples:
        return None
    return frozenset(column for sample in samples for column in sample.extra)


def prompt_text(config: RunConfig, sample: Sample) -> str:
    """The user's text of the trace prompt for a sample, without the video."""
    return config.prompt_set.trace(sample)[-1].text


def new_reward(config: RunConfig, name: str, run: Path) -> NewReward:
    """The recipe's reward for ``rescore``; ``name``: the recipe's. Traces are judged with the
    prompts of their run, which they answer; those of the recipe if the run's cannot be read."""
    asked = config
    with suppress(UserError):
        asked = read_run_recipe(run)
    return NewReward(
        name=name,
        reward=config.reward,
        labels=config.label_set,
        max_response_length=config.rollout.max_response_length,
        prompt_of=lambda sample: prompt_text(asked, sample),
        read_frames=read_frames,
    )


async def try_functions(config: RunConfig, samples: Sequence[Sample]) -> None:
    """Load every user reward function once, in its process, and end the process. Raises
    ConfigError."""
    async with make_scorer(config, columns_of(samples)):
        return
