import contextlib
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.groups import make_completion, make_sample
from tests.groups import make_group as group_of
from tests.wire.archive.older_files import write_older_journal, write_older_parquet
from wire.archive import journal as journal_module
from wire.archive import parquet_files as parquet_files_module
from wire.archive.archive import (
    Archive,
    next_attempt,
    read_groups,
    read_table,
    read_tables,
)
from wire.archive.journal import Journal, read_journal, record_of
from wire.archive.parquet_files import is_current, parquet_files
from wire.archive.trace_groups import groups_in
from wire.archive.trace_rows import SCHEMA, SCHEMA_VERSION, group_id_of, rows_of
from wire.errors import ArchiveError
from wire.token_arrays import Logprobs, TokenIds
from wire.types import (
    Completion,
    Failure,
    FailureKind,
    FinishReason,
    PolicyVersion,
    Prompt,
    Purpose,
    Sample,
    Score,
    Split,
    Trace,
    TraceGroup,
    VersionChange,
)

VERSION = PolicyVersion(attempt=0, step=3)
SCORE = Score(total=1.5, parts={"accuracy": 1.0, "format": 0.5})
FAILURE = Failure(kind=FailureKind.REWARD, culprit="accuracy", reason="KeyError: 'x'")
HEADER_BYTES = 12
OLD_RUNS = Path(__file__).parents[2] / "data/run_before_move"


def make_trace(outcome: Score | Failure = SCORE) -> Trace:
    completion = make_completion(
        "<think>a</think><answer>b</answer>",
        token_ids=(5, 6, 7),
        logprobs=(-0.1, -2.5, 0.0),
        version=PolicyVersion(attempt=0, step=2),
    )
    return Trace(completion=completion, outcome=outcome)


def make_group(name: str = "g0", **changes: Any) -> TraceGroup:
    extra = {"scene": {"indoor": True}, "tags": ["a", None, 1.5]}
    values = {
        "group_id": name,
        "sample": make_sample("fall", id="s1", video="clips/1.mp4", text="night", extra=extra),
        "policy_version": VERSION,
        "prompt": Prompt(
            token_ids=(1, 9, 9, 2),
            clip_key="ab12",
            fingerprint="9f0c",
            version="1",
            video_hash="77aa",
            window_start_s=0.5,
            frame_indices=(4, 9),
        ),
    }
    return group_of(make_trace(), make_trace(FAILURE), **{**values, **changes})


def make_empty_group(name: str = "g0") -> TraceGroup:
    failure = Failure(kind=FailureKind.DECODE, culprit="clips/1.mp4", reason="moov atom not found")
    return make_group(name, prompt=None, traces=(), failures=(failure, FAILURE))


def ids(directory: Path, **filters: Any) -> list[str]:
    return [group.group_id for group in read_groups(directory, **filters)]


def write(directory: Path, *groups: TraceGroup, attempt: int = 0) -> Path:
    """Append the groups as one attempt would, and leave its journal."""
    with Archive(directory, attempt) as archive:
        for group in groups:
            archive.append(group)
    return directory / f"journal-{attempt}.bin"


def record_ends(tmp_path: Path, *names: str) -> tuple[Path, list[int]]:
    """A journal with the groups, and the offset at which each ends."""
    journal = tmp_path / "journal-0.bin"
    ends = []
    with Archive(tmp_path, 0) as archive:
        for name in names:
            archive.append(make_group(name))
            ends.append(journal.stat().st_size)
    return journal, ends


# Round trips


text = st.text(max_size=8)
counts = st.integers(0, 2**31 - 1)
versions = st.builds(PolicyVersion, attempt=st.integers(0, 2**31 - 2), step=st.integers(0, 2**62))
numbers = st.floats(allow_nan=False)
failures = st.builds(Failure, kind=st.sampled_from(FailureKind), culprit=text, reason=text)
scores = st.builds(Score, total=numbers, parts=st.dictionaries(text, numbers, max_size=3))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=4,
)
token_ids = st.integers(-(2**31), 2**31 - 1)


def changes(num_tokens: int) -> st.SearchStrategy[tuple[VersionChange, ...]]:
    """Updates to versions above all ``versions``, from some token on to the last."""
    return st.integers(1, num_tokens).map(
        lambda first: tuple(
            VersionChange(at, PolicyVersion(attempt=2**31 - 1, step=at))
            for at in range(first, num_tokens)
        )
    )


