"""The demo's model: a Qwen2.5-VL of under two million parameters, its tokenizer and processor.

A 56x56 clip of 12 frames becomes 24 video tokens. The tags of a trace are single tokens, and not
special ones, so that decoding keeps them whatever it is told about special tokens.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cluster.demo import texts
from cluster.demo.events import DEFINITIONS, teacher_trace

logger = logging.getLogger(__name__)

BASE_DIR = Path(__file__).parent / "base"
"""The trained base model that ships with the repository."""

TAGS = ("<think>", "</think>", "<answer>", "</answer>")

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_MIN_PIXELS, _MAX_PIXELS = 56 * 56, 112 * 112
_MAX_VOCABULARY = 2048

_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_processor() -> Any:
    """The processor, with a tokenizer trained on the project's own texts."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    size = {"shortest_edge": _MIN_PIXELS, "longest_edge": _MAX_PIXELS}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(
            size=size, do_sample_frames=False, cap_pixels_per_frame=False
        ),
        chat_template=_CHAT_TEMPLATE,
    )


def build_model(tokenizer: Any, seed: int) -> Any:
    """The model, untrained."""
    import torch
    from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            # Half a head has 16 frequencies; they are shared out over time, height and width.
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [4, 6, 6],
                "rope_theta": 10000.0,
            },
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
        },
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 3,
            "out_hidden_size": 128,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            # At 4 frames a second two temporal patches are 0.5 s apart: one position each.
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [2],
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    _start_well(model)
    model.generation_config = GenerationConfig(
        bos_token_id=ids("<|endoftext|>"),
        eos_token_id=ids("<|im_end|>"),
        pad_token_id=ids("<|endoftext|>"),
    )
    return model


def _start_well(model: Any) -> None:
    """Start values that let so narrow a model learn to see within minutes.

    Linear layers give outputs of unit size (the usual 0.02 starves them). The patch embedding
    starts with smooth waves over the sum and over the difference of its two frames, three colours
    each: with random weights, most of the first minutes goes into finding these.
    """
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not model.lm_head:
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
    weight = model.model.visual.patch_embed.proj.weight
    grid = (np.arange(14) + 0.5) * np.pi / 14
    waves = np.stack([np.cos(k * grid) * (1 if k else 0.5**0.5) for k in range(4)]) / 7**0.5
    colours = np.array([[1, 1, 1], [1, -1, 0], [0.5, 0.5, -1]])
    times = np.array([[0.5, 0.5], [-1, 1]])
    filters = np.einsum("ky,lx,nc,st->sklnctyx", waves, waves, colours, times)
    with torch.no_grad():
        weight.copy_(torch.tensor(filters.reshape(96, 3, 2, 14, 14) / 6))


def _tokenizer() -> Any:
    """Byte-level BPE that knows every word of the demo whole, and any other text in pieces."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_MAX_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(_corpus(), trainer)
    raw.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def _corpus() -> Iterator[str]:
    """The base model's texts and the project's own prompts, without the tags."""
    from rollout.prompt import Prompts
    from wire.labels import Label, LabelSet
    from wire.types import Sample, Split

    labels = LabelSet(labels=tuple(Label(name=n, definition=d) for n, d in DEFINITIONS.items()))
    trace = teacher_trace(("left", "up", "grow"))
    prompts = Prompts(labels, use_side_text=True)
    sample = Sample(id="", video="", label="undo", split=Split.TRAIN, text="a b")
    bare = Sample(id="", video="", label="undo", split=Split.TRAIN)
    own = [prompts.trace(sample), prompts.verdict(sample, trace), prompts.label(bare)]
    passages = [message.text for messages in own for message in messages] * 20
    passages += ["user\n", "assistant\n", "system\n"] * 20
    passages += list(texts.every_text(np.random.default_rng(0)))
    for passage in passages:
        for tag in TAGS:
            passage = passage.replace(tag, "\n")
        yield passage
