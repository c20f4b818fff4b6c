"""Requests in vLLM's form for a prompt and its processed clip.

vLLM gets the processed clip as it is (pixels, grid, timing, placeholder range, a content hash as
media id) and never runs a processor of its own, so what it sees is what the learner sees.

    first request of a group: the clip, which the engine core keeps under its hash
    the others:               the hash alone

A narrative as text (video/semantic_tokens) has no video token: its requests are of text alone. One
as embeddings brings what the tower would make of pixels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rollout.config import RolloutConfig
from video.positions import PositionRule
from video.processor import ProcessedClip

if TYPE_CHECKING:
    from torch import Tensor

_NUMBERS_PER_TOKEN = 8 * 1024
"""Numbers of a clip per video token, at most: Qwen3-VL has 4 patches of 3 x 2 x 16 x 16."""
_EMBEDDED_PER_TOKEN = 32 * 1024
"""Numbers of its embedding: 4 times the width of the text model in Qwen3-VL."""


def receiver_cache_gb(config: RolloutConfig) -> float:
    """Memory in which the engine core keeps a clip until the whole group has come: that of the
    largest clip that fits into a prompt, in vLLM's unit, 2**30 bytes."""
    num_bytes = {"float32": 4, "bfloat16": 2}[config.dtype]
    numbers = _EMBEDDED_PER_TOKEN if config.share_embeddings else _NUMBERS_PER_TOKEN
    return config.max_prompt_length * numbers * num_bytes / 2**30


def vllm_requests(
    token_ids: Sequence[int],
    clip: ProcessedClip,
    rule: PositionRule,
    config: RolloutConfig,
    *,
    continued: Sequence[Sequence[int]] = ((),),
    embeddings: "Tensor | None" = None,
    salt: str | None = None,
) -> list[Any]:
    """Requests of one prompt, with the multimodal input already processed: one for each of
    ``continued``, the tokens that follow the prompt. Only the first carries the clip: the engine
    core has to get it right before the others. ``embeddings``: what the tower made of it, in place
    of its pixels. ``salt``: separates their entries in the prefix cache from those of other
    requests."""
    import torch
    from vllm.inputs.engine import mm_input, tokens_input
    from vllm.multimodal.inputs import PlaceholderRange

    if not rule.is_video(token_ids).any():
        return [tokens_input([*token_ids, *more], cache_salt=salt) for more in continued]
    if clip.embeddings is not None:
        embeddings = _own_embeddings(clip, rule, config)

    start, length = rule.video_span(token_ids)
    is_embed = torch.from_numpy(rule.is_video(token_ids[start : start + length]))
    place = PlaceholderRange(
        offset=start, length=length, is_embed=None if is_embed.all() else is_embed
    )
    others = [{"video": [None]}] * (len(continued) - 1)
    clips: list[Any] = [_clip_items(clip, config.dtype, embeddings), *others]
    return [
        mm_input(
            prompt_token_ids=[*token_ids, *more],
            mm_kwargs=items,
            mm_hashes={"video": [clip.fingerprint]},
            mm_placeholders={"video": [place]},
            cache_salt=salt,
        )
        for items, more in zip(clips, continued, strict=True)
    ]


def _own_embeddings(clip: ProcessedClip, rule: PositionRule, config: RolloutConfig) -> "Tensor":
    """Embeddings that a clip brings, [V, width] in the precision of the tower, and where the family
    adds features to inner layers, zeros for these."""
    import torch

    own = torch.from_numpy(clip.embeddings).to(getattr(torch, config.dtype))
    return torch.nn.functional.pad(own, (0, rule.num_deepstack * own.shape[1]))


def encoded_clip(clip: ProcessedClip, dtype: str) -> str:
    """A processed clip as vLLM's server takes it, in base64. ``dtype``: precision of its tower."""
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item

    (item,) = _clip_items(clip, dtype, None)["video"]
    return str(encode_mm_kwargs_item(item))


def _clip_items(clip: ProcessedClip, dtype_name: str, embeddings: "Tensor | None") -> Any:
    import torch
    from transformers import BatchFeature
    from vllm.multimodal.inputs import MultiModalFieldConfig as Field
    from vllm.multimodal.inputs import MultiModalKwargsItems

    if embeddings is None:
        # in the tower's precision, to which it would round them itself
        dtype = getattr(torch, dtype_name)
        name, rows = "pixel_values_videos", torch.from_numpy(clip.pixel_values).to(dtype)
    else:
        name, rows = "video_embeds", embeddings
    tensors = {
        name: rows,
        "video_grid_thw": torch.tensor([clip.grid_thw]),
        "second_per_grid_ts": torch.tensor([clip.seconds_per_grid]),
    }
    # rows stay on the CPU until the tower takes them: vLLM 0.32 drops all other fields of a
    # request with a cached prefix, and dies if that one is preempted (as any update does)
    one = Field.batched("video", keep_on_cpu=True)
    flat = Field.flat_from_sizes("video", torch.tensor([len(rows)]), keep_on_cpu=True)
    fields = dict(zip(tensors, (flat, one, one), strict=True))
    return MultiModalKwargsItems.from_hf_inputs(BatchFeature(tensors), fields)


def tensor_of(values: tuple[str, list[int], bytes]) -> "Tensor":
    """A tensor from its dtype, shape and bytes, as the engine's workers hand it out."""
    import torch

    dtype, shape, data = values
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return flat.view(getattr(torch, dtype)).reshape(shape)