completions = st.lists(st.tuples(token_ids, numbers), min_size=1, max_size=5).flatmap(
    lambda pairs: st.builds(
        Completion,
        token_ids=st.just(tuple(token for token, _ in pairs)),
        logprobs=st.just(tuple(logprob for _, logprob in pairs)),
        text=text,
        finish_reason=st.sampled_from(FinishReason),
        policy_version=versions,
        version_changes=st.just(()) | changes(len(pairs)),
    )
)
prompts = st.builds(
    Prompt,
    token_ids=st.lists(token_ids, max_size=5).map(tuple),
    clip_key=text,
    fingerprint=text,
    version=text,
    video_hash=text,
    window_start_s=st.none() | numbers,
    window_end_s=st.none() | numbers,
    frame_indices=st.lists(counts, max_size=4).map(tuple),
    semantic_tokenizer=st.sampled_from(["", "3f9c0a7b51de"]),
)
samples = st.builds(
    Sample,
    id=text,
    video=text,
    label=text,
    split=st.sampled_from(Split),
    trace=st.none() | text,
    text=st.none() | text,
    extra=st.dictionaries(text, json_values, max_size=3),
)
traces = st.builds(Trace, completion=completions, outcome=scores | failures)
common: dict[str, Any] = {
    "sample": samples,
    "purpose": st.sampled_from(Purpose),
    "policy_version": versions,
}
with_traces = st.builds(
    TraceGroup,
    group_id=text,
    prompt=prompts,
    traces=st.lists(traces, min_size=1, max_size=3).map(tuple),
    failures=st.lists(failures, max_size=2).map(tuple),
    **common,
)
without_traces = st.builds(
    TraceGroup,
    group_id=text,
    prompt=st.none() | prompts,
    traces=st.just(()),
    failures=st.lists(failures, min_size=1, max_size=2).map(tuple),
    **common,
)
group_lists = st.lists(
    with_traces | without_traces, max_size=4, unique_by=lambda group: group.group_id
)


@settings(deadline=None)
@given(group=with_traces | without_traces)
def test_rows_give_back_their_group(group: TraceGroup) -> None:
    assert list(groups_in(rows_of(group), source="memory")) == [group]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(groups=group_lists, cut=st.integers(0, 4))
def test_every_group_survives_the_journal_and_the_compaction(
    tmp_path_factory: pytest.TempPathFactory, groups: list[TraceGroup], cut: int
) -> None:
    directory = tmp_path_factory.mktemp("run")
    with Archive(directory, 0) as archive:
        for group in groups[:cut]:
            archive.append(group)
        assert list(read_groups(directory)) == groups[:cut]
        archive.compact(step=1)
        for group in groups[cut:]:
            archive.append(group)
        assert list(read_groups(directory)) == groups
        archive.compact(step=2)
        assert list(read_groups(directory)) == groups
    shutil.rmtree(directory)


def test_a_group_is_read_as_it_was_appended(tmp_path: Path) -> None:
    groups = [make_group("g0"), make_empty_group("g1"), make_group("g2")]
    write(tmp_path, *groups)
    assert list(read_groups(tmp_path)) == groups


def test_every_float32_logprob_keeps_its_last_bit_and_a_nan_stays_a_nan() -> None:
    """Any bits, subnormals included."""
    draw = np.random.default_rng(0)
    bits = draw.integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    odd = np.array([np.nan, -np.inf, 0.0, -0.0, 1e-45, -3.4e38, 0.1], np.float32)
    for values in (odd, bits):
        ids = TokenIds(range(len(values)))
        kept = Logprobs.of_bytes(values.tobytes())
        completion = replace(make_trace().completion, token_ids=ids, logprobs=kept)
        group = make_group(traces=(replace(make_trace(), completion=completion),))
        table = rows_of(group)
        (found,) = groups_in(table, source="memory")
        assert found.traces[0].completion.logprobs.tobytes() == values.tobytes()
        assert table["logprobs"].type == pa.list_(pa.float32())
        assert str(table["logprobs"][0].as_py()) == str(values.tolist())


