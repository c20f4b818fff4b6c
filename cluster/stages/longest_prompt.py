"""Longest prompt that GRPO can meet, for the learner's memory preflight."""

from collections.abc import Sequence

from cluster.plan.run_plan import largest_clip
from cluster.session import Session
from video.positions import PositionRule
from wire.types import Sample

_ASKED = 8  # samples whose text is counted: those with most of it


async def longest_prompt(session: Session, samples: Sequence[Sample]) -> int:
    """Length of the longest prompt, tokens: the largest clip that sampling lets through, with the
    longest text around it. At most ``rollout.max_prompt_length``, and equal to that where the
    model gives no largest clip."""
    config = session.config
    most, clip = config.rollout.max_prompt_length, largest_clip(config)
    if clip is None or clip.tokens >= most:
        return most
    wordy = sorted(samples, key=lambda sample: len(sample.text or ""), reverse=True)[:_ASKED]
    prompts = [prompt.token_ids for _, prompt in await session.prompts(wordy)]
    rule = PositionRule.load(config.model)
    text = max(len(ids) - int(rule.is_video(ids).sum()) for ids in prompts)
    return min(most, clip.tokens + text)
