"""What a frozen tower's embedding cache spares of a learner step, and what a hit costs.

    python -m tests.benchmarks.embedding_cache [--json FILE]

A Qwen2.5-VL of 63M parameters (text: 8 layers of 512; tower: 8 layers of 512), 8 clips of 16 frames
of 112 x 112 (128 video tokens), 4 responses of 32 tokens each: forward, backward and AdamW under
DeepSpeed in this process, float32, two threads. Sides alternate, medians of 5. Prints one row per
figure: name, value, unit, limit. Ends with status 1 if a limit is missed. Two minutes on two
cores.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from learner.config import GrpoLossConfig, LearnerConfig, OptimConfig
from learner.model.embedding_cache import tower_hash
from learner.model.embedding_store import EmbeddingStore, SeenClip
from learner.ranks.rendezvous import open_rendezvous
from learner.shared_prefix.clip_features import ClipFeatures
from learner.shared_prefix.rows import Response, Row, StepCounts
from learner.worker import LearnerWorker
from tests.benchmarks.figures import Figure, report
from tests.tiny_models import build_processor
from video.processor import ProcessedClip
from wire.token_arrays import TokenIds
from wire.types import Prompt

_ROUNDS = 5
_GRID = (8, 8, 8)
_TOKENS = 8 * 4 * 4
_NUM_CLIPS = 8


class Clips:
    """Random pixels by clip key, without a file: decoding is measured in tests.benchmarks.video."""

    def load(self, clip_key: str, path: str, fingerprint: str) -> ProcessedClip:
        draw = np.random.default_rng(int(clip_key))
        return ProcessedClip(
            pixel_values=draw.standard_normal((4 * _TOKENS, 1176), np.float32),
            grid_thw=_GRID,
            seconds_per_grid=0.5,
            placeholder_ids=(),
            fingerprint=fingerprint,
            clip_key=clip_key,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    target = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        rows = [*measure(Path(folder)), *measure_entry(Path(folder))]
    return report(rows, target)


def measure(folder: Path) -> list[Figure]:
    model_dir, video_token = write_model(folder / "model")
    worker = LearnerWorker(
        LearnerConfig(dtype="float32", num_threads=2, max_tokens_per_batch=2048),
        GrpoLossConfig(),
        Clips(),  # type: ignore[arg-type]
        EmbeddingStore(None, 2**30),
    )
    worker.join(0, "127.0.0.1", open_rendezvous(1))
    worker.begin(str(model_dir), OptimConfig(learning_rate=1e-4))
    rows = [make_row(n, video_token) for n in range(_NUM_CLIPS)]
    counts = StepCounts.of(rows)
    opened = worker._in_stage._seen
    assert opened is not None
    stores = iter(range(10**6))

    def new_store() -> EmbeddingStore:
        return EmbeddingStore(folder / f"cold-{next(stores)}", 2**33)

    def step(store: EmbeddingStore | None) -> float:
        worker._in_stage._seen = opened
        opened._store = store or new_store()
        return seconds(lambda: worker.train_step(rows, counts, "supervised", 1e-4))

    def without() -> float:
        worker._in_stage._seen = None
        return seconds(lambda: worker.train_step(rows, counts, "supervised", 1e-4))

    warm = EmbeddingStore(folder / "warm", 2**33)
    for _ in range(2):
        step(warm)
    rounds = [(step(None), step(warm), without()) for _ in range(_ROUNDS)]
    cold, found, off = (statistics.median(column) for column in zip(*rounds, strict=True))

    opened._store = warm
    opened.fill(rows)
    disk, tower, memory = [], [], []
    for _ in range(_ROUNDS):
        opened._store = EmbeddingStore(folder / "warm", 2**33)
        disk.append(seconds(lambda: opened.fill(rows)))
        memory.append(seconds(lambda: opened.fill(rows)))
        opened._store = EmbeddingStore(None, 0)
        tower.append(seconds(lambda: opened.fill(rows)))
    policy = worker.engine.policy
    num_bytes = sum(p.nbytes for p in policy.tower.parameters())
    hashing = seconds(
        lambda: tower_hash(worker.engine.tower_parameters(), policy.tower_config, "cpu")
    )
    ratio = statistics.median(a / b for a, b in zip(disk, tower, strict=True))
    a_clip = 1e3 / _NUM_CLIPS
    return [
        Figure("embedding_cache/warm_to_cold_step", found / cold, "ratio", 0.9, "below"),
        Figure("embedding_cache/warm_step_to_no_cache", found / off, "ratio", 0.9, "below"),
        Figure("embedding_cache/cold_step_to_no_cache", cold / off, "ratio", 1.1, "below"),
        Figure("embedding_cache/warm_step", found, "s", 60, "below"),
        Figure("embedding_cache/disk_hit_to_tower", ratio, "ratio", 0.1, "below"),
        Figure(
            "embedding_cache/disk_hit", statistics.median(disk) * a_clip, "ms/clip", 20, "below"
        ),
        Figure(
            "embedding_cache/memory_hit", statistics.median(memory) * a_clip, "ms/clip", 2, "below"
        ),
        Figure("embedding_cache/tower", statistics.median(tower) * a_clip, "ms/clip", 1e4, "below"),
        Figure("embedding_cache/tower_hash", hashing / num_bytes * 1e9, "s/GB", 5.0, "below"),
    ]


def measure_entry(folder: Path) -> list[Figure]:
    """The store's own work on an entry of 4,096 tokens of a 7B model (29 MB of bfloat16)."""
    features = ClipFeatures(torch.randn(4096, 3584).to(torch.bfloat16))
    entries = [
        SeenClip(key=f"{n:02d}{'0' * 38}", features=features, grid_thw=_GRID, seconds_per_grid=0.5)
        for n in range(24)
    ]
    store = EmbeddingStore(folder / "entries", 2**33, recent_bytes=0)
    put = statistics.median(seconds(lambda e=e: store.put(e)) for e in entries[:8])
    found = statistics.median(seconds(lambda e=e: store.get(e.key)) for e in entries[:8])
    full = EmbeddingStore(folder / "full", 8 * entries[0].num_bytes, recent_bytes=0)
    for entry in entries[:12]:
        full.put(entry)
    beyond = statistics.median(seconds(lambda e=e: full.put(e)) for e in entries[12:])
    return [
        Figure("embedding_cache/put_29mb", put * 1e3, "ms", 400, "below"),
        Figure("embedding_cache/hit_29mb", found * 1e3, "ms", 100, "below"),
        Figure("embedding_cache/put_into_a_full_cache", beyond * 1e3, "ms", 1, "below"),
    ]


def write_model(folder: Path) -> tuple[Path, int]:
    """The model's directory, and its video token."""
    import transformers

    processor = build_processor("qwen2_5_vl")
    processor.save_pretrained(folder)
    token = processor.tokenizer.convert_tokens_to_ids
    sizes: dict[str, Any] = {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 32_000,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12]},
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config=sizes,
        vision_config={
            "depth": 8,
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_heads": 8,
            "out_hidden_size": 512,
            "window_size": 112,
            "fullatt_block_indexes": [3, 7],
            "tokens_per_second": 2,
        },
        video_token_id=token("<|video_pad|>"),
        image_token_id=token("<|image_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    return folder, token("<|video_pad|>")


def make_row(number: int, video_token: int) -> Row:
    draw = np.random.default_rng(number)

    def words(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in draw.integers(100, 1000, count))

    prompt = (*words(8), *[video_token] * _TOKENS, *words(24))
    responses = tuple(Response(token_ids=TokenIds(words(32))) for _ in range(4))
    prompt_of = Prompt(token_ids=prompt, clip_key=str(number), fingerprint="pixels")
    return Row(prompt=prompt_of, video="", responses=responses)


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