@pytest.mark.parametrize("run", ["finished", "killed"])
def test_an_archive_written_before_there_were_arrays_is_read_to_the_last_bit(run: str) -> None:
    """By real engines: their logprobs were float32 all along, in the column of float64."""
    archive = OLD_RUNS / run / "archive"
    table = read_table(archive)
    assert table.num_rows > 10
    again = pa.concat_tables([rows_of(group) for group in read_groups(archive)])
    assert again.equals(table)


@pytest.mark.parametrize(
    "change",
    [
        {"group_id": "\ud800"},
        {"sample": replace(make_group().sample, extra={"path": Path("a")})},
    ],
    ids=["text that is not Unicode", "extra that is not JSON"],
)
def test_a_group_that_has_no_place_in_the_schema_is_refused_and_hurts_no_other(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    with Archive(tmp_path, 0) as archive:
        archive.append(make_group("g0"))
        with pytest.raises(ArchiveError, match=r"sample 's1' cannot be archived"):
            archive.append(replace(make_group("bad"), **change))
        archive.append(make_group("g1"))
    assert ids(tmp_path) == ["g0", "g1"]


def test_groups_are_filtered_by_purpose_and_policy_version(tmp_path: Path) -> None:
    newer = PolicyVersion(attempt=0, step=4)
    groups = [
        make_group("g0"),
        make_group("g1", purpose=Purpose.CALIBRATION),
        make_group("g2", purpose=Purpose.CALIBRATION, policy_version=newer),
    ]
    write(tmp_path, *groups)
    assert ids(tmp_path, purpose=Purpose.CALIBRATION) == ["g1", "g2"]
    assert ids(tmp_path, policy_version=VERSION) == ["g0", "g1"]
    assert ids(tmp_path, purpose=Purpose.TRAIN, policy_version=newer) == []


# Compaction


def test_compaction_moves_the_groups_into_parquet_and_empties_the_journal(tmp_path: Path) -> None:
    with Archive(tmp_path, 2) as archive:
        archive.append(make_group())
        path = archive.compact(step=40)
        assert path == tmp_path / "traces" / "attempt=002-step=000040.parquet"
        assert (tmp_path / "journal-2.bin").stat().st_size == HEADER_BYTES
        assert archive.compact(step=41) is None
        archive.append(make_group("g1"))
    assert ids(tmp_path) == ["g0", "g1"]
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_second_compaction_of_a_step_leaves_the_first_file_alone(tmp_path: Path) -> None:
    with Archive(tmp_path, 0) as archive:
        archive.append(make_group("g0"))
        first = archive.compact(step=1)
        assert first is not None
        before = first.read_bytes()
        archive.append(make_group("g1"))
        assert archive.compact(step=1) == first.with_name("attempt=000-step=000001-part=1.parquet")
    assert first.read_bytes() == before
    assert ids(tmp_path) == ["g0", "g1"]


def test_more_groups_than_a_row_group_holds_stay_whole_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (journal_module, parquet_files_module):
        monkeypatch.setattr(module, "_ROWS", 64)
    groups = [make_group(f"g{number:03d}") for number in range(70)]
    with Archive(tmp_path, 0) as archive:
        for group in groups:
            archive.append(group)
        path = archive.compact(step=1)
    assert pq.ParquetFile(path).num_row_groups == 3
    assert list(read_groups(tmp_path)) == groups


def test_an_id_is_refused_twice_in_one_attempt_and_welcome_in_the_next(tmp_path: Path) -> None:
    with Archive(tmp_path, 0) as archive:
        archive.append(make_group())
        with pytest.raises(ArchiveError, match="'g0' is already in attempt 0"):
            archive.append(make_group())
        archive.compact(step=1)
        with pytest.raises(ArchiveError, match="'g0' is already in attempt 0"):
            archive.append(make_group())
    with Archive(tmp_path, 1) as archive:
        archive.append(make_group())
    assert ids(tmp_path) == ["g0", "g0"]


def test_groups_may_be_appended_while_another_thread_compacts(tmp_path: Path) -> None:
    with Archive(tmp_path, 0) as archive:
        names = [f"g{number}" for number in range(30)]

        def append_all() -> None:
            for name in names:
                archive.append(make_group(name))

        writer = threading.Thread(target=append_all)
        writer.start()
        step = 0
        while writer.is_alive():
            archive.compact(step := step + 1)
        writer.join()
    assert ids(tmp_path) == names


def test_reading_goes_on_while_the_journal_is_compacted(tmp_path: Path) -> None:
    """What was journaled when reading began is read once, although it moved meanwhile."""
    with Archive(tmp_path, 0) as archive:
        archive.append(make_group("g0"))
        archive.compact(step=1)
        archive.append(make_group("g1"))
        reading = read_groups(tmp_path)
        first = next(reading)
        archive.compact(step=2)
        assert [first.group_id, *(group.group_id for group in reading)] == ["g0", "g1"]


# Crashes


def test_a_torn_last_record_is_cut_off_at_every_byte(tmp_path: Path) -> None:
    journal, (kept, end) = record_ends(tmp_path, "g0", "g1")
    whole = journal.read_bytes()
    for size in reversed(range(kept, end)):
        os.truncate(journal, size)
        assert [group_id_of(table) for table in read_journal(journal)] == ["g0"]
    for size in [*range(kept, kept + 20), *range(kept, end, 499), end - 1]:
        journal.write_bytes(whole[:size])
        Archive(tmp_path, 0).close()
        assert journal.read_bytes() == whole[:kept]
    assert ids(tmp_path) == ["g0"]


def test_of_groups_written_together_a_torn_write_leaves_all_or_none(tmp_path: Path) -> None:
    """Not some: else a bad record could stand before a sound one, which is damage."""
    journal, (kept,) = record_ends(tmp_path, "g0")
    with contextlib.closing(Journal(journal)) as open_journal:
        open_journal.append({name: record_of(make_group(name)) for name in ("g1", "g2", "g3")})
    whole = journal.read_bytes()
    assert ids(tmp_path) == ["g0", "g1", "g2", "g3"]
    for size in range(kept, len(whole), 41):
        journal.write_bytes(whole[:size])
        assert ids(tmp_path) == ["g0"]
    for place in range(kept, len(whole), 41):  # a power cut writes the pages of a file in any order
        journal.write_bytes(whole[:place] + bytes(100) + whole[place + 100 :])
        assert ids(tmp_path) == ["g0"]
        Archive(tmp_path, 0).close()
        assert journal.read_bytes() == whole[:kept]


def test_a_write_that_fails_after_it_reached_the_file_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int, *size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Archive(tmp_path, 0) as archive:
        archive.append(make_group("g0"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            patch.setattr(os, "ftruncate", fail)
            with pytest.raises(
                ArchiveError, match=r"cannot append group 'long'.*Input/output error"
            ):
                archive.append(make_group("long", traces=(make_trace(),) * 50))
        archive.append(make_group("long"))
        assert ids(tmp_path) == ["g0", "long"]


def test_a_journal_goes_on_after_its_tail_was_cut_off(tmp_path: Path) -> None:
    journal, _ = record_ends(tmp_path, "g0", "g1")
    os.truncate(journal, journal.stat().st_size - 1)
    write(tmp_path, make_group("g1"), make_group("g2"))
    assert ids(tmp_path) == ["g0", "g1", "g2"]


def test_a_tail_of_zeros_is_cut_off(tmp_path: Path) -> None:
    """What a file system may leave after a power cut: the size grew, the bytes did not come."""
    journal, ends = record_ends(tmp_path, "g0")
    os.truncate(journal, ends[0] + 5000)
    Archive(tmp_path, 0).close()
    assert journal.stat().st_size == ends[0]
    assert ids(tmp_path) == ["g0"]


def places(start: int, end: int) -> list[int]:
    """Every byte of a frame's header, and some of its payload."""
    return [*range(start, start + 16), *range(start + 16, end, 37)]


def test_a_flipped_byte_anywhere_in_a_middle_record_is_named(tmp_path: Path) -> None:
    journal, ends = record_ends(tmp_path, "g0", "g1", "g2")
    whole = bytearray(journal.read_bytes())
    for place in places(ends[0], ends[1]):
        damaged = whole.copy()
        damaged[place] ^= 0x40
        journal.write_bytes(damaged)
        with pytest.raises(ArchiveError, match=rf"journal-0\.bin .* byte {ends[0]} is bad"):
            ids(tmp_path)
    with pytest.raises(ArchiveError, match=r"journal-0\.bin .* move it away"):
        Archive(tmp_path, 0)
    assert journal.read_bytes() == damaged  # refused, not mended


def test_a_flipped_byte_in_the_last_record_costs_no_other_record(tmp_path: Path) -> None:
    journal, ends = record_ends(tmp_path, "g0", "g1")
    whole = bytearray(journal.read_bytes())
    for place in places(ends[0], ends[1]):
        damaged = whole.copy()
        damaged[place] ^= 0x01
        journal.write_bytes(damaged)
        assert ids(tmp_path) == ["g0"]


@pytest.mark.parametrize("attempt", [0, 1], ids=["same attempt", "next attempt"])
def test_a_crash_before_the_journal_is_replaced_neither_loses_nor_doubles(
    tmp_path: Path, attempt: int
) -> None:
    journal = write(tmp_path, make_group("g0"), make_group("g1"))
    kept = journal.read_bytes()
    with Archive(tmp_path, 0) as archive:
        archive.compact(step=1)
    journal.write_bytes(kept)  # Parquet has its name, the journal is still the old one
    assert ids(tmp_path) == ["g0", "g1"]
    assert read_table(tmp_path).num_rows == 4
    with Archive(tmp_path, attempt) as archive:
        archive.append(make_group("g2"))
        archive.compact(step=2)
    assert ids(tmp_path) == ["g0", "g1", "g2"]
    assert sum(pq.read_table(path).num_rows for path in tmp_path.rglob("*.parquet")) == 6


def test_a_crash_while_parquet_is_written_leaves_the_journal_to_count(tmp_path: Path) -> None:
    write(tmp_path, make_group("g0"))
    partial = tmp_path / "traces" / "attempt=000-step=000001.parquet.partial"
    partial.write_bytes(b"PAR1 and no more")
    assert ids(tmp_path) == ["g0"]
    Archive(tmp_path, 0).close()
    assert not partial.exists()


def test_a_later_attempt_first_compacts_what_older_ones_left(tmp_path: Path) -> None:
    write(tmp_path, make_group("g0"))
    write(tmp_path, make_group("g1", policy_version=PolicyVersion(attempt=1, step=7)), attempt=1)
    write(tmp_path, make_group("g2"), attempt=2)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "attempt=000-step=000003.parquet",
        "attempt=001-step=000007.parquet",
        "journal-2.bin",
    ]
    assert ids(tmp_path) == ["g0", "g1", "g2"]


APPEND_FOREVER = """
import itertools, pathlib, pickle, sys
from wire.archive.archive import Archive
from dataclasses import replace
directory, group = pathlib.Path(sys.argv[1]), pickle.loads(bytes.fromhex(sys.argv[2]))
archive = Archive(directory, int(sys.argv[3]))
for number in itertools.count():
    archive.append(replace(group, group_id=f"{sys.argv[3]}-{number}"))
    print(f"{sys.argv[3]}-{number}", flush=True)
    if number % 7 == 6:
        archive.compact(step=number)
"""


APPEND_FROM_THREADS = """
import itertools, pathlib, pickle, sys, threading
from dataclasses import replace
from wire.archive.archive import Archive
directory, group = pathlib.Path(sys.argv[1]), pickle.loads(bytes.fromhex(sys.argv[2]))
archive = Archive(directory, int(sys.argv[3]))
def append_forever(thread):
    for number in itertools.count():
        name = f"{sys.argv[3]}-{thread}-{number}"
        archive.append(replace(group, group_id=name))
        sys.stdout.write(name + "\\n")
        sys.stdout.flush()
for thread in range(8):
    threading.Thread(target=append_forever, args=(thread,)).start()
for step in itertools.count():
    archive.compact(step=step)
"""


def python(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.parametrize("num_lines", [1, 7, 24])
def test_everything_acknowledged_is_read_after_kill_9(tmp_path: Path, num_lines: int) -> None:
    group = pickle.dumps(make_group()).hex()
    acknowledged: list[str] = []
    for attempt in range(2):
        process = python(APPEND_FOREVER, str(tmp_path), group, str(attempt))
        assert process.stdout is not None
        acknowledged += [process.stdout.readline().strip() for _ in range(num_lines)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().split()  # communicate() skips what is buffered
        process.wait(10)
    found = ids(tmp_path)
    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))
    assert len(found) <= len(acknowledged) + 2  # at most one unacknowledged group an attempt
    with Archive(tmp_path, next_attempt(tmp_path)):
        assert sorted(ids(tmp_path)) == sorted(found)


def test_everything_that_threads_got_acknowledged_is_read_after_kill_9(tmp_path: Path) -> None:
    group = pickle.dumps(make_group()).hex()
    acknowledged: list[str] = []
    for attempt in range(2):
        process = python(APPEND_FROM_THREADS, str(tmp_path), group, str(attempt))
        assert process.stdout is not None
        acknowledged += [process.stdout.readline().strip() for _ in range(60)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().split()
        process.wait(10)
    found = ids(tmp_path)
    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))
    assert len(found) <= len(acknowledged) + 2 * 8  # at most one of each thread


# A full disk


FILL_THE_DISK = """
import json, pathlib, pickle, resource, sys
from dataclasses import replace
from wire.archive.archive import Archive, read_groups
from wire.errors import ArchiveError
directory, group = pathlib.Path(sys.argv[1]), pickle.loads(bytes.fromhex(sys.argv[2]))
journal = directory / "journal-0.bin"
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def attempt(call):
    try:
        call()
    except ArchiveError as error:
        return str(error)
archive = Archive(directory, 0)
archive.append(replace(group, group_id="g0"))
limit(journal.stat().st_size + 100)
append = attempt(lambda: archive.append(replace(group, group_id="g1")))
after_append = journal.stat().st_size, [found.group_id for found in read_groups(directory)]
limit(2000)
compact = attempt(lambda: archive.compact(1))
limit(5)
clear = attempt(lambda: archive.compact(1)) and attempt(archive._journal.clear)
after_compact = [found.group_id for found in read_groups(directory)]
limit(resource.RLIM_INFINITY)
archive.append(replace(group, group_id="g1"))
archive.compact(1)
print(json.dumps([append, after_append, compact, clear, after_compact]))
"""


def test_a_full_disk_is_named_and_the_archive_stays_whole(tmp_path: Path) -> None:
    group = pickle.dumps(make_group()).hex()
    process = python(FILL_THE_DISK, str(tmp_path), group)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    append, (size, kept), compact, clear, after_compact = json.loads(output)
    assert "cannot append group 'g1'" in append
    assert "journal-0.bin (the groups before it are kept): File too large" in append
    assert kept == ["g0"]
    assert "cannot compact" in compact
    assert "(it keeps its groups): " in compact
    assert "cannot replace the journal" in clear
    assert after_compact == ["g0"]
    assert size > HEADER_BYTES
    assert ids(tmp_path) == ["g0", "g1"]
    assert list(tmp_path.rglob("*.parquet.partial")) == []


# Foreign, damaged and newer files


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    with Archive(tmp_path, 0) as archive:
        archive.append(make_group())
        path = archive.compact(step=1)
    assert path is not None
    return path


@pytest.mark.parametrize("version", [1, 2])
def test_an_archive_of_an_older_version_is_read_with_null_for_what_it_lacks(
    tmp_path: Path, version: int
) -> None:
    groups = [older(make_group("g0")), older(make_empty_group("g1"))]
    path = tmp_path / "traces" / "attempt=000-step=000001.parquet"
    write_older_parquet(path, version, *groups)
    assert list(read_groups(tmp_path)) == groups
    table = read_table(tmp_path)
    assert table.schema.equals(SCHEMA)
    assert table["video_hash"].null_count == table["frame_indices"].null_count == len(table) == 3
    assert table.equals(pa.concat_tables([rows_of(group) for group in groups]))
    assert read_table(tmp_path, ["reward", "logprobs_temperature"]).num_columns == 2
    assert not is_current(path)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_journal_of_an_older_version_is_read_and_goes_on_as_a_new_one(
    tmp_path: Path, version: int
) -> None:
    old, journal = older(make_group("old")), tmp_path / "journal-0.bin"
    write_older_journal(journal, version, old)
    assert list(read_groups(tmp_path)) == [old]
    with pytest.raises(ArchiveError, match="older schema version"):
        Journal(journal)
    with Archive(tmp_path, 0) as archive:
        assert archive.num_groups == 1
        with pytest.raises(ArchiveError, match="'old' is already in attempt 0"):
            archive.append(old)
        archive.append(tempered())
        assert list(read_groups(tmp_path)) == [old, tempered()]
        archive.compact(step=4)
    assert list(read_groups(tmp_path)) == [old, tempered()]
    assert all(map(is_current, parquet_files(tmp_path)))


def test_files_of_version_3_lack_the_semantic_tokenizer_alone(tmp_path: Path) -> None:
    groups = [make_group("g0"), make_empty_group("g1")]
    write_older_parquet(tmp_path / "traces" / "attempt=000-step=000001.parquet", 3, *groups)
    write_older_journal(tmp_path / "journal-1.bin", 3, make_group("g2"))
    assert list(read_groups(tmp_path)) == [*groups, make_group("g2")]
    assert read_table(tmp_path)["semantic_tokenizer"].null_count == 5


def test_files_of_version_4_lack_the_version_changes_alone(tmp_path: Path) -> None:
    groups = [make_group("g0"), make_empty_group("g1")]
    write_older_parquet(tmp_path / "traces" / "attempt=000-step=000001.parquet", 4, *groups)
    write_older_journal(tmp_path / "journal-1.bin", 4, make_group("g2"))
    assert list(read_groups(tmp_path)) == [*groups, make_group("g2")]
    assert read_table(tmp_path)["version_changes"].null_count == 5


def test_files_of_all_versions_make_one_archive(tmp_path: Path) -> None:
    groups = [older(make_group("g1")), older(make_group("g2")), make_group("g3")]
    for version, group in zip((1, 2), groups, strict=False):
        path = tmp_path / "traces" / f"attempt=000-step={version:06d}.parquet"
        write_older_parquet(path, version, group)
    with Archive(tmp_path, 0) as archive:
        archive.append(groups[2])
        archive.compact(step=3)
    write_older_journal(tmp_path / "journal-1.bin", 2, older(make_group("g4")))
    assert list(read_groups(tmp_path)) == [*groups, older(make_group("g4"))]
    assert read_table(tmp_path).num_rows == 8
    assert read_table(tmp_path, ["frame_indices"])["frame_indices"].null_count == 6


def older(group: TraceGroup) -> TraceGroup:
    """A group as versions 1 and 2 keep it: without what is known of the video."""
    if group.prompt is None:
        return group
    prompt = group.prompt
    return replace(
        group,
        prompt=replace(
            prompt, video_hash="", window_start_s=None, window_end_s=None, frame_indices=()
        ),
    )


def tempered() -> TraceGroup:
    """A group whose logprobs are at another temperature."""
    group = make_group("tempered")
    traces = tuple(
        replace(trace, completion=replace(trace.completion, logprobs_temperature=0.7))
        for trace in group.traces
    )
    return replace(group, traces=traces)


def test_a_newer_parquet_schema_is_refused_with_advice(tmp_path: Path, parquet: Path) -> None:
    table = pq.read_table(parquet)
    newer = {b"deepintuit.trace_schema": str(SCHEMA_VERSION + 1).encode()}
    pq.write_table(table.replace_schema_metadata(newer), parquet)
    with pytest.raises(ArchiveError, match=rf"{parquet.name} has .* version 6, .* reads version 5"):
        ids(tmp_path)


def test_a_newer_journal_is_refused_with_advice(tmp_path: Path) -> None:
    journal = write(tmp_path, make_group())
    with journal.open("r+b") as file:
        file.seek(8)
        file.write((SCHEMA_VERSION + 1).to_bytes(4, "little"))
    for call in (lambda: ids(tmp_path), lambda: Archive(tmp_path, 0), lambda: Archive(tmp_path, 1)):
        with pytest.raises(ArchiveError, match=r"journal-0\.bin has .* version 6.*update"):
            call()
    assert journal.exists()


def test_a_foreign_parquet_is_named(tmp_path: Path, parquet: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), parquet)
    with pytest.raises(ArchiveError, match=f"{parquet.name} is not a file of the trace archive"):
        ids(tmp_path)


