"""Request in vLLM's form for a prompt and its processed clip.

vLLM gets the processed clip as it is (pixels, grid, timing, placeholder range, a content hash as
media id) and never runs a processor of its own, so what it sees is what the learner sees.
"""

from collections.abc import Sequence
from typing import Any

from video.positions import PositionRule
from video.processor import ProcessedClip


def vllm_request(
    token_ids: Sequence[int], clip: ProcessedClip, rule: PositionRule, salt: str | None = None
) -> Any:
    """Request in vLLM's form, with the multimodal input already processed. ``salt``: separates its
    entries in the prefix cache from those of other requests."""
    import torch
    from transformers import BatchFeature
    from vllm.inputs.engine import mm_input
    from vllm.multimodal.inputs import MultiModalFieldConfig as Field
    from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

    rows = torch.tensor([len(clip.pixel_values)])
    tensors = {
        "pixel_values_videos": torch.from_numpy(clip.pixel_values),
        "video_grid_thw": torch.tensor([clip.grid_thw]),
        "second_per_grid_ts": torch.tensor([clip.seconds_per_grid]),
    }
    # pixels stay on the CPU until the tower takes them: vLLM 0.32 drops all other fields of a
    # request with a cached prefix, and dies if that one is preempted (as any update does)
    one = Field.batched("video", keep_on_cpu=True)
    pixels = Field.flat_from_sizes("video", rows, keep_on_cpu=True)
    fields = dict(zip(tensors, (pixels, one, one), strict=True))
    start, length = rule.video_span(token_ids)
    is_embed = torch.from_numpy(rule.is_video(token_ids[start : start + length]))
    place = PlaceholderRange(
        offset=start, length=length, is_embed=None if is_embed.all() else is_embed
    )
    return mm_input(
        prompt_token_ids=list(token_ids),
        mm_kwargs=MultiModalKwargsItems.from_hf_inputs(BatchFeature(tensors), fields),
        mm_hashes={"video": [clip.fingerprint]},
        mm_placeholders={"video": [place]},
        cache_salt=salt,
    )
