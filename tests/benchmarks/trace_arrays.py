"""What token ids and logprobs cost between the engines, the driver, the archive and the learner.

    python -m tests.benchmarks.trace_arrays [--json FILE]

A group of the reference case: a prompt of 4,096 tokens, 8 answers of 300; and a row of the verdict:
5,000 tokens of prompt and one of answer. Memory is what a process holds of groups that it was sent,
seconds are processor time of one core.
"""

import argparse
import asyncio
import itertools
import pickle
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from learner.shared_prefix.rows import Row, grpo_rows, supervised_row
from tests.benchmarks.figures import Figure, report
from wire.archive.archive import Archive, read_groups
from wire.daemon_thread import run_in_daemon_thread
from wire.types import (
    Completion,
    FinishReason,
    PolicyVersion,
    Prompt,
    Purpose,
    Sample,
    Score,
    Split,
    Trace,
    TraceGroup,
)

NUM_GROUPS, GROUP_SIZE = 64, 8
PROMPT, ANSWER, VERDICT = 4_096, 300, 5_000
VERSION = PolicyVersion(attempt=0, step=1)


def group(number: int) -> TraceGroup:
    """A group as the engines write them: logprobs are float32."""
    draw = np.random.default_rng(number)
    text = "word " * ANSWER
    return TraceGroup(
        group_id=f"g{number}",
        sample=Sample(id=f"s{number}", video="a.mp4", label="x", split=Split.TRAIN),
        purpose=Purpose.TRAIN,
        policy_version=VERSION,
        prompt=prompt(draw, PROMPT),
        traces=tuple(
            Trace(
                completion=Completion(
                    token_ids=tuple(draw.integers(0, 150_000, ANSWER).tolist()),
                    logprobs=tuple((-draw.random(ANSWER, np.float32)).tolist()),
                    text=f"{member} {text}",
                    finish_reason=FinishReason.STOP,
                    policy_version=VERSION,
                ),
                outcome=Score(total=1.0, parts={"accuracy": 1.0}),
            )
            for member in range(GROUP_SIZE)
        ),
    )


def prompt(draw: np.random.Generator, length: int) -> Prompt:
    """Mostly the placeholders of a clip, as a prompt with a video is."""
    ids = np.full(length, 151_656)
    ids[: length // 8] = draw.integers(0, 150_000, length // 8)
    return Prompt(token_ids=tuple(ids.tolist()), clip_key="k", fingerprint="f")


def verdict_row(number: int) -> Row:
    """A row that trains the code of a label."""
    return supervised_row(prompt(np.random.default_rng(number), VERDICT), "a.mp4", (5,))


def kilobytes_held(values: Sequence[Any]) -> float:
    """Memory of one value in a process that it was sent to."""
    sent = [pickle.dumps(value, protocol=5) for value in values]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    received = [pickle.loads(one) for one in sent]
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / len(received) / 1e3


def milliseconds(action: Callable[[], Any], count: int) -> float:
    """Processor time of one of ``count`` things that ``action`` does: the least of three."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    return min(taken) / count * 1e3


def figures() -> Iterator[Figure]:
    """All rows."""
    groups = [group(number) for number in range(NUM_GROUPS)]
    rows, verdicts = grpo_rows(groups), [verdict_row(number) for number in range(NUM_GROUPS)]
    yield Figure("a group in the driver", kilobytes_held(groups), "kB")
    yield Figure("a verdict row in the driver", kilobytes_held(verdicts), "kB")
    sent = pickle.dumps(groups[0], protocol=5)
    yield Figure("a group as it is sent", len(sent) / 1e3, "kB")
    for name, values in (("group", groups), ("row of a group", rows)):
        data = pickle.dumps(values, protocol=5)
        packing = milliseconds(lambda values=values: pickle.dumps(values, protocol=5), NUM_GROUPS)
        yield Figure(f"packing a {name}", packing, "ms")
        unpacking = milliseconds(lambda data=data: pickle.loads(data), NUM_GROUPS)
        yield Figure(f"unpacking a {name}", unpacking, "ms")
    yield from archive_figures(groups)


def archive_figures(groups: Sequence[TraceGroup]) -> Iterator[Figure]:
    """Appending, compacting, reading."""
    with tempfile.TemporaryDirectory() as folder, Archive(Path(folder), 0) as archive:
        archive.append(group(NUM_GROUPS))  # pyarrow imports at the first
        start = time.process_time()
        for one in groups:
            archive.append(one)
        append = time.process_time() - start
        yield Figure("appending a group", append / len(groups) * 1e3, "ms")
        yield Figure("appended", len(groups) * GROUP_SIZE / append, "traces/s")
        start = time.process_time()
        archive.compact(step=1)
        compact = time.process_time() - start
        yield Figure("compacting a group", compact / len(groups) * 1e3, "ms")
        read = milliseconds(lambda: list(read_groups(Path(folder))), len(groups))
        yield Figure("reading a group", read, "ms")
        yield Figure("read", GROUP_SIZE / read * 1e3, "traces/s")


LAG_GROUPS = 512


async def lag_ms(work: Callable[[], Awaitable[Any]]) -> float:
    """The longest that an event loop stood still meanwhile."""
    lags = [0.0]

    async def tick() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - start - 0.001)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.1)
    await work()
    await asyncio.sleep(0.01)  # so that the last wait is counted
    ticking.cancel()
    return max(lags) * 1e3


def lag_figures() -> Iterator[Figure]:
    """How long the driver's event loop stands still while a step of 512 groups is compacted."""
    groups = [group(number) for number in range(LAG_GROUPS)]
    with tempfile.TemporaryDirectory() as folder, Archive(Path(folder), 0) as archive:
        for name, threaded in (("in the event loop", False), ("beside the event loop", True)):
            for number, one in enumerate(groups):
                archive.append(replace(one, group_id=f"{name} {number}"))

            async def work(threaded: bool = threaded) -> None:
                if threaded:
                    await run_in_daemon_thread(archive.compact, 1)
                else:
                    archive.compact(1)

            yield Figure(f"lag of compaction {name}", asyncio.run(lag_ms(work)), "ms")


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the rows are written")
    rows = itertools.chain(figures(), lag_figures())
    return report(rows, parser.parse_args().json)


if __name__ == "__main__":
    raise SystemExit(main())
