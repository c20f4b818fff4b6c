"""Speed and size of the archive, against plain pyarrow on the same rows.

    python -m tests.benchmarks.archive [--traces 16000] [--threads 32] [--folder DIR] [--json FILE]

Groups of 8 traces of 256 tokens, a prompt of 640 of which 512 are a clip's placeholders. Token ids
are Zipf's, logprobs random, text is the ids' words: what logprobs take cannot be compressed away.
Written through the journal by threads as the groups of a run come in, each append durable
(fsync) when it returns; then compacted; then read, from memory the system has cached. Plain
pyarrow has the rows as one table, and neither journal nor fsync. Rates are of the wall clock: on a
busy machine compare the figures of one run with each other. "A core's" are of processor time, of
all threads together.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.figures import Figure, report
from wire.archive.archive import Archive, read_groups, read_tables
from wire.archive.group_reader import GroupReader, index_groups
from wire.token_arrays import Logprobs, TokenIds
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

GROUP_SIZE, TOKENS, VIDEO, TEXT = 8, 256, 512, 128
VERSION = PolicyVersion(attempt=0, step=40)
ROUNDS = 3


class Groups:
    """Maker of groups as a run's are."""

    def __init__(self) -> None:
        self._draw = np.random.default_rng(0)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        self._words = [
            "".join(self._draw.choice(letters, length))
            for length in self._draw.integers(1, 8, 20_000)
        ]
        self._instructions = self._ids(TEXT)

    def _ids(self, count: int) -> np.ndarray:
        return (self._draw.zipf(1.3, count) % 150_000).astype(np.int32)

    def group(self, number: int) -> TraceGroup:
        """One group."""
        prompt = np.concatenate([np.full(VIDEO, 151_656, np.int32), self._instructions])
        return TraceGroup(
            group_id=f"grpo/{number}",
            sample=Sample(
                id=f"clip-{number % 900}",
                video=f"/data/clips/{number % 900:05d}.mp4",
                label=("undo", "redo", "none")[number % 3],
                split=Split.TRAIN,
            ),
            purpose=Purpose.TRAIN,
            policy_version=VERSION,
            prompt=Prompt(
                token_ids=TokenIds.of_bytes(prompt.tobytes()),
                clip_key=f"{number % 900:040x}",
                fingerprint=f"{number % 900:064x}",
                version="3",
            ),
            traces=tuple(self._trace() for _ in range(GROUP_SIZE)),
        )

    def _trace(self) -> Trace:
        ids = self._ids(TOKENS)
        logprobs = -self._draw.exponential(0.4, TOKENS).astype(np.float32)
        accuracy = float(self._draw.integers(0, 2))
        return Trace(
            completion=Completion(
                token_ids=TokenIds.of_bytes(ids.tobytes()),
                logprobs=Logprobs.of_bytes(logprobs.tobytes()),
                text=" ".join(self._words[token % len(self._words)] for token in ids),
                finish_reason=FinishReason.STOP,
                policy_version=VERSION,
            ),
            outcome=Score(total=accuracy + 1.0, parts={"accuracy": accuracy, "format": 1.0}),
        )


class Took(NamedTuple):
    """Seconds that an action took."""

    wall: float
    core: float

    def rates(self, name: str, num: int, limit: float | None = None) -> Iterator[Figure]:
        """Traces a second, by the wall clock and of processor time."""
        yield Figure(name, num / self.wall, "traces/s", limit)
        yield Figure(f"{name}, a core's", num / self.core, "traces/s")


def measured(action: Callable[[], Any]) -> Took:
    """What an action takes."""
    wall, core = time.perf_counter(), time.process_time()
    action()
    return Took(time.perf_counter() - wall, time.process_time() - core)


def best(action: Callable[[], Any]) -> Took:
    """The least of some rounds."""
    return min(measured(action) for _ in range(ROUNDS))


def append_all(archive: Archive, groups: Sequence[TraceGroup], num_threads: int) -> None:
    """Append groups from several threads at once."""
    with ThreadPoolExecutor(num_threads) as threads:
        list(threads.map(archive.append, groups))


def fsync_ms(folder: Path) -> float:
    """The disk's own: a write of 16 kB and fsync, the median of 50."""
    taken = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 16_384)
            taken.append(measured(lambda: os.fsync(file.fileno())).wall)
    return float(np.median(taken)) * 1e3