def test_a_parquet_under_a_foreign_name_is_named(tmp_path: Path, parquet: Path) -> None:
    parquet.rename(parquet.with_name("mine.parquet"))
    for call in (lambda: ids(tmp_path), lambda: next_attempt(tmp_path)):
        with pytest.raises(ArchiveError, match=r"mine\.parquet .* move it elsewhere"):
            call()


def test_a_parquet_without_a_column_is_named(tmp_path: Path, parquet: Path) -> None:
    pq.write_table(pq.read_table(parquet).drop_columns(["text"]), parquet)
    with pytest.raises(ArchiveError, match=f"{parquet.name} lacks columns"):
        ids(tmp_path)


def test_a_value_that_no_type_of_ours_has_is_named(tmp_path: Path, parquet: Path) -> None:
    table = pq.read_table(parquet)
    place = table.schema.get_field_index("finish_reason")
    odd = table.set_column(place, "finish_reason", pa.array(["tired"] * table.num_rows))
    pq.write_table(odd, parquet)
    with pytest.raises(ArchiveError, match=rf"{parquet.name} holds an invalid group 'g0'.*tired"):
        ids(tmp_path)


def test_a_damaged_parquet_is_named_wherever_the_damage_is(tmp_path: Path, parquet: Path) -> None:
    whole = parquet.read_bytes()
    original = list(read_groups(tmp_path))
    for place in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[place] ^= 0x08
        parquet.write_bytes(damaged)
        try:
            found = list(read_groups(tmp_path))
        except ArchiveError as error:
            assert parquet.name in str(error)  # noqa: PT017 - a flip in unused metadata may pass
        else:
            assert found == original
    parquet.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArchiveError, match=f"{parquet.name} is damaged"):
        ids(tmp_path)


