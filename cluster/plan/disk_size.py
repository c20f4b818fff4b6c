"""Computes what a run writes to disk: models, checkpoints, trace archive, clip cache. Arithmetic on
the recipe and the model's sizes."""

from collections.abc import Sequence

from cluster.config.controls import grpo_of
from cluster.config.kinds.semantic_tokens import SemanticTokensStage
from cluster.config.recipe import RunConfig
from cluster.plan.adapter_size import trained_adapter
from cluster.plan.model_size import BYTES, ModelShape, rank_memory
from video.config import VideoConfig
from video.semantic_tokens.config import SemanticTokensConfig

_PIXEL_BYTES = 1  # the cache keeps the bytes behind them (video/pixel_codes.py)
_TOKEN_BYTES = 4 + 8 + 4
"""Of an archived token, uncompressed: id, logprob (float64), about four characters of text."""


def checkpoint_bytes(config: RunConfig, shape: ModelShape) -> int:
    """Bytes of one checkpoint: the trained weights, and the optimiser of all ranks."""
    adapter = trained_adapter(shape, config.learner)
    rank = rank_memory(shape, config.learner, grpo_of(config).optim, adapter)
    weights = BYTES[config.learner.dtype] * (adapter or shape.num_parameters)
    sharded = config.learner.zero_stage >= 1
    return weights + rank.optimizer_bytes * (config.learner.num_ranks if sharded else 1)


def run_bytes(
    config: RunConfig, shape: ModelShape, stages: Sequence[str], num_clips: int = 0
) -> int:
    """Bytes of models and checkpoints of a whole run: for each stage that trains a model, the
    checkpoints kept at once (cluster/resume/checkpoints.py), and the one being written; and of the
    segments of ``num_clips`` clips, all of the manifest, while a tokenizer is fitted."""
    kept = [count for name in stages if (count := config.chain[name].kept_checkpoints)]
    model = BYTES[config.learner.dtype] * shape.num_parameters
    checkpoint = checkpoint_bytes(config, shape)
    segments = [
        num_clips * segment_bytes(config.video, shape, stage)
        for stage in map(config.chain.__getitem__, stages)
        if isinstance(stage, SemanticTokensStage) and stage.tokenizer is None
    ]
    return sum(model + (count + 1) * checkpoint for count in kept) + max(segments, default=0)


def segment_bytes(video: VideoConfig, shape: ModelShape, tokens: SemanticTokensConfig) -> int:
    """Bytes of the longest clip's segments, [T, places, width] in float32."""
    steps = -(-video.max_frames // shape.temporal_patch_size)
    segments = -(-steps // tokens.segment_steps)
    return segments * tokens.spatial**2 * shape.hidden_size * 4


def archive_bytes(prompt_tokens: int, response_tokens: int) -> int:
    """Bytes of archived traces before Parquet's compression; a prompt counts once per group."""
    return 4 * prompt_tokens + _TOKEN_BYTES * response_tokens


def cache_bytes(shape: ModelShape, num_video_tokens: int) -> int:
    """Bytes of the clip cache, from the video tokens of all distinct clips."""
    patch = 3 * shape.temporal_patch_size * shape.patch_size**2
    return num_video_tokens * shape.spatial_merge_size**2 * patch * _PIXEL_BYTES
