"""Rollout tokens per second of one of our workers against plain vLLM with the same requests; how
often a clip is decoded, processed and encoded for a group.

    python -m tests.benchmarks.rollout_speed [--json FILE] [--rounds 6] [--clips 16]

One engine on a CPU, the demo's model and clips, groups of 8 answers of up to 40 tokens. In turns:

    ours    rollout/worker.py: sample -> cached clip -> prompt -> group -> Completions
    plain   AsyncLLM.generate of the same engine, which gets the same token ids and processed clips,
            made before, with n = 8: the engine alone, without anything of ours around it

The engine's caches are emptied before each. A round is a pair, and who begins changes; the ratio is
the median of the rounds' own. Counts are of the first answers, by counters inside the engine's
process and the clip store. Prints one row per figure: name, value, unit, limit. Ends with status 1
if a limit is missed.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cluster.demo.clips import make_demo_data
from cluster.demo.events import DEFINITIONS
from cluster.demo.make_model import make_demo_model
from rollout.config import RolloutConfig
from rollout.engine import Sampling
from rollout.manifest import read_manifest
from rollout.prompt import Prompts
from rollout.render import Renderer
from rollout.vllm_calls.request import vllm_requests
from rollout.vllm_engine import VllmEngine
from rollout.worker import RolloutWorker
from tests.benchmarks.figures import Figure, report, say
from video.cache import ClipStore
from video.config import VideoConfig
from video.processor import ClipProcessor
from wire.labels import Label, LabelSet
from wire.types import PolicyVersion, Prompt, Sample, stable_seed

GOAL = 0.95
LIMIT = 0.85  # on a machine that does other things besides
_CONFIG = RolloutConfig(
    dtype="float32",
    group_size=8,
    max_prompt_length=384,
    max_response_length=40,
    block_size=32,
    num_threads=1,
)


class CountingProcessor(ClipProcessor):
    """A clip processor that counts its calls."""

    calls = 0

    def process(self, *values: Any, **more: Any) -> Any:
        self.calls += 1
        return super().process(*values, **more)


@dataclass
class Bench:
    """A worker, its engine and what it is asked."""

    worker: RolloutWorker
    engine: VllmEngine
    samples: Sequence[Sample]

    async def ours(self, seed: int) -> int:
        """Tokens of a group about each clip, by the worker."""
        rollouts = await asyncio.gather(
            *[self.worker.answer(sample, _sampling(sample, seed)) for sample in self.samples]
        )
        assert not any(rollout.failures for rollout in rollouts)
        return sum(len(one.token_ids) for r in rollouts for one in r.completions)

    async def plain(self, requests: Sequence[Any], seed: int) -> int:
        """Tokens of the same groups, by vLLM alone."""
        counts = [
            self._generate(request, sample, seed)
            for request, sample in zip(requests, self.samples, strict=True)
        ]
        return sum(await asyncio.gather(*counts))

    async def _generate(self, request: Any, sample: Sample, seed: int) -> int:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = _sampling(sample, seed)
        params = SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            logprobs=0,
            logit_bias=self.engine._bias or None,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        tokens = 0
        async for output in self.engine._llm.generate(request, params, f"{sample.id}-{seed}"):
            tokens += sum(len(one.token_ids) for one in output.outputs)
        return tokens

    async def requests(self) -> list[Any]:
        """The requests of plain vLLM, made before."""
        made = []
        for sample in self.samples:
            prompt, clip = await self.worker._inputs.of(sample, "trace")  # type: ignore[misc]
            assert isinstance(prompt, Prompt)
            made += vllm_requests(prompt.token_ids, clip, self.engine._rule, _CONFIG)
        return made

    async def forget(self) -> None:
        """Empty the engine's caches, as a weight update does."""
        await self.engine._groups.pause()
        await self.engine._llm.resume_generation()


def _sampling(sample: Sample, seed: int) -> Sampling:
    return Sampling(
        n=_CONFIG.group_size,
        temperature=1.0,
        for_training=True,
        max_tokens=_CONFIG.max_response_length,
        seed=stable_seed(sample.id, seed),
    )


def count_encodes(worker: Any) -> None:
    """Let the engine's process count the clips that its tower sees."""
    runner = worker.model_runner
    batch, runner.num_encoded = runner._batch_mm_inputs_from_scheduler, 0

    def counting(*values: Any) -> Any:
        hashes, *rest = batch(*values)
        runner.num_encoded += len(hashes)
        return hashes, *rest

    runner._batch_mm_inputs_from_scheduler = counting


def num_encoded(worker: Any) -> int:
    return int(worker.model_runner.num_encoded)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--clips", type=int, default=16)
    options = parser.parse_args()
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # functions of ours into its process
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measure(Path(folder), options.rounds, options.clips))
    return report(rows, options.json)


async def measure(folder: Path, rounds: int, clips: int) -> list[Figure]:
    model = folder / "model"
    make_demo_model(model)
    manifest = make_demo_data(folder / "data", train=clips, traces=1, val=1, cal=1, test=1)
    labels = LabelSet(labels=tuple(Label(name=n, definition=d) for n, d in DEFINITIONS.items()))
    samples = [s for s in read_manifest(manifest, labels, None) if s.split == "train"]
    renderer, processor = Renderer.load(model, _CONFIG.max_prompt_length), CountingProcessor(model)
    store = ClipStore(folder / "cache", processor, VideoConfig(max_frames=12))
    engine = await VllmEngine.start(model, _CONFIG, renderer.blocked_tokens(), "object_store")
    version = PolicyVersion(attempt=0, step=0)
    worker = RolloutWorker("r0", engine, renderer, store, Prompts(labels), version)
    bench = Bench(worker, engine, samples)
    try:
        await engine._llm.collective_rpc(count_encodes)
        await bench.ours(seed=0)
        (encoded,) = await engine._llm.collective_rpc(num_encoded)
        num_decoded = sum(store.decoded.values())
        counts = [
            Figure("per_group/decodes", num_decoded / clips, "decodes", 1, "below"),
            Figure("per_group/processor_calls", processor.calls / clips, "calls", 1, "below"),
            Figure("per_group/encodes", encoded / clips, "encodes", 1, "below"),
        ]
        return [*await _speed(bench, rounds), *counts]
    finally:
        engine.stop()


async def _speed(bench: Bench, rounds: int) -> list[Figure]:
    requests = await bench.requests()
    ours: list[float] = []
    plain: list[float] = []
    await bench.forget()
    await bench.plain(requests, seed=0)  # warms it up, as the counts did ours
    for number in range(1, rounds + 1):
        turns: list[tuple[list[float], Callable[[], Awaitable[int]]]] = [
            (ours, lambda seed=number: bench.ours(seed)),  # type: ignore[misc]
            (plain, lambda seed=number: bench.plain(requests, seed)),  # type: ignore[misc]
        ]
        for rates, go in turns if number % 2 else reversed(turns):
            await bench.forget()
            start = time.perf_counter()
            tokens = await go()
            rates.append(tokens / (time.perf_counter() - start))
        say(f"round {number}: ours {ours[-1]:.0f}, plain {plain[-1]:.0f} tokens/s")
    ratios = sorted(a / b for a, b in zip(ours, plain, strict=True))
    say(f"goal {GOAL:g}; rounds from {ratios[0]:.3f} to {ratios[-1]:.3f}")
    return [
        Figure("rollout_speed/ours", median(ours), "tokens/s"),
        Figure("rollout_speed/plain_vllm", median(plain), "tokens/s"),
        Figure("rollout_speed/ratio", median(ratios), "x", LIMIT),
    ]


if __name__ == "__main__":
    sys.exit(main())
