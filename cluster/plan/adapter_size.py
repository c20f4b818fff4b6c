"""Computes the size of a model's LoRA adapter from its configuration, as in model_size.

ModelShape + LoraConfig -> linear layers -> parameters of the additions, bytes in an engine
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cluster.plan.model_size import BYTES, ModelShape
from learner.config import LearnerConfig


class _Linear(NamedTuple):
    """Layers of one name."""

    name: str
    inputs: int
    outputs: int
    num_layers: int


def trained_adapter(shape: ModelShape, config: LearnerConfig) -> int:
    """Parameters that a learner adds and trains: rank x (inputs + outputs) of each layer; 0 in full
    training. A target with more than a layer's own name (``layers.0.mlp.up_proj``) counts as that
    layer everywhere."""
    if config.lora is None:
        return 0
    parts = (
        (config.freeze_language_model, _text),
        (config.freeze_vision_tower, _tower),
        (config.merger_frozen, _merger),
    )
    layers = [layer for frozen, part in parts if not frozen for layer in part(shape)]
    if (wanted := config.lora.target_modules) != "all-linear":
        ends = {name.rpartition(".")[2] for name in wanted}
        layers = [layer for layer in layers if layer.name in ends]
    return _additions(layers, config.lora.rank)


def engine_adapter_bytes(shape: ModelShape, rank: int, count: int, dtype: str) -> int:
    """Bytes that vLLM reserves for ``count`` adapters, on every linear layer of the text whatever
    the targets, before it rounds the rank up (rollout/lora.py)."""
    return count * BYTES[dtype] * _additions(_text(shape), rank)


def _additions(layers: Iterable[_Linear], rank: int) -> int:
    return sum(rank * (layer.inputs + layer.outputs) * layer.num_layers for layer in layers)


def _text(shape: ModelShape) -> Iterator[_Linear]:
    hidden, inner, count = shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers
    queries, keys = shape.num_attention_heads * shape.head_size, shape.key_value_size
    yield _Linear("q_proj", hidden, queries, count)
    yield _Linear("k_proj", hidden, keys, count)
    yield _Linear("v_proj", hidden, keys, count)
    yield _Linear("o_proj", queries, hidden, count)
    yield _Linear("gate_proj", hidden, inner, count)
    yield _Linear("up_proj", hidden, inner, count)
    yield _Linear("down_proj", inner, hidden, count)


def _tower(shape: ModelShape) -> Iterator[_Linear]:
    hidden, inner, depth = (
        shape.vision_hidden_size,
        shape.vision_intermediate_size,
        shape.vision_depth,
    )
    widen, narrow = {
        "qwen2_5_vl": (("gate_proj", "up_proj"), "down_proj"),
        "qwen2_vl": (("fc1",), "fc2"),
        "qwen3_vl": (("linear_fc1",), "linear_fc2"),
    }[shape.model_type]
    yield _Linear("qkv", hidden, 3 * hidden, depth)
    yield _Linear("proj", hidden, hidden, depth)
    for name in widen:
        yield _Linear(name, hidden, inner, depth)
    yield _Linear(narrow, inner, hidden, depth)


def _merger(shape: ModelShape) -> Iterator[_Linear]:
    merged, count = shape.vision_hidden_size * shape.spatial_merge_size**2, 1 + shape.num_deepstack
    first, second = ("linear_fc1", "linear_fc2") if shape.num_deepstack else ("0", "2")
    yield _Linear(first, merged, merged, count)
    yield _Linear(second, merged, shape.hidden_size, count)
