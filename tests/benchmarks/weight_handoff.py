"""What it costs to bring new weights into the engines, next to a plain copy of the same bytes.

    python -m tests.benchmarks.weight_handoff [--parts-only] [--gbit 100] [--json FILE]

First the parts that a bucket passes, measured alone, and what they come to for 16.6 GB on 4 nodes
of 4 engines over a network of that speed (weight_parts.py). Then, unless ``--parts-only``, the
whole on this machine:

A real learner (DeepSpeed, ZeRO 0 on one rank and ZeRO 3 on two) and two real vLLM engines, in Ray
on this machine, with models of about 20 and 200 million float32 parameters. ``copy_share``: time of
a plain copy in memory, into memory that was used before, over the time of the update, in turns,
medians; ``delivered_share``: the same of the bytes that all engines got together, in one copy after
another; ``step_share``: the update, its parity probe included, of a step in which the same learner
trains on two groups of eight traces that were written for it (a small step: a larger one makes the
share smaller). Prints one row per figure: name, value, unit, limit, and whether the goal is to be
above or below it. Ends with status 1 if a limit is missed. Some ten minutes on two cores.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.actors import placement
from cluster.config.recipe import RunConfig
from cluster.demo.clips import make_demo_data
from cluster.demo.events import DEFINITIONS
from cluster.weight_sync.full_weights import WeightSync
from learner.shared_prefix.rows import Response, Row
from rollout.engine import Sampling
from tests import tiny_models
from tests.benchmarks.figures import Figure, report
from tests.benchmarks.weight_parts import measure_parts
from tests.real_workers import Workers, make_config, open_workers
from wire.types import PolicyVersion

_SIZES = {
    "20m": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 9},
    "200m": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 13},
}
_ROUNDS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--size", choices=_SIZES, action="append", help="these only")
    parser.add_argument("--parts-only", action="store_true", help="no engines")
    parser.add_argument("--gbit", type=float, default=100.0, help="of the network, per node")
    arguments = parser.parse_args()
    results = measure_parts(arguments.gbit)
    if not arguments.parts_only:
        with tempfile.TemporaryDirectory() as folder:
            results += asyncio.run(measure(arguments.size or list(_SIZES), Path(folder)))
    return report(results, arguments.json)


async def measure(sizes: Sequence[str], folder: Path) -> list[Figure]:
    """All figures of the models, in one Ray."""
    import ray

    manifest = make_demo_data(folder / "data", train=4, traces=1, val=1, cal=1, test=1)
    results = []
    try:
        for size in sizes:
            config = config_of(size, folder / size, manifest)
            if not ray.is_initialized():
                placement.connect(config, debug=False)
            results += await measure_model(size, config, folder / size)
    finally:
        ray.shutdown()
    return results


def config_of(size: str, folder: Path, manifest: Path) -> RunConfig:
    """A run's, with the model written."""
    return make_config(
        write_model(folder / "model", _SIZES[size]),
        manifest,
        list(DEFINITIONS),
        rollout={"num_workers": 2, "num_cpus": 0.5, "num_threads": 1},
        learner={"num_cpus": 0.5, "num_threads": 2, "num_ranks": 2},
        cluster={"object_store_mb": 200},
    )


async def measure_model(size: str, config: RunConfig, folder: Path) -> list[Figure]:
    """All figures of a model."""
    results = []
    async with open_workers(config, folder / "cache") as workers:
        async with workers.learner(zero_stage=0, num_ranks=1) as (learner, handoff):
            results += await measure_updates(f"{size}/zero0", workers, learner, 0.5)
            step_s = await measure_step(workers, learner)
            results += await measure_share(f"{size}/zero0", workers, handoff, step_s)
        sharded = workers.learner(zero_stage=3, num_ranks=2, num_threads=1)
        async with sharded as (learner, handoff):
            results += await measure_updates(f"{size}/zero3", workers, learner, 0.05)
            step_s = await measure_step(workers, learner)
            results += await measure_share(f"{size}/zero3", workers, handoff, step_s)
    return results


