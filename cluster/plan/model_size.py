"""Computes a model's size: parameters, video tokens of a clip, bytes in the learner and in vLLM.

    config.json -> ModelShape -> parameters, tokens -> bytes per learner rank, bytes per engine

Arithmetic on the configuration alone: no weights are read and no library is loaded. Bytes are those
of what is held all the time; activations, buffers of collectives and CUDA's own are left out.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.config import LearnerConfig, OptimConfig
from rollout.config import RolloutConfig
from video.config import VideoConfig
from video.families import family_named
from wire.errors import ConfigError

BYTES = {"float32": 4, "bfloat16": 2}
_FLOAT32 = 4
_TIME_TOKENS = 12  # "<1234.5 seconds>", start and end of the patch
_PROCESSOR_FILES = (
    "processor_config.json",
    "video_preprocessor_config.json",
    "preprocessor_config.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a model that decide its number of parameters, by transformers' names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    tie_word_embeddings: bool
    head_dim: int | None = None
    """Width of a head; None: hidden size / number of heads."""
    model_type: str = "qwen2_5_vl"
    vision_depth: int = 32
    vision_hidden_size: int = 1280
    vision_intermediate_size: int = 3420
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    num_position_embeddings: int = 0
    """Learnt positions of the tower (Qwen3-VL)."""
    num_deepstack: int = 0
    """Layers of the tower whose features enter the text's layers too (Qwen3-VL)."""

    @property
    def num_parameters(self) -> int:
        """All parameters, tied ones once."""
        return self._num_text + self._num_merger + self._num_tower

    def num_trained(self, config: LearnerConfig) -> int:
        """Parameters that the learner updates."""
        parts = (
            (config.freeze_language_model, self._num_text),
            (config.merger_frozen, self._num_merger),
            (config.freeze_vision_tower, self._num_tower),
        )
        return sum(number for frozen, number in parts if not frozen)

    @property
    def cached_values_per_token(self) -> int:
        """Keys and values of one token, over all layers."""
        return 2 * self.num_hidden_layers * self.key_value_size

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def key_value_size(self) -> int:
        """Size of the keys (or values) of one token in one layer."""
        return self.num_key_value_heads * self.head_size

    @property
    def _num_text(self) -> int:
        hidden, keys = self.hidden_size, self.key_value_size
        queries = self.num_attention_heads * self.head_size
        # biases on queries, keys and values, or (Qwen3) norms of a head's queries and keys
        more = 2 * self.head_size if self.model_type == "qwen3_vl" else queries + 2 * keys
        attention = 2 * hidden * queries + 2 * hidden * keys + more
        layer = attention + 3 * hidden * self.intermediate_size + 2 * hidden
        embeddings = self.vocab_size * hidden * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * layer + hidden

    @property
    def _num_merger(self) -> int:
        """Parameters of the mergers, with deepstack's, whose norms are as wide as their inputs."""
        merged = self.vision_hidden_size * self.spatial_merge_size**2
        out = merged * merged + merged + merged * self.hidden_size + self.hidden_size
        norm = self.vision_hidden_size * (1 if self.model_type == "qwen2_5_vl" else 2)
        return norm + out + self.num_deepstack * (2 * merged + out)

    @property
    def _num_tower(self) -> int:
        hidden, inner = self.vision_hidden_size, self.vision_intermediate_size
        patches = 3 * self.temporal_patch_size * self.patch_size**2 * hidden
        attention = 4 * (hidden * hidden + hidden)
        if self.model_type == "qwen2_5_vl":  # gated, and norms without bias
            block = attention + 3 * hidden * inner + 2 * inner + hidden + 2 * hidden
            return patches + self.vision_depth * block
        block = attention + 2 * hidden * inner + inner + hidden + 4 * hidden
        bias = hidden if self.model_type == "qwen3_vl" else 0
        positions = self.num_position_embeddings * hidden
        return patches + bias + positions + self.vision_depth * block


