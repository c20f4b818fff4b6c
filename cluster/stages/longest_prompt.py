"""Longest prompt that GRPO can meet, for the learner's memory preflight."""

from collections.abc import Awaitable, Callable, Sequence

from cluster.config.recipe import RunConfig
from cluster.plan.run_plan import largest_clip
from video.positions import PositionRule
from wire.types import Prompt, Sample

Render = Callable[[list[Sample]], Awaitable[list[tuple[Sample, Prompt]]]]
"""Samples whose clips can be read, with their trace prompts; Session.prompts."""

_ASKED = 8  # samples whose text is counted: those with most of it


async def longest_prompt(config: RunConfig, samples: Sequence[Sample], render: Render) -> int:
    """Length of the longest prompt, tokens: the largest clip that sampling lets through, with the
    longest text around it. At most ``rollout.max_prompt_length``, and equal to that where the
    model gives no largest clip."""
    most, clip = config.rollout.max_prompt_length, largest_clip(config)
    if clip is None or clip.tokens >= most:
        return most

    def text_length(sample: Sample) -> int:
        return sum(len(message.text) for message in config.prompt_set.trace(sample))

    wordy = sorted(samples, key=text_length, reverse=True)[:_ASKED]
    prompts = [prompt.token_ids for _, prompt in await render(wordy)]
    rule = PositionRule.load(config.model)
    text = max(len(ids) - int(rule.is_video(ids).sum()) for ids in prompts)
    return min(most, clip.tokens + text)