def write_model(folder: Path, text: dict[str, int]) -> Path:
    """A Qwen2.5-VL with a larger text model than the tests' tiny one."""
    rope = {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e4}
    heads = text["hidden_size"] // 64
    sizes = {**text, "num_attention_heads": heads, "num_key_value_heads": heads // 2}
    return tiny_models.write_tiny_model(folder, "qwen2_5_vl", rope_parameters=rope, **sizes)


async def measure_updates(name: str, workers: Workers, learner: Any, goal: float) -> list[Figure]:
    """Updates and copies in turns, to one engine and to both."""
    results, step = [], 0
    for names in (workers.rollouts.names[:1], workers.rollouts.names):
        updates, copies, parts = list[float](), list[float](), list[dict[str, float]]()
        copy = PlainCopy()
        for _ in range(_ROUNDS + 1):
            step += 1
            start = time.perf_counter()
            sent = await learner.publish(
                PolicyVersion(attempt=1, step=step), workers.rollouts.engines(names)
            )
            updates.append(time.perf_counter() - start)
            assert not sent.failures, sent.failures
            parts.append(sent.figures)
            copies.append(copy.seconds(int(sent.figures["weights/gb"] * 1e9)))
        of = f"{name}/{len(names)}_engine"
        update, plain = statistics.median(updates[1:]), statistics.median(copies[1:])
        sys.stderr.write(f"{of} {update:.3f} s, copy {plain:.3f} s, first {updates[0]:.3f} s\n")
        sys.stderr.write(f"  {[f'{x:.3f}' for x in updates]} {parts[-1]}\n")
        results.append(Figure(f"{of}/copy_share", plain / update, "ratio", goal, "above"))
        if len(names) > 1:
            delivered = len(names) * plain / update
            results.append(Figure(f"{of}/delivered_share", delivered, "ratio", goal, "above"))
        rate = parts[-1]["weights/gb"] / update
        results.append(Figure(f"{of}/rate", rate, "GB/s", 0.1, "above"))
    return results


class PlainCopy:
    """From memory to memory, both used before."""

    def __init__(self) -> None:
        self._from, self._to = (np.zeros(0, np.uint8) for _ in range(2))

    def seconds(self, num_bytes: int) -> float:
        if len(self._from) != num_bytes:
            self._from, self._to = (np.full(num_bytes, i, np.uint8) for i in range(2))
        start = time.perf_counter()
        np.copyto(self._to, self._from)
        return time.perf_counter() - start


async def measure_step(workers: Workers, learner: Any) -> float:
    """Seconds of writing two groups and training on them."""
    start = time.perf_counter()
    sampling = Sampling(n=8, temperature=1.0, max_tokens=64, seed=0)
    calls = [workers.rollouts.answer(sample, sampling) for sample in workers.samples[:2]]
    groups = await asyncio.gather(*calls)
    rows = [
        row_of(sample.video, group) for sample, group in zip(workers.samples, groups, strict=False)
    ]
    await learner.train_step(rows, "grpo", 1e-6)
    return time.perf_counter() - start


def row_of(video: str, group: Any) -> Row:
    """Alternating advantages, so that there is a gradient."""
    responses = tuple(
        Response(token_ids=c.token_ids, rollout_logprobs=c.logprobs, advantage=(-1.0) ** i)
        for i, c in enumerate(group.completions)
    )
    return Row(prompt=group.prompt, video=video, responses=responses)


async def measure_share(
    name: str, workers: Workers, handoff: WeightSync, step_s: float
) -> Sequence[Figure]:
    """The whole hand-off to two engines, with the probe, as a share of a step."""
    seconds = []
    for step in range(3):
        start = time.perf_counter()
        report = await handoff.publish(PolicyVersion(attempt=2, step=step))
        seconds.append(time.perf_counter() - start)
        assert report.num_out_of_service == 0
    spent = statistics.median(seconds)
    sys.stderr.write(f"{name} hand-off {spent:.3f} s, the rest of a step {step_s:.1f} s\n")
    return [Figure(f"{name}/step_share", spent / (step_s + spent), "share", 0.05, "below")]


if __name__ == "__main__":
    sys.exit(main())
