"""Valid rows, clips and learners of a tiny size, with one thing changed per test."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from learner.config import GrpoLossConfig, LearnerConfig
from learner.shared_prefix.rows import Response, Row
from tests.groups import make_group as group_of
from tests.groups import make_sample
from video.families import FAMILIES
from video.processor import ProcessedClip
from wire.token_arrays import Logprobs, TokenIds
from wire.types import Prompt, Trace, TraceGroup

if TYPE_CHECKING:
    from learner.worker import LearnerWorker

VIDEO_TOKEN = 7
GRID = (2, 4, 4)
NUM_VIDEO_TOKENS = 8
TEXT_TOKENS = range(40, 500)


class RandomClips:
    """Stands in for ClipStore: random pixels by clip key, no file and no decoder."""

    def __init__(self, model_type: str = "qwen2_5_vl") -> None:
        self._model_type = model_type

    def load(self, clip_key: str, path: str, fingerprint: str) -> ProcessedClip:
        return make_clip(int(clip_key), self._model_type)


def make_clip(seed: int = 0, model_type: str = "qwen2_5_vl") -> ProcessedClip:
    pixels = np.random.default_rng(seed).normal(size=(4 * NUM_VIDEO_TOKENS, 1176))
    start, end = 3, 4
    ids: list[int] = [VIDEO_TOKEN] * NUM_VIDEO_TOKENS
    if FAMILIES[model_type].writes_times:  # two temporal patches, a text before each
        block = [start, *ids[: NUM_VIDEO_TOKENS // 2], end]
        ids = [41, 42, *block, 43, *block]
    return ProcessedClip(
        pixel_values=pixels.astype(np.float32),
        grid_thw=GRID,
        seconds_per_grid=0.5 if model_type == "qwen2_5_vl" else 1.0,
        placeholder_ids=(start, *ids, end),
        fingerprint=f"pixels-{seed}",
        clip_key=str(seed),
    )


def make_prompt(seed: int = 0, num_text: int = 3, model_type: str = "qwen2_5_vl") -> Prompt:
    text = np.random.default_rng(100 + seed).choice(TEXT_TOKENS, size=num_text + 2)
    clip = make_clip(seed, model_type)
    ids = (int(text[0]), *clip.placeholder_ids, *(int(token) for token in text[1:]))
    return Prompt(token_ids=ids, clip_key=str(seed), fingerprint=f"pixels-{seed}")


def make_response(seed: int = 0, length: int = 3, **changed: Any) -> Response:
    draw = np.random.default_rng(200 + seed)
    values: dict[str, Any] = {
        "token_ids": TokenIds(draw.choice(TEXT_TOKENS, size=length)),
        "advantage": float(draw.normal()),
        "rollout_logprobs": Logprobs(-4 - draw.random(length)),
    }
    return Response(**{**values, **changed})


def make_row(
    seed: int = 0,
    lengths: Sequence[int] = (3, 5),
    num_text: int = 3,
    model_type: str = "qwen2_5_vl",
) -> Row:
    responses = tuple(make_response(10 * seed + i, n) for i, n in enumerate(lengths))
    prompt = make_prompt(seed, num_text, model_type)
    return Row(prompt=prompt, video=f"{seed}.mp4", responses=responses)


def text_row(seed: int, lengths: Sequence[int] = (4,)) -> Row:
    """A question without a clip."""
    draw = np.random.default_rng(300 + seed)
    ids = tuple(int(token) for token in draw.choice(TEXT_TOKENS, size=7))
    responses = tuple(make_response(10 * seed + i, n) for i, n in enumerate(lengths))
    prompt = Prompt(token_ids=ids, clip_key="", fingerprint="")
    return Row(prompt=prompt, video="", responses=responses)


def make_learner(
    embeddings: Path | None = None, loss: GrpoLossConfig | None = None, **changed: Any
) -> "LearnerWorker":
    """``embeddings``: where they are kept; none: not at all."""
    # what they import, rows do without
    from learner.model.embedding_store import EmbeddingStore
    from learner.worker import LearnerWorker

    config = LearnerConfig(**{"dtype": "float32", "num_threads": 1, "timeout_s": 60, **changed})
    store = None if embeddings is None else EmbeddingStore(embeddings, 2**30)
    return LearnerWorker(config, loss or GrpoLossConfig(), RandomClips(), store)  # type: ignore[arg-type]


def make_group(*traces: Trace, prompt: Prompt | None = None) -> TraceGroup:
    """``tests.groups.make_group`` with a prompt that the tiny models can read."""
    return group_of(
        *traces,
        sample=make_sample("undo", video="0.mp4"),
        prompt=(prompt or make_prompt()) if traces else None,
    )
