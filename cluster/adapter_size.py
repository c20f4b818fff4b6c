"""How large a LoRA adapter of a model is: arithmetic on its configuration, as in model_size.

ModelShape + LoraConfig -> linear layers -> parameters of the additions, bytes in an engine
"""

from collections.abc import Iterator
from typing import NamedTuple

from cluster.model_size import BYTES, ModelShape
from learner.config import LearnerConfig, LoraConfig


class _Linear(NamedTuple):
    """Layers of one name."""

    name: str
    inputs: int
    outputs: int
    count: int


def trained_adapter(shape: ModelShape, config: LearnerConfig) -> int:
    """Parameters that a learner adds and trains; 0 in full training."""
    if config.lora is None:
        return 0
    return adapter_parameters(shape, config.lora, with_tower=not config.freeze_vision_tower)


def adapter_parameters(shape: ModelShape, config: LoraConfig, *, with_tower: bool) -> int:
    """Of all additions: rank x (inputs + outputs) each. A target with more than a layer's own name
    (``layers.0.mlp.up_proj``) counts as that layer everywhere."""
    layers = [*_text(shape), *(_vision(shape) if with_tower else ())]
    wanted = config.target_modules
    if wanted != "all-linear":
        ends = {name.rpartition(".")[2] for name in wanted}
        layers = [layer for layer in layers if layer.name in ends]
    return sum(config.rank * (x.inputs + x.outputs) * x.count for x in layers)


def engine_adapter_bytes(shape: ModelShape, config: LoraConfig, count: int, dtype: str) -> int:
    """What vLLM reserves for ``count`` adapters, on every linear layer whatever the targets, before
    it rounds the rank up (rollout/engine.py)."""
    everywhere = config.model_copy(update={"target_modules": "all-linear"})
    return count * BYTES[dtype] * adapter_parameters(shape, everywhere, with_tower=False)


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


def _vision(shape: ModelShape) -> Iterator[_Linear]:
    hidden, inner = shape.vision_hidden_size, shape.vision_intermediate_size
    merged, depth = hidden * shape.spatial_merge_size**2, shape.vision_depth
    yield _Linear("qkv", hidden, 3 * hidden, depth)
    yield _Linear("proj", hidden, hidden, depth)
    if shape.model_type == "qwen2_5_vl":
        first, second = "0", "2"
        yield _Linear("gate_proj", hidden, inner, depth)
        yield _Linear("up_proj", hidden, inner, depth)
        yield _Linear("down_proj", inner, hidden, depth)
    elif shape.model_type == "qwen2_vl":
        first, second = "0", "2"
        yield _Linear("fc1", hidden, inner, depth)
        yield _Linear("fc2", inner, hidden, depth)
    else:
        first, second = "linear_fc1", "linear_fc2"
        yield _Linear(first, hidden, inner, depth)
        yield _Linear(second, inner, hidden, depth)
    mergers = 1 + shape.num_deepstack
    yield _Linear(first, merged, merged, mergers)
    yield _Linear(second, merged, shape.hidden_size, mergers)
