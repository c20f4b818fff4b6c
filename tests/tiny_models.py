"""Tiny untrained models of every family, with the demo's tokenizer. (No test file.)

The usual initial values would make all answers alike; larger ones let positions, pixels and
deepstack features move logprobs, so that a comparison can fail.
"""

from pathlib import Path
from typing import Any

from cluster.demo import tiny_model
from video.families import FAMILIES, family_named

MODEL_TYPES = tuple(FAMILIES)

_TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4},
}
_INTERLEAVED = {"mrope_section": [12, 10, 10], "mrope_interleaved": True}
_VISION = {"depth": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}


def write_tiny_model(
    folder: Path, model_type: str, seed: int = 0, vision_heads: int = 3, **text: Any
) -> Path:
    """Model, tokenizer and processor of a family in Hugging Face format; ``text``: other sizes."""
    processor = build_processor(model_type)
    processor.save_pretrained(folder)
    model = build_model(model_type, processor.tokenizer, seed, vision_heads, **text)
    model.save_pretrained(folder)
    return folder


def build_processor(model_type: str) -> Any:
    """The family's processor with the demo's tokenizer."""
    from transformers import Qwen2VLProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    ours = tiny_model.build_processor()  # a Qwen2.5-VL processor
    parts = {
        "image_processor": ours.image_processor,
        "tokenizer": ours.tokenizer,
        "chat_template": ours.chat_template,
    }
    if model_type == "qwen2_5_vl":
        return ours
    if model_type == "qwen2_vl":
        return Qwen2VLProcessor(video_processor=ours.video_processor, **parts)
    video_processor = Qwen3VLVideoProcessor(
        # of all frames together: eight small ones at least, sixteen large ones at most
        size={"shortest_edge": 8 * 28 * 28, "longest_edge": 16 * 112 * 112},
        patch_size=14,
        do_sample_frames=False,
        cap_pixels_per_frame=False,
    )
    return Qwen3VLProcessor(video_processor=video_processor, **parts)


def build_model(
    model_type: str, tokenizer: Any, seed: int, vision_heads: int = 3, **text: Any
) -> Any:
    """The family's model, untrained."""
    import torch
    import transformers

    config_class, vision, of_family = _sizes(model_type)
    text = {**_TEXT, **of_family, **text}
    vision["num_heads"] = vision_heads
    vision["hidden_size" if "embed_dim" in vision else "out_hidden_size"] = text["hidden_size"]
    ids = tokenizer.convert_tokens_to_ids
    ends = {"bos_token_id": ids("<|endoftext|>"), "eos_token_id": ids("<|im_end|>")}
    config = config_class(
        text_config={
            "vocab_size": len(tokenizer),
            **text,
            "pad_token_id": ids("<|endoftext|>"),
            **ends,
        },
        vision_config={**_VISION, **vision},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = getattr(transformers, family_named(model_type).model_class)(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not model.lm_head:
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=ids("<|endoftext|>"), **ends
    )
    return model


def _sizes(model_type: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Configuration class, sizes of the vision tower, what of the text differs from ``_TEXT``."""
    import transformers

    if model_type == "qwen2_vl":
        vision = {"embed_dim": 96, "hidden_size": 128, "num_heads": 3, "mlp_ratio": 2}
        return transformers.Qwen2VLConfig, vision, {}
    common = {"hidden_size": 96, "intermediate_size": 256, "num_heads": 3, "out_hidden_size": 128}
    if model_type == "qwen2_5_vl":
        own = {"tokens_per_second": 2, "window_size": 112, "fullatt_block_indexes": [2]}
        return transformers.Qwen2_5_VLConfig, {**common, **own}, {}
    own = {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 2]}
    rope = {**_TEXT["rope_parameters"], **_INTERLEAVED}
    # heads that are not hidden size / number of heads wide, as in the small models on the hub
    return transformers.Qwen3VLConfig, {**common, **own}, {"head_dim": 64, "rope_parameters": rope}