@pytest.mark.parametrize("content", [b"", b"DITR", b"something else altogether"])
def test_a_file_that_is_no_journal_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal-0.bin").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"journal-0\.bin is not a trace journal"):
        ids(tmp_path)
    with pytest.raises(ArchiveError, match=r"journal-0\.bin is not a trace journal"):
        Archive(tmp_path, 0)


def test_a_journal_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal-0.bin").mkdir()
    with pytest.raises(ArchiveError, match=r"cannot open the journal .*journal-0\.bin: Is a dir"):
        Archive(tmp_path, 0)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    for call in (read_groups, read_table):
        with pytest.raises(ArchiveError, match=r"no trace archive at .*/nowhere"):
            call(tmp_path / "nowhere")


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match=r"cannot open the archive in .*/file"):
        Archive(tmp_path / "file", 0)


# Tables and attempts


def test_a_table_has_a_row_for_each_trace_and_one_for_a_group_without(tmp_path: Path) -> None:
    with Archive(tmp_path, 0) as archive:
        archive.append(make_group("g0"))
        archive.compact(step=1)
        archive.append(make_empty_group("g1"))
    table = read_table(tmp_path)
    assert table.schema.equals(SCHEMA)
    assert table["group_id"].to_pylist() == ["g0", "g0", "g1"]
    assert table["trace_index"].to_pylist() == [0, 1, None]
    assert table["reward"].to_pylist() == [1.5, None, None]
    assert table["failure_kind"].to_pylist() == [None, "reward", None]
    assert [len(found) for found in table["group_failures"].to_pylist()] == [0, 0, 2]


