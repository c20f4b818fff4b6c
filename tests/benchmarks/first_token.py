"""Seconds to the first tokens of a group about a long clip, from pixels and from embeddings.

    python -m tests.benchmarks.first_token [--json FILE] [--rounds N]

The real engine on a CPU (two threads, float32), the Qwen2.5-VL of 63M parameters of
tests.benchmarks.embedding_cache: clips of 448 x 448 in 32 frames (4,096 video tokens, 16,384
patches), groups of 8 with one token each; every round has a clip of its own, medians. Bytes are
those that a group sends to the engine core. Prints one row per figure: name, value, unit, limit.
Ends with status 1 if a limit is missed. Its tower does more of the work than a large model's: 80%
of the prompt's operations, where Qwen2.5-VL-7B's does a quarter.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cluster.actors.embeddings_of_node import EmbeddingsOfNode
from learner.model.embedding_store import EmbeddingStore
from rollout.config import RolloutConfig
from rollout.engine import Sampling
from rollout.vllm_engine import VllmEngine
from tests.benchmarks.embedding_cache import write_model
from tests.benchmarks.figures import Figure, report
from video.processor import ProcessedClip
from wire.token_arrays import TokenIds
from wire.types import Prompt

_GRID = (16, 32, 32)
_TOKENS = 16 * 16 * 16
_WIDTH = 512
_SAMPLING = Sampling(n=8, temperature=1.0, max_tokens=1, seed=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measure(Path(folder), options.rounds))
    return report(rows, options.json)


async def measure(folder: Path, rounds: int) -> list[Figure]:
    model_dir, video_token = write_model(folder / "model")
    config = RolloutConfig(
        dtype="float32",
        max_prompt_length=4200,
        max_response_length=8,
        block_size=32,
        max_num_seqs=8,
        max_batched_tokens=4224,
        kv_cache_gb=1.0,
    )
    engine = await VllmEngine.start(model_dir, config, [], "object_store")
    store = EmbeddingsOfNode(EmbeddingStore(folder / "embeddings", 2**33), "tower", _WIDTH)
    pixels, embeddings, largest = [], [], 0.0
    sent = count_bytes(engine)
    try:
        for number in range(rounds + 1):
            prompt, clip = make(number, video_token)
            engine.embeddings = None
            from_pixels, bytes_of_pixels, first = await timed(engine, prompt, clip, sent)
            engine.embeddings = store
            await forget(engine)
            await engine.generate(prompt, clip, _SAMPLING)  # the tower's only look
            await forget(engine)
            from_embeddings, bytes_of_embeddings, second = await timed(engine, prompt, clip, sent)
            largest = max(largest, difference(first, second))
            if number:  # the first round warms both up
                pixels.append(from_pixels)
                embeddings.append(from_embeddings)
    finally:
        engine.stop()
    one, two = statistics.median(pixels), statistics.median(embeddings)
    clip_bytes = clip.pixel_values.nbytes
    return [
        Figure("first_token/pixels", one, "s"),
        Figure("first_token/embeddings", two, "s"),
        Figure("first_token/embeddings_to_pixels", two / one, "ratio", 0.9, "below"),
        Figure("first_token/largest_logprob_difference", largest * 1e6, "1e-6", 10, "below"),
        Figure("first_token/sent_of_pixels", bytes_of_pixels / clip_bytes, "clips", 1.1, "below"),
        Figure("first_token/sent_as_embeddings", bytes_of_embeddings / clip_bytes, "clips"),
        Figure("first_token/clip", clip_bytes / 1e6, "MB"),
    ]


def make(number: int, video_token: int) -> tuple[Prompt, ProcessedClip]:
    draw = np.random.default_rng(number)
    name = f"clip-{number}"
    clip = ProcessedClip(
        pixel_values=draw.standard_normal((4 * _TOKENS, 1176), np.float32),
        grid_thw=_GRID,
        seconds_per_grid=0.5,
        placeholder_ids=(),
        fingerprint=name,
        clip_key=name,
    )
    ids = TokenIds((5, *[video_token] * _TOKENS, 6, 8, 9))
    return Prompt(token_ids=ids, clip_key=name, fingerprint=name), clip


async def timed(
    engine: VllmEngine, prompt: Prompt, clip: ProcessedClip, sent: list[int]
) -> tuple[float, int, Any]:
    sent.clear()
    start = time.perf_counter()
    generation = await engine.generate(prompt, clip, _SAMPLING)
    return time.perf_counter() - start, sum(sent), generation


async def forget(engine: VllmEngine) -> None:
    """Empty the engine's caches, as a weight update does."""
    await engine._groups.pause()
    await engine._llm.resume_generation()


def count_bytes(engine: VllmEngine) -> list[int]:
    """A list to which the bytes of every message to the engine core are added."""
    sent: list[int] = []
    client = engine._llm.engine_core
    encode = client.encoder.encode

    def counting(request: Any) -> Any:
        parts = encode(request)
        sent.append(sum(memoryview(part).nbytes for part in parts))
        return parts

    client.encoder.encode = counting
    return sent


def difference(one: Any, other: Any) -> float:
    pairs = zip(one.answers, other.answers, strict=True)
    return max(abs(a.logprobs[0] - b.logprobs[0]) for a, b in pairs)


if __name__ == "__main__":
    sys.exit(main())
