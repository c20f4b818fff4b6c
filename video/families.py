"""Model families that can be trained: one table of their differences, read by everyone.

    config.json -> model type -> Family

The classes are transformers'. All of them stand for a clip by video tokens, one per merged patch,
and number positions in time, height and width; how time reaches the model is what sets them apart:

    qwen2_vl      not at all: a temporal patch is one step, however long it lasts
    qwen2_5_vl    in the positions: seconds between temporal patches times tokens per second
    qwen3_vl      as text: each temporal patch is a block of its own behind "<0.5 seconds>"
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wire.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One model architecture."""

    model_type: str
    """The ``model_type`` of ``config.json``."""
    model_class: str
    processor_class: str
    tokens_per_second: float
    """Positions per second (per temporal patch, where time is not known) if the config is silent,
    as in transformers and vLLM."""
    writes_times: bool = False
    """The processor writes the time of each temporal patch as text between the patches, so that the
    video tokens come in as many runs as there are temporal patches."""
    bounds_whole_clip: bool = False
    """The processor's bounds on pixels are those of all frames together, not of each."""


FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            model_type="qwen2_vl",
            model_class="Qwen2VLForConditionalGeneration",
            processor_class="Qwen2VLProcessor",
            tokens_per_second=1.0,
        ),
        Family(
            model_type="qwen2_5_vl",
            model_class="Qwen2_5_VLForConditionalGeneration",
            processor_class="Qwen2_5_VLProcessor",
            tokens_per_second=4.0,
        ),
        Family(
            model_type="qwen3_vl",
            model_class="Qwen3VLForConditionalGeneration",
            processor_class="Qwen3VLProcessor",
            tokens_per_second=1.0,
            writes_times=True,
            bounds_whole_clip=True,
        ),
    )
}
"""Families by model type."""


def family_named(model_type: str) -> Family:
    """The family of a model type. Raises ConfigError with the known types for any other."""
    if model_type not in FAMILIES:
        raise ConfigError(
            f"a model of type {model_type!r} cannot be trained here; "
            f"use one of: {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def read_config(model_dir: Path) -> dict[str, Any]:
    """A model directory's ``config.json``. Raises ConfigError if it cannot be read."""
    try:
        values = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read {model_dir / 'config.json'}: {error}; give the directory of a model "
            "in Hugging Face format"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{model_dir / 'config.json'} holds no settings; download the model's files anew"
        )
    return values


def family_of(model_dir: Path) -> Family:
    """The family of the model in a directory. Raises ConfigError."""
    return family_named(str(read_config(model_dir).get("model_type")))
