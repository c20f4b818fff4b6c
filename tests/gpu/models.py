"""Small models for the checks, without a tokenizer's files."""

from typing import Any

from tests.learner.builders import VIDEO_TOKEN
from video.families import family_named
from video.positions import PositionRule

_TOKENS = {
    "<|endoftext|>": 0,
    "<|im_end|>": 1,
    "<|vision_start|>": 3,
    "<|vision_end|>": 4,
    "<|image_pad|>": 6,
    "<|video_pad|>": VIDEO_TOKEN,
}


class Words:
    """As much of a tokenizer as a model's configuration asks for."""

    def __len__(self) -> int:
        return 512

    def convert_tokens_to_ids(self, token: str) -> int:
        return _TOKENS[token]


def rule_of(family: str, model: Any) -> PositionRule:
    """Positions as the family counts them."""
    vision = model.config.vision_config
    default = family_named(family).tokens_per_second
    return PositionRule(
        model_type=family,
        video_token_id=VIDEO_TOKEN,
        merge_size=vision.spatial_merge_size,
        tokens_per_second=getattr(vision, "tokens_per_second", default),
    )