def figures(num_traces: int, num_threads: int, folder: Path) -> Iterator[Figure]:
    """All rows."""
    make = Groups()
    groups = [make.group(number) for number in range(num_traces // GROUP_SIZE)]
    yield Figure("fsync of this disk", fsync_ms(folder), "ms")
    path = folder / "archive"
    yield from written(groups, num_threads, path)
    table = pa.concat_tables(read_tables(path))
    size = sum(file.stat().st_size for file in path.rglob("*.parquet"))
    yield Figure("bytes per trace", size / num_traces, "bytes")
    ours = yield from read(path, groups)
    yield from plain(table, folder / "plain.parquet", size, ours)


def written(groups: Sequence[TraceGroup], num_threads: int, path: Path) -> Iterator[Figure]:
    """Appending, durable, and compacting."""
    num = len(groups) * GROUP_SIZE
    alone = groups[: len(groups) // 10]
    with Archive(path.with_name("alone"), 0) as archive:
        took = measured(lambda: append_all(archive, alone, 1))
    yield Figure("appended by one thread", len(alone) * GROUP_SIZE / took.wall, "traces/s")
    with Archive(path, 0) as archive:
        append = measured(lambda: append_all(archive, groups, num_threads))
        yield from append.rates(f"appended by {num_threads} threads", num, 10_000)
        journal = (path / "journal-0.bin").stat().st_size
        yield Figure("bytes per trace in the journal", journal / num, "bytes")
        compact = measured(lambda: archive.compact(VERSION.step))
        yield from compact.rates("compacted", num, 10_000)
        both = Took(append.wall + compact.wall, append.core + compact.core)
        yield from both.rates("appended and compacted", num)


def read(path: Path, groups: Sequence[TraceGroup]) -> Generator[Figure, None, Took]:
    """Reading: columns, groups, one group. Returns what all columns take."""
    num = len(groups) * GROUP_SIZE
    numbers = ["token_ids", "logprobs", "reward"]
    some = best(lambda: sum(map(len, read_tables(path, numbers))))
    yield from some.rates("read: tokens, logprobs, rewards", num, 50_000)
    every = best(lambda: sum(map(len, read_tables(path))))
    yield from every.rates("read: all columns", num, 50_000)
    yield from best(lambda: sum(1 for _ in read_groups(path))).rates("read: objects", num)
    places = {group.group_id: group.place for group in index_groups(path, "")}
    reader = GroupReader(places)
    names = [group.group_id for group in groups]
    took = measured(lambda: [reader.group(name) for name in names])
    yield Figure("read: one group, in order, a core's", took.core / len(names) * 1e3, "ms")
    anywhere = np.random.default_rng(1).permutation(names)[:50].tolist()
    took = measured(lambda: [GroupReader(places).group(name) for name in anywhere])
    yield Figure("read: one group, anywhere, a core's", took.core / len(anywhere) * 1e3, "ms")
    return every


def plain(table: pa.Table, path: Path, our_bytes: int, ours: Took) -> Iterator[Figure]:
    """The same rows through pyarrow with its own settings, and what ours is to that."""
    num = table.num_rows
    write = best(lambda: pq.write_table(table, path))
    yield from write.rates("plain pyarrow: written, no fsync", num)
    size = path.stat().st_size
    yield Figure("plain pyarrow: bytes per trace", size / num, "bytes")

    def by_row_groups() -> int:
        file = pq.ParquetFile(path)
        return sum(len(file.read_row_group(index)) for index in range(file.num_row_groups))

    took = best(by_row_groups)
    yield from took.rates("plain pyarrow: read", num)
    yield Figure("size against plain pyarrow", our_bytes / size, "", 1.0, "below")
    yield Figure("read speed against plain pyarrow", took.core / ours.core, "")


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=16_000)
    parser.add_argument("--threads", type=int, default=32, help="groups that are appended at once")
    parser.add_argument(
        "--folder", type=Path, help="on the disk to be measured; default: temporary"
    )
    parser.add_argument("--json", type=Path, help="where the rows are written")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=words.folder) as folder:
        return report(figures(words.traces, words.threads, Path(folder)), words.json)


if __name__ == "__main__":
    raise SystemExit(main())
