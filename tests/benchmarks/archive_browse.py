"""Browsing of a large archive: seconds of its summary, of filters, and of pages.

    python -m tests.benchmarks.archive_browse [--traces 10_000_000] [--folder DIR]

Makes an archive of GRPO groups by vectorised columns: 8 traces a group, 256 groups a step, two
attempts, validation now and then. Tokens and texts are short (16 sampled tokens, no prompt ids, a
few words), so that ten million traces fit a small disk: browsing reads none of them. The rows are
written as a run's files are, indexed by compaction, and listed by ``wire.archive.index``. Limit of
each look: 1 s, the fastest of five.
"""

import argparse
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tests.benchmarks.figures import Figure
from tests.benchmarks.figures import report as report_figures
from wire.archive.compaction import compact_archive
from wire.archive.index import browse, count, summarise
from wire.archive.parquet_files import FileName, parquet_files, write_parquet
from wire.archive.trace_rows import SCHEMA

TRACES, GROUPS, TOKENS = 8, 256, 16
LABELS = ("undo", "do", "redo", "nothing")
LIMIT_S = 1.0
SHOWN = ("group_id", "trace_index", "step", "label", "reward", "num_tokens", "finish_reason")
"""Columns of a page: those that `deepintuit archive ls` shows."""


def steps(first: int, number: int, attempt: int, draw: np.random.Generator) -> pa.Table:
    """Rows of some steps."""
    rows = number * GROUPS * TRACES
    groups = np.repeat(np.arange(number * GROUPS), TRACES)
    places = first * GROUPS + groups
    clips = places * 7_919 % 50_000  # every clip in another order than its number
    step = pa.array(first + groups // GROUPS, pa.int64())
    failed = draw.random(rows) < 0.01
    reward = pa.array(draw.integers(0, 5, rows) / 2, mask=failed)
    tokens = pa.array(draw.integers(0, 150_000, rows * TOKENS, np.int32))
    logprobs = pa.array(-draw.random(rows * TOKENS, np.float32))
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * TOKENS)
    clip_texts = pc.cast(pa.array(clips), pa.string())

    def text(before: str, numbers: pa.Array, after: str = "") -> pa.Array:
        return pc.binary_join_element_wise(before, numbers, after, "")

    columns = {
        "group_id": text("grpo/", pc.utf8_lpad(pc.cast(pa.array(places), pa.string()), 8, "0")),
        "attempt": pa.array(np.full(rows, attempt, np.int32)),
        "step": step,
        "purpose": pa.array(np.where((places // GROUPS) % 20 == 0, "validation", "train")),
        "sample_id": text("train-", clip_texts),
        "video": text("/data/clips/train/", clip_texts, ".mp4"),
        "label": pa.array(np.array(LABELS)[clips % len(LABELS)]),
        "split": pa.array(np.where((places // GROUPS) % 20 == 0, "val", "train")),
        "sample_extra": pa.array(np.full(rows, "{}")),
        "clip_key": text("key-", clip_texts),
        "prompt_version": pa.array(np.full(rows, "1")),
        "video_hash": text(f"{0:048x}", pc.utf8_lpad(clip_texts, 16, "0")),
        "trace_index": pa.array(np.tile(np.arange(TRACES, dtype=np.int32), number * GROUPS)),
        "token_ids": pa.ListArray.from_arrays(offsets, tokens),
        "logprobs": pa.ListArray.from_arrays(offsets, logprobs).cast(SCHEMA.field("logprobs").type),
        "text": text("<think>the door is shut at ", clip_texts, "</think><answer>undo</answer>"),
        "finish_reason": pa.array(np.where(draw.random(rows) < 0.02, "length", "stop")),
        "completion_attempt": pa.array(np.full(rows, attempt, np.int32)),
        "completion_step": step,
        "reward": reward,
        "failure_kind": pa.array(np.where(failed, "reward", None)),
    }
    missing = [field for field in SCHEMA if field.name not in columns]
    columns |= {field.name: pa.nulls(rows, field.type) for field in missing}
    return pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)


def make(directory: Path, num_traces: int) -> int:
    """An archive of about this many traces; the number there are."""
    (directory / "traces").mkdir(parents=True)
    draw = np.random.default_rng(0)
    per_file = 64  # steps: 131,072 traces
    num_files = max(2, round(num_traces / (per_file * GROUPS * TRACES)))
    for number in range(num_files):
        attempt = 2 * number // num_files
        first = number * per_file
        name = FileName(attempt, first + per_file - 1)
        write_parquet(directory / "traces" / str(name), [steps(first, per_file, attempt, draw)])
    return num_files * per_file * GROUPS * TRACES


def timed(what: str, look: Callable[[], object]) -> Figure:
    """Seconds of the fastest of five looks: others may use the machine."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        result = look()
        seconds.append(time.perf_counter() - start)
    if isinstance(result, pa.Table):
        what = f"{what}: {result.num_rows} rows"
    return Figure(what, min(seconds), "s", LIMIT_S, "below")


def looks(directory: Path, num_traces: int) -> Iterator[Figure]:
    """Seconds of each look."""
    two = (pc.field("label") == "undo") & (pc.field("reward") >= 1)
    rare = (pc.field("sample_id") == "train-77") & (pc.field("reward") >= 2)
    none = (pc.field("finish_reason") == "length") & (pc.field("reward") > 99)
    middle = num_traces // 2
    page = partial(browse, directory, SHOWN)
    yield timed("summary", lambda: summarise(directory))
    yield timed("filter, matches counted", lambda: count(directory, two))
    yield timed("filter, first page", lambda: page(where=two))
    yield timed("filter, page in the middle", lambda: page(where=two, offset=middle // 10))
    yield timed("filter, newest page", lambda: page(where=two, newest_first=True))
    yield timed("filter by clip", lambda: page(where=rare, limit=999))
    yield timed("filter, no match", lambda: page(where=none))
    yield timed("page in the middle", lambda: page(offset=middle))
    yield timed("newest page", lambda: page(newest_first=True))


def figures(directory: Path, num_traces: int) -> Iterator[Figure]:
    """Sizes and seconds, of making the archive and of looking at it."""
    start = time.perf_counter()
    made = make(directory, num_traces)
    yield Figure("traces", made, "")
    yield Figure("making them", time.perf_counter() - start, "s")
    files = parquet_files(directory)
    size = sum(path.stat().st_size for path in files)
    yield Figure(f"{len(files)} files, {TOKENS} tokens a trace", size / 1e6, "MB")
    start = time.perf_counter()
    report = compact_archive(directory)
    yield Figure(
        f"compaction and index, {report.files_after} files", time.perf_counter() - start, "s"
    )
    index = sum(path.stat().st_size for path in (directory / "index").iterdir())
    yield Figure("index", index / 1e6, "MB")
    yield Figure("index, a trace", index / made, "bytes")
    yield from looks(directory, made)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    yield Figure("most memory of the process", peak, "GB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where to make it; default: a temporary one")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        return report_figures(figures(folder / "archive", options.traces), options.json)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
