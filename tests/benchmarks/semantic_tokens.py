"""Rollout tokens per second and seconds of a learner step, with video tokens and with narratives.

    python -m tests.benchmarks.semantic_tokens [--json FILE] [--rounds N] [--only rollout|learner]

The real engine and a real learner rank on a CPU (two threads, float32), the Qwen2.5-VL of 63M
parameters of tests.benchmarks.embedding_cache. Two clips: the demo's (96 video tokens) and a longer
one (1,024). Each is asked about as video, as text (its narrative in words), and as embeddings (one
video token per temporal patch). A round is 4 clips x 8 answers of 32 tokens: written by the engine,
from pixels the first time it meets a clip; then one GRPO-shaped update of them all, the tower's
features cached. Sides alternate, medians. What a narrative costs before, a look of the tower at
each clip, once, is not in it; accuracy is the business of recipes/demo-lvlm-var.toml. Prints one
row per figure: name, value, unit, limit. Ends with status 1 if a limit is missed.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from learner.config import GrpoLossConfig, LearnerConfig, OptimConfig
from learner.model.embedding_store import EmbeddingStore
from learner.ranks.rendezvous import open_rendezvous
from learner.shared_prefix.rows import Response, Row, StepCounts
from learner.worker import LearnerWorker
from rollout.config import RolloutConfig
from rollout.engine import Sampling
from rollout.vllm_engine import VllmEngine
from tests.benchmarks.embedding_cache import write_model
from tests.benchmarks.figures import Figure, report, say
from tests.tiny_models import build_processor
from video.processor import ProcessedClip
from video.semantic_tokens.narrative import narrative_text, runs
from wire.token_arrays import TokenIds
from wire.types import Prompt

_CLIPS, _ANSWERS, _LENGTH, _WIDTH = 4, 8, 32, 512
_GRIDS = {"demo": (6, 8, 8), "long": (16, 16, 16)}
_NAMES = ("left", "right", "up", "down", "grow", "shrink")
_QUESTION = 40
"""Tokens of text around the clip."""
_SIDES = ("video", "text", "embeddings")


@dataclass(frozen=True)
class Asked:
    """A prompt, and the clip that it is about."""

    prompt: Prompt
    clip: ProcessedClip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("rollout", "learner"))
    options = parser.parse_args()
    rows: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        model_dir, video_token = write_model(Path(folder) / "model")
        if options.only != "learner":
            rows += asyncio.run(rollout(model_dir, video_token, options.rounds))
        if options.only != "rollout":
            rows += learner(model_dir, video_token, Path(folder), options.rounds)
    return report(rows, options.json)


def ask(size: str, side: str, number: int, video_token: int) -> Asked:
    """A prompt about a clip of this size, shown so."""
    t, h, w = grid = _GRIDS[size]
    draw = np.random.default_rng(number)
    name = f"{size}-{side}-{number}"
    pixels, embeddings = np.zeros((0, 1), np.float32), None
    if side == "video":
        pixels = draw.standard_normal((t * h * w, 1176), np.float32)
        shown = [video_token] * (t * h * w // 4)
    elif side == "embeddings":
        embeddings = draw.standard_normal((t, _WIDTH), np.float32)
        grid, shown = (t, 2, 2), [video_token] * t
    else:
        codes = np.repeat(draw.integers(0, len(_NAMES), t), 2)[:t].tolist()  # runs of two
        text = narrative_text(runs(codes), _NAMES)
        grid, shown = (0, 0, 0), build_processor("qwen2_5_vl").tokenizer(text)["input_ids"]
    words = draw.integers(100, 1000, _QUESTION).tolist()
    clip = ProcessedClip(
        pixel_values=pixels,
        grid_thw=grid,
        seconds_per_grid=0.5,
        placeholder_ids=(),
        fingerprint=name,
        clip_key=name,
        semantic_tokenizer="" if side == "video" else "3f9c0a7b51de",
        embeddings=embeddings,
    )
    prompt = Prompt(
        token_ids=TokenIds((*words[:5], *shown, *words[5:])),
        clip_key=name,
        fingerprint=name,
        semantic_tokenizer=clip.semantic_tokenizer,
    )
    return Asked(prompt, clip)


async def rollout(model_dir: Path, video_token: int, rounds: int) -> list[Figure]:
    """Tokens per second of groups about clips that the engine has not met."""
    config = RolloutConfig(
        dtype="float32",
        max_prompt_length=1200,
        max_response_length=_LENGTH,
        block_size=32,
        max_num_seqs=_CLIPS * _ANSWERS,
        kv_cache_gb=1.0,
    )
    engine = await VllmEngine.start(model_dir, config, [video_token], "object_store")
    seconds: dict[tuple[str, str], list[float]] = {}
    sampling = Sampling(n=_ANSWERS, temperature=1.0, max_tokens=_LENGTH, seed=1)
    length = 0
    try:
        for number in range(rounds + 1):  # the first warms up
            for size in _GRIDS:
                for side in _SIDES:
                    asked = [ask(size, side, 100 * number + n, video_token) for n in range(_CLIPS)]
                    start = time.perf_counter()
                    written = await asyncio.gather(
                        *[engine.generate(one.prompt, one.clip, sampling) for one in asked]
                    )
                    spent = time.perf_counter() - start
                    length = sum(len(a.token_ids) for group in written for a in group.answers)
                    if number:
                        seconds.setdefault((size, side), []).append(spent / length)
            say(f"rollout round {number}")
    finally:
        engine.stop()
    rates = {key: 1 / statistics.median(values) for key, values in seconds.items()}
    return figures("rollout", rates, "tokens/s", {"long": 1.0})


def learner(model_dir: Path, video_token: int, folder: Path, rounds: int) -> list[Figure]:
    """Updates per second on groups whose clips the tower has seen."""
    clips: dict[str, ProcessedClip] = {}

    class Clips:
        def load(self, clip_key: str, video: str, fingerprint: str) -> ProcessedClip:
            return clips[clip_key]

    worker = LearnerWorker(
        LearnerConfig(dtype="float32", num_threads=2, max_tokens_per_batch=4096),
        GrpoLossConfig(),
        Clips(),  # type: ignore[arg-type]
        EmbeddingStore(folder / "embeddings", 2**33),
    )
    worker.join(0, "127.0.0.1", open_rendezvous(1))
    worker.begin(str(model_dir), OptimConfig(learning_rate=1e-4))
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):  # the first fills the cache
        for size in _GRIDS:
            for side in _SIDES:
                asked = [ask(size, side, n, video_token) for n in range(_CLIPS)]
                clips.update({one.clip.clip_key: one.clip for one in asked})
                rows = [row(one.prompt) for one in asked]
                start = time.perf_counter()
                worker.train_step(rows, StepCounts.of(rows), "supervised", 1e-4)
                if number:
                    seconds.setdefault((size, side), []).append(time.perf_counter() - start)
        say(f"learner round {number}")
    rates = {key: 1 / statistics.median(values) for key, values in seconds.items()}
    return figures("learner", rates, "steps/s", {"long": 1.0})


def row(prompt: Prompt) -> Row:
    draw = np.random.default_rng(0)
    responses = tuple(
        Response(token_ids=TokenIds(draw.integers(100, 1000, _LENGTH)), advantage=1.0)
        for _ in range(_ANSWERS)
    )
    return Row(prompt=prompt, video="", responses=responses)


def figures(
    part: str,
    rates: Mapping[tuple[str, str], float],
    unit: str,
    limits: Mapping[str, float],
) -> Sequence[Figure]:
    """Rates of all sides, and how much faster narratives are than video tokens."""
    rows = [Figure(f"{part}/{size}/{side}", rates[size, side], unit) for size, side in rates]
    return rows + [
        Figure(
            f"{part}/{size}/{side}_to_video",
            rates[size, side] / rates[size, "video"],
            "times",
            limits.get(size),
        )
        for size in _GRIDS
        for side in _SIDES[1:]
    ]


if __name__ == "__main__":
    sys.exit(main())