def test_a_table_may_have_some_columns_only(tmp_path: Path) -> None:
    write(tmp_path, make_group())
    assert read_table(tmp_path, ["label", "reward"]).to_pylist() == [
        {"label": "fall", "reward": 1.5},
        {"label": "fall", "reward": None},
    ]
    with pytest.raises(ArchiveError, match=r"no trace column \['rewards'\]; there are group_id"):
        read_table(tmp_path, ["rewards"])


def test_an_empty_archive_is_an_empty_table(tmp_path: Path) -> None:
    assert read_table(tmp_path).num_rows == 0
    assert ids(tmp_path) == []


def test_each_run_gets_an_attempt_of_its_own(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    assert next_attempt(directory) == 0
    Archive(directory, 0).close()
    assert next_attempt(directory) == 1
    Archive(directory, 11).close()  # attempt 0 leaves no file behind: it was empty
    assert next_attempt(directory) == 12
    (directory / "journal-11.bin").unlink()
    (directory / "traces" / "attempt=1002-step=000001.parquet").touch()
    assert next_attempt(directory) == 1003


def test_parts_of_the_archive_make_its_table_and_keep_groups_whole(tmp_path: Path) -> None:
    with Archive(tmp_path, 0) as archive:
        for index in range(3):
            archive.append(make_group(f"g{index}"))
        archive.compact(step=1)
        archive.append(make_group("g3"))
        parts = list(read_tables(tmp_path, ["group_id", "text"]))
        assert len(parts) == 2
        assert pa.concat_tables(parts).equals(read_table(tmp_path, ["group_id", "text"]))
        with pytest.raises(ArchiveError, match="no trace column"):
            read_tables(tmp_path, ["txt"])
