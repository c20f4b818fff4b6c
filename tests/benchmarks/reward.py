"""What judging costs beyond the judge's own time.

    python -m tests.benchmarks.reward [--json FILE]

512 groups of 8 traces of 1,000 tokens go through the whole path (scorer, pipe, process, and back)
with a trivial plugin of each shape; a plain loop over the same function and texts is subtracted.
Then a slow plugin beside a quick one: how much later the quick one's last answer comes.

Rows: {name, value, unit, limit, goal}; ``limit``: fail above it; ``goal``: what the project wants.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reward.config import RewardConfig, RewardTerm
from reward.scorer import Scorer
from wire.labels import Label, LabelSet
from wire.types import Completion, FinishReason, PolicyVersion, Sample, Score, Split

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


def plain_s(function: Callable[..., Any], traces: list[list[Completion]]) -> float:
    """Seconds of a loop over the same function."""
    begin = time.perf_counter()
    for group in traces:
        for completion in group:
            function("", completion.text, SAMPLE.label, {})
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


def row(name: str, value: float, unit: str, limit: float, goal: float) -> dict[str, Any]:
    """One figure."""
    return {"name": name, "value": round(value, 4), "unit": unit, "limit": limit, "goal": goal}


def measure() -> list[dict[str, Any]]:
    """All rows."""
    traces = groups()
    namespace: dict[str, Any] = {}
    exec(PLUGINS, namespace)
    plain = plain_s(namespace["per_trace"], traces)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plugins.py"
        path.write_text(PLUGINS)
        rows = [
            row(
                f"reward/overhead_{shape}",
                asyncio.run(scored_s((RewardTerm(function=f"{path}:{function}"),), traces)) - plain,
                *("s per 4096 traces of 1000 tokens", 1.0, 1.0),
            )
            for shape, function in (("verl", "per_trace"), ("trl", "per_group"))
        ]
        alone, beside = asyncio.run(quick_beside_slow_s(path, traces[:64]))
        rows.append(row("reward/delay_by_a_slow_plugin", beside - alone, "s", 0.5, 0.1))
    return rows


def main() -> int:
    """Print the rows; status 1 if one is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    rows = measure()
    for it in rows:
        sys.stdout.write(json.dumps(it) + "\n")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(it["value"] > it["limit"] for it in rows))


if __name__ == "__main__":
    raise SystemExit(main())
