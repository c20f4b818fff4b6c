"""The longest prompt that GRPO can come to, for the learner's preflight."""

from collections.abc import Sequence

from cluster.plan import largest_clip
from cluster.session import Session
from video.positions import PositionRule
from wire.types import Sample

_ASKED = 8  # samples whose text is counted: those with most of it


async def longest_prompt(session: Session, samples: Sequence[Sample]) -> int:
    """Tokens: the largest clip that sampling lets through, with the longest text around it; never
    more than ``rollout.max_prompt_length``, which it is where the model does not say."""
    config = session.config
    most, clip = config.rollout.max_prompt_length, largest_clip(config)
    if clip is None or clip.tokens >= most:
        return most
    wordy = sorted(samples, key=lambda sample: len(sample.text or ""), reverse=True)[:_ASKED]
    prompts = [prompt.token_ids for _, prompt in await session.prompts(wordy)]
    rule = PositionRule.load(config.model)
    text = max(len(ids) - int(rule.is_video(ids).sum()) for ids in prompts)
    return min(most, clip.tokens + text)
