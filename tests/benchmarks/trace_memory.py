"""What the driver holds while it measures, calibrates, teaches and controls by many traces.

    python -m tests.benchmarks.trace_memory [--traces 200000] [--clips 30000] [--json FILE]

Engines and learner are scripted; archive, writer, rows, predictions and the classifiers' code are
the product's. Each phase runs in a process of its own, whose largest resident memory counts, with
imports and tokenizer (650 MB). Prompts of the cold start have 4,096 tokens and its targets about
1,000; elsewhere prompts have 512 and answers 160, as longer ones would only take the engines and
the archive more time. The head's hidden states have 8 numbers: its fit is measured elsewhere.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.config.kinds.sft import SftStage
from cluster.controls.arms import arm_run
from cluster.run import run_each
from cluster.stages.evaluation import evaluate_policy
from learner.shared_prefix.rows import Row
from rollout.engine import Sampling
from rollout.prompt import PromptKind
from rollout.worker import Rollout
from tests.benchmarks.figures import Figure, report, say
from tests.cluster.session_fakes import (
    NAMES,
    FakeEngines,
    FakeLearner,
    FakeMemory,
    FakeMetrics,
    make_config,
    make_run_dir,
    open_fakes,
    run_one,
)
from wire.types import Completion, FinishReason, Prompt, Sample, Split

TRACES_PER_CLIP, VOTES, TEST_CLIPS = 4, 8, 2_000
PROMPT, LONG_PROMPT, WIDTH = 512, 4_096, 8
LIMIT_MB = 1_000
THOUGHT = "the ball goes up and then left, stays and turns " * 14


class Engines(FakeEngines):
    """Write an answer at once, and remember none."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.prompt_length = PROMPT
        self._endings = {
            label: self._renderer.target(f"{THOUGHT}</think><answer>{label}</answer>")
            for label in NAMES
        }

    async def prompt(self, sample: Sample, ask: PromptKind) -> Prompt:
        ids = (7,) * (self.prompt_length - 2) + (hash(sample.id) % 50_000, 2)
        return Prompt(token_ids=ids, clip_key=sample.video, fingerprint="f" * 64)

    async def answer(
        self, sample: Sample, sampling: Sampling, upcoming: str | None = None, ask: Any = "trace"
    ) -> Rollout:
        completions = tuple(self._complete(sample, index) for index in range(sampling.n))
        prompt = await self.prompt(sample, "trace")
        return Rollout(
            prompt=prompt, completions=completions, failures=(), policy_version=self.version
        )

    def _complete(self, sample: Sample, index: int) -> Completion:
        label = NAMES[(hash(sample.id) + index) % len(NAMES)]
        ids = self._endings[label]
        return Completion(
            token_ids=ids,
            logprobs=(-0.5,) * len(ids),
            text=f"<think>{sample.id} {index} {THOUGHT}</think><answer>{label}</answer>",
            finish_reason=FinishReason.STOP,
            policy_version=self.version,
        )


class Learner(FakeLearner):
    """Computes nothing, and keeps no row."""

    async def train_step(
        self, rows: Sequence[Row], objective: str, learning_rate: float
    ) -> dict[str, float]:
        return {"nll": float(len(rows))}

    async def logprobs(self, rows: Iterable[Row]) -> list[list[list[float]]]:
        return [[[-1.0] * len(r.token_ids) for r in row.responses] for row in rows]

    async def features(self, rows: Sequence[Row]) -> Any:  # of earlier versions
        return np.concatenate([block async for block in self.feature_blocks(rows)])

    async def feature_blocks(self, rows: Iterable[Row]) -> AsyncIterator[Any]:
        draw = np.random.default_rng(0)
        for _ in rows:
            yield draw.standard_normal((1, WIDTH), np.float32)


class Metrics(FakeMetrics):
    """Keeps nothing."""

    def write(self, stage: str, step: int, values: dict[str, float]) -> None:
        pass