def _qwen3(**sizes: Any) -> ModelShape:
    tower = (24, 1024, 4096) if sizes["hidden_size"] < 4096 else (27, 1152, 4304)
    return ModelShape(
        model_type="qwen3_vl",
        vocab_size=151_936,
        num_key_value_heads=8,
        head_dim=128,
        vision_depth=tower[0],
        vision_hidden_size=tower[1],
        vision_intermediate_size=tower[2],
        patch_size=16,
        num_position_embeddings=2304,
        num_deepstack=3,
        **sizes,
    )


KNOWN_MODELS = {
    "Qwen2.5-VL-3B-Instruct": ModelShape(
        vocab_size=151_936,
        hidden_size=2048,
        intermediate_size=11_008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "Qwen2.5-VL-7B-Instruct": ModelShape(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    ),
    "Qwen2-VL-2B-Instruct": ModelShape(
        model_type="qwen2_vl",
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        vision_intermediate_size=5120,
    ),
    "Qwen2-VL-7B-Instruct": ModelShape(
        model_type="qwen2_vl",
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
        vision_intermediate_size=5120,
    ),
    "Qwen3-VL-2B-Instruct": _qwen3(
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        tie_word_embeddings=True,
    ),
    "Qwen3-VL-4B-Instruct": _qwen3(
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        tie_word_embeddings=True,
    ),
    "Qwen3-VL-8B-Instruct": _qwen3(
        hidden_size=4096,
        intermediate_size=12_288,
        num_hidden_layers=36,
        num_attention_heads=32,
        tie_word_embeddings=False,
    ),
}
"""Shapes of models that users name before they have downloaded them."""


def read_shape(model_dir: Path) -> ModelShape | None:
    """Read the shape from a model directory's ``config.json``; None if a size is missing.

    Raises ConfigError for a model of another kind.
    """
    config = _read_json(model_dir / "config.json")
    model_type = family_named(str(config.get("model_type"))).model_type
    vision = config.get("vision_config", {})
    text = config.get("text_config", config)  # older files have the text's sizes at the top
    try:
        if model_type == "qwen2_vl":  # there "hidden_size" is that of the text
            inner = vision["embed_dim"] * vision.get("mlp_ratio", 4)
            vision = {**vision, "hidden_size": vision["embed_dim"], "intermediate_size": inner}
        qwen3 = model_type == "qwen3_vl"
        return ModelShape(
            model_type=model_type,
            vocab_size=text["vocab_size"],
            hidden_size=text["hidden_size"],
            intermediate_size=text["intermediate_size"],
            num_hidden_layers=text["num_hidden_layers"],
            num_attention_heads=text["num_attention_heads"],
            num_key_value_heads=text["num_key_value_heads"],
            head_dim=text["head_dim"] if qwen3 else None,
            tie_word_embeddings=config.get("tie_word_embeddings", False),
            vision_depth=vision["depth"],
            vision_hidden_size=vision["hidden_size"],
            vision_intermediate_size=vision["intermediate_size"],
            patch_size=vision.get("patch_size", 16 if qwen3 else 14),
            temporal_patch_size=vision.get("temporal_patch_size", 2),
            spatial_merge_size=vision.get("spatial_merge_size", 2),
            num_position_embeddings=vision["num_position_embeddings"] if qwen3 else 0,
            num_deepstack=len(vision["deepstack_visual_indexes"]) if qwen3 else 0,
        )
    except KeyError:
        return None


def read_max_pixels(model_dir: Path, shape: ModelShape, num_frames: int) -> int | None:
    """Largest frame, in pixels, that the model's processor lets through for a clip of
    ``num_frames``; None if its files do not say.

    Raises ConfigError for a file that is no JSON.
    """
    for path in (model_dir / name for name in _PROCESSOR_FILES):
        if path.is_file():
            values = _read_json(path)
            values = values.get("video_processor", values)
            if most := (values.get("size") or {}).get("longest_edge") or values.get("max_pixels"):
                whole_clip = family_named(shape.model_type).bounds_whole_clip
                return int(most) // (num_frames if whole_clip else 1)
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"cannot read {path}: {error}; download the model's files anew"
        ) from error
    return values


