"""What judging costs beyond the judge's own time.

    python -m tests.benchmarks.reward [--json FILE]

512 groups of 8 traces of 1,000 tokens go through the whole path (scorer, pipe, process, and back)
with a trivial plugin of each shape; a plain loop over the same function and texts is subtracted.
Then a slow plugin beside a quick one: how much later the quick one's last answer comes.

Medians of three pairs, the two sides in turn.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from reward.config import RewardConfig, RewardTerm
from reward.scorer import Scorer
from tests.benchmarks.figures import Figure, report
from wire.labels import Label, LabelSet
from wire.types import Completion, FinishReason, PolicyVersion, Sample, Score, Split

MAX_OVERHEAD_S = 1.0
MAX_DELAY_S = 0.5  # noise of a busy machine: the slow plugin alone takes 25 s over its traces
NUM_PAIRS = 3
NUM_GROUPS, GROUP_SIZE, NUM_TOKENS = 512, 8, 1_000
LABELS = LabelSet(labels=(Label(name="abnormal"), Label(name="normal")))
SAMPLE = Sample(id="train-1", video="a.mp4", label="normal", split=Split.TRAIN, extra={"fps": 2})
PLUGINS = """
import time

def per_trace(data_source, solution_str, ground_truth, extra_info=None):
    return float(ground_truth in solution_str)

def per_group(prompts, completions, ground_truth, **kwargs):
    return [float(label in text) for text, label in zip(completions, ground_truth)]

def slow(solution_str, ground_truth):
    time.sleep(0.05)
    return 1.0
"""


def groups() -> list[list[Completion]]:
    """Traces of about five bytes per token, no two alike."""
    version = PolicyVersion(attempt=0, step=1)
    ids, logprobs = tuple(range(100_000, 100_000 + NUM_TOKENS)), (-0.1,) * NUM_TOKENS
    return [
        [
            Completion(
                token_ids=ids,
                logprobs=logprobs,
                text=f"<think>{group} {member} " + "word " * NUM_TOKENS + "</think>",
                finish_reason=FinishReason.STOP,
                policy_version=version,
            )
            for member in range(GROUP_SIZE)
        ]
        for group in range(NUM_GROUPS)
    ]


def plain_s(shape: str, traces: list[list[Completion]]) -> float:
    """Seconds of a loop over the same function."""
    namespace: dict[str, Any] = {}
    exec(PLUGINS, namespace)
    begin = time.perf_counter()
    for group in traces:
        texts = [completion.text for completion in group]
        if shape == "trl":
            namespace["per_group"](None, texts, [SAMPLE.label] * len(texts))
            continue
        for text in texts:
            namespace["per_trace"]("", text, SAMPLE.label, {})
    return time.perf_counter() - begin


async def scored_s(terms: tuple[RewardTerm, ...], traces: list[list[Completion]]) -> float:
    """Seconds of all groups through the scorer, its processes being up."""
    async with Scorer(RewardConfig(terms=terms), LABELS) as scorer:
        begin = time.perf_counter()
        results = await asyncio.gather(*[scorer.score(SAMPLE, group) for group in traces])
        seconds = time.perf_counter() - begin
    assert all(isinstance(score, Score) for group in results for score in group)
    return seconds


async def quick_beside_slow_s(path: Path, traces: list[list[Completion]]) -> tuple[float, float]:
    """Seconds of a quick plugin alone, and with a slow plugin busy in another process."""
    quick = RewardTerm(function=f"{path}:per_trace")
    slow = RewardTerm(function=f"{path}:slow")
    alone = await scored_s((quick,), traces)
    async with Scorer(RewardConfig(terms=(slow,)), LABELS) as busy:
        waiting = [asyncio.create_task(busy.score(SAMPLE, group)) for group in traces]
        beside = await scored_s((quick,), traces)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return alone, beside


def measure() -> Iterator[Figure]:
    """Plain loop and whole path in turn; medians."""
    traces = groups()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plugins.py"
        path.write_text(PLUGINS)
        for shape, function in (("verl", "per_trace"), ("trl", "per_group")):
            terms = (RewardTerm(function=f"{path}:{function}"),)
            pairs = [
                (plain_s(shape, traces), asyncio.run(scored_s(terms, traces)))
                for _ in range(NUM_PAIRS)
            ]
            plain, whole = (median(side) for side in zip(*pairs, strict=True))
            yield Figure(f"reward/plain_loop_{shape}", plain, "s")
            yield Figure(f"reward/whole_path_{shape}", whole, "s")
            yield Figure(f"reward/overhead_{shape}", whole - plain, "s", MAX_OVERHEAD_S, "below")
        pairs = [asyncio.run(quick_beside_slow_s(path, traces[:64])) for _ in range(NUM_PAIRS)]
        alone, beside = (median(side) for side in zip(*pairs, strict=True))
        yield Figure("reward/quick_alone", alone, "s")
        yield Figure("reward/quick_beside_slow", beside, "s")
        delay = beside - alone
        yield Figure("reward/delay_by_slow_plugin", delay, "s", MAX_DELAY_S, "below")


def main() -> int:
    """Print the figures; status 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return report(measure(), parser.parse_args().json)


if __name__ == "__main__":
    raise SystemExit(main())