def samples_of(num: int, split: str, trace: str | None = None) -> list[Sample]:
    return [
        Sample(
            id=f"{split}-{number}",
            video=f"/shared/clips/{split}/{number:07d}.mp4",
            label=NAMES[number % len(NAMES)],
            split=Split(split),
            trace=trace,
        )
        for number in range(num)
    ]


async def run_phase(name: str, num: int, folder: Path) -> None:
    config = make_config(
        calibrate={
            "num_traces": TRACES_PER_CLIP,
            "epochs": 1,
            "batch_size": 256,
            "methods": ["head" if name == "head" else "verdict"],
        },
        coldstart={"epochs": 1, "batch_size": 256},
        controls={"num_votes": VOTES},
    )
    clips, act = PHASES[name]
    samples = [*clips(num), *samples_of(1, "train")]
    run_dir = make_run_dir(folder, config, "base", "coldstart", "grpo")
    start = ("grpo", config.chain.last_step("grpo"))
    with open_fakes(config, run_dir, samples, start, Engines, Learner) as fakes:
        fakes[0].metrics = Metrics()  # type: ignore[assignment]
        await act(*fakes[:2])


async def evaluate(session: Any, engines: Any) -> None:
    await evaluate_policy(session, "grpo", session.data.of(Split.TEST), 0.01)


async def calibrate(session: Any, engines: Any) -> None:
    await run_one(session, "calibrated")


async def teach(session: Any, engines: Any) -> None:
    engines.prompt_length = LONG_PROMPT
    assert isinstance(session.config.chain["coldstart"], SftStage)
    await run_one(session, "coldstart")


async def control(session: Any, engines: Any) -> None:
    """The policy's probabilities of its traces, then a vote of several more."""
    memory: Any = FakeMemory()
    await evaluate_policy(session, "grpo", session.data.of(Split.TEST), 0.01)
    await run_each(session, ["policy_probability", "vote"], arm_run, memory)


Act = Callable[[Any, Any], Awaitable[None]]
TEACHER = THOUGHT * 6  # about a thousand tokens
PHASES: dict[str, tuple[Callable[[int], list[Sample]], Act]] = {
    "evaluation": (lambda n: samples_of(n, "test"), evaluate),
    "verdict": (
        lambda n: samples_of(n // TRACES_PER_CLIP, "cal") + samples_of(TEST_CLIPS, "test"),
        calibrate,
    ),
    "head": (
        lambda n: samples_of(n // TRACES_PER_CLIP, "cal") + samples_of(TEST_CLIPS, "test"),
        calibrate,
    ),
    "cold start": (
        lambda n: samples_of(n, "train", TEACHER) + samples_of(20, "test"),
        teach,
    ),
    "controls": (lambda n: samples_of(n // (1 + VOTES), "test"), control),
}


def measure(name: str, num: int) -> tuple[float, float]:
    """Largest resident memory of a phase, MB, and its seconds, in a process of its own."""
    words = [sys.executable, "-m", "tests.benchmarks.trace_memory", "--phase", name]
    done = subprocess.run(
        [*words, "--num", str(num)], stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return found["peak_mb"], found["seconds"]


def figures(num_traces: int, num_clips: int) -> list[Figure]:
    rows = []
    for name in PHASES:
        num = num_clips if name == "cold start" else num_traces
        peak_mb, seconds = measure(name, num)
        what = f"{name}, {num:,} {'clips' if name == 'cold start' else 'traces'}"
        rows.append(Figure(f"{what}: driver's peak memory", peak_mb, "MB", LIMIT_MB, "below"))
        rows.append(Figure(f"{what}: seconds", seconds, "s"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=200_000)
    parser.add_argument("--clips", type=int, default=30_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--num", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase is None:
        report(figures(options.traces, options.clips), options.json)
        return
    before = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run_phase(options.phase, options.num, Path(folder)))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    say(json.dumps({"peak_mb": peak_mb, "seconds": time.perf_counter() - before}))


if __name__ == "__main__":
    main()