def video_tokens(shape: ModelShape, config: VideoConfig, max_pixels: int) -> int:
    """Tokens of the longest and largest clip: patches in time x merged patches of a frame, and the
    times that are written between them (a dozen tokens each, at most)."""
    merged = (shape.patch_size * shape.spatial_merge_size) ** 2
    written = _TIME_TOKENS if family_named(shape.model_type).writes_times else 0
    return config.max_frames // shape.temporal_patch_size * (max_pixels // merged + written)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Bytes that one learner rank holds."""

    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    """float32 copies and moments."""
    offloaded_bytes: int = 0
    """Bytes of these kept in the node's memory while a GPU trains."""
    reference_bytes: int = 0
    """A KL term's frozen copy of the model: whole on every rank, under ZeRO-3 its shards."""

    @property
    def total_bytes(self) -> int:
        """Sum of all bytes."""
        trained = self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes
        return trained + self.reference_bytes

    @property
    def device_bytes(self) -> int:
        """Bytes that stay on the GPU; on CPU, all."""
        return self.total_bytes - self.offloaded_bytes


def rank_memory(
    shape: ModelShape,
    config: LearnerConfig,
    optim: OptimConfig,
    num_adapter: int = 0,
    *,
    reference: bool = False,
) -> RankMemory:
    """Bytes of a rank under ZeRO: 1 shards the optimiser, 2 the gradients, 3 the parameters.

    With LoRA, ``num_adapter`` parameters are added, and train alone.

    AdamW keeps two float32 moments per trained parameter, and a float32 copy in bfloat16 or under
    ZeRO. Gradients add up in float32. The optimiser is offloaded with the gradients that ZeRO
    shards: they wait for it there.
    """
    trained = num_adapter or shape.num_trained(config)
    size, stage, ranks = BYTES[config.dtype], config.zero_stage, config.num_ranks
    copy = _FLOAT32 if config.dtype == "bfloat16" or stage >= 1 else 0
    moments = 2 * _FLOAT32 if optim.kind == "adamw" else 0
    whole = shape.num_parameters + num_adapter
    parameters = size * whole // (ranks if stage >= 3 else 1)
    gradients = _FLOAT32 * trained // (ranks if stage >= 2 else 1)
    optimizer = (copy + moments) * trained // (ranks if stage >= 1 else 1)
    offloaded = 0
    if config.num_gpus and config.offload != "none":
        offloaded = optimizer + (gradients if stage >= 2 else 0)
        offloaded += parameters if config.offload == "optimizer_and_parameters" else 0
    return RankMemory(
        parameter_bytes=parameters,
        gradient_bytes=gradients,
        optimizer_bytes=optimizer,
        offloaded_bytes=offloaded,
        reference_bytes=parameters if reference else 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """Bytes of one engine, on each of its GPUs (or in all, on CPU)."""

    weight_bytes: int
    kv_bytes_per_token: int
    kv_bytes_longest_sequence: int
    """A prompt and a response of full length."""
    kv_cache_bytes: int | None
    """Size of the cache; None on a GPU, where the cache takes what the weights leave."""
    adapter_bytes: int = 0
    """Bytes reserved for LoRA adapters."""

    @property
    def kv_cache_tokens(self) -> int | None:
        """Tokens that fit in the cache; None on a GPU."""
        return (
            None if self.kv_cache_bytes is None else self.kv_cache_bytes // self.kv_bytes_per_token
        )


def engine_memory(shape: ModelShape, config: RolloutConfig) -> EngineMemory:
    """Bytes of weights and cache. Tensor parallelism divides both, but splits no key/value head."""
    size, split = BYTES[config.dtype], config.tensor_parallel_size
    per_token = size * shape.cached_values_per_token // min(split, shape.num_key_value_heads)
    cache = max(1, round(config.kv_cache_gb)) * 2**30  # rollout/engine_environment.py: whole GiB
    return EngineMemory(
        weight_bytes=size * shape.num_parameters // split,
        kv_bytes_per_token=per_token,
        kv_bytes_longest_sequence=per_token * config.max_model_len,
        kv_cache_bytes=None if config.num_gpus else cache,
    )
