"""Compaction beside readers and a writer, killed at each of its steps, and on a full disk."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.groups import make_group, make_sample, make_trace
from wire.archive import compaction
from wire.archive.archive import Archive, next_attempt, read_groups, read_table
from wire.archive.compaction import compact_archive
from wire.archive.deletion import Deletions, Video, delete_videos
from wire.archive.group_reader import GroupReader, GroupsOnDisk, index_groups
from wire.archive.index import browse
from wire.archive.parquet_files import is_current, name_of, parquet_files
from wire.errors import ArchiveError
from wire.types import PolicyVersion, TraceGroup

OLD_RUNS = Path(__file__).parents[2] / "data/run_before_move"


def a_group(group_id: str, attempt: int = 0, step: int = 0) -> TraceGroup:
    version = PolicyVersion(attempt=attempt, step=step)
    tokens = [(sum(group_id.encode()) * k) % 997 for k in range(1, 40)]
    return make_group(
        make_trace(tokens=tokens),
        make_trace(None),
        group_id=group_id,
        sample=make_sample(video=f"clip-{group_id[-1]}.mp4"),
        policy_version=version,
    )


def fill(directory: Path, steps: int, attempt: int = 0, per_step: int = 3) -> list[str]:
    """An attempt's step files, and a group left in its journal; the ids of its groups."""
    names = []
    with Archive(directory, attempt) as archive:
        for step in range(steps):
            for number in range(per_step):
                names.append(f"grpo/{step:04d}-{number}")
                archive.append(a_group(names[-1], attempt, step))
            archive.compact(step)
        names.append(f"grpo/{steps:04d}-0")
        archive.append(a_group(names[-1], attempt, steps))
    return names


def ids(directory: Path) -> list[str]:
    return [group.group_id for group in read_groups(directory)]


def in_files(directory: Path) -> list[tuple[str, int]]:
    """Groups and traces in all Parquet files, as any other program reads them."""
    return [
        (row["group_id"], row["trace_index"])
        for path in (directory / "traces").glob("*.parquet")
        for row in pq.read_table(path, columns=["group_id", "trace_index"]).to_pylist()
    ]


def file_names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "traces").iterdir())


def test_step_files_are_merged_in_order_and_an_attempt_keeps_to_itself(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    fill(tmp_path, 3, attempt=1)
    before = list(read_groups(tmp_path))
    report = compact_archive(tmp_path)
    assert list(read_groups(tmp_path)) == before
    assert (report.files_before, report.files_after, report.recovered) == (9, 2, 1)
    assert file_names(tmp_path) == [
        "attempt=000-step=000000-to=000004-merge=1.parquet",
        "attempt=001-step=000000-to=000003-merge=1.parquet",
    ]
    assert report.bytes_after < report.bytes_before
    assert compact_archive(tmp_path).files_before == 2
    assert len(in_files(tmp_path)) == len(set(in_files(tmp_path))) + 2 * 10  # ids of both attempts


def test_files_reach_the_target_size_and_stay_as_they_are_then(tmp_path: Path) -> None:
    names = fill(tmp_path, 12)
    size = parquet_files(tmp_path)[0].stat().st_size
    compact_archive(tmp_path, target_bytes=4 * size)
    first = {path: path.stat().st_mtime_ns for path in parquet_files(tmp_path)}
    assert 3 <= len(first) <= 6
    assert ids(tmp_path) == names
    compact_archive(tmp_path, target_bytes=size // 4)  # all of them are large enough
    assert {path: path.stat().st_mtime_ns for path in parquet_files(tmp_path)} == first


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 3), st.booleans()), min_size=1, max_size=7
    ),
    factor=st.floats(0.3, 6),
)
def test_any_mixture_of_steps_and_compactions_keeps_every_group_once(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int, bool]],
    factor: float,
) -> None:
    """Steps may repeat, as after a recovered journal; files get the names of merged ones again."""
    directory = tmp_path_factory.mktemp("archive")
    written = []
    with Archive(directory, 0) as archive:
        for number, (step, groups, compacts) in enumerate(steps):
            for index in range(groups):
                written.append(f"{number}/{index}")
                archive.append(a_group(written[-1], step=step))
            path = archive.compact(step)
            assert path is not None
            if compacts:
                compact_archive(directory, int(factor * path.stat().st_size))
            assert sorted(ids(directory)) == sorted(written)
            assert len(in_files(directory)) == 2 * len(written)
    shutil.rmtree(directory)


@pytest.mark.parametrize("run", ["finished", "killed"])
def test_an_archive_of_an_older_schema_is_written_anew(tmp_path: Path, run: str) -> None:
    shutil.copytree(OLD_RUNS / run / "archive", tmp_path / "archive")
    before = read_table(tmp_path / "archive")
    old = len(parquet_files(tmp_path / "archive"))
    report = compact_archive(tmp_path / "archive")
    assert report.migrated >= old  # and the journal's groups
    assert all(is_current(path) for path in parquet_files(tmp_path / "archive"))
    assert read_table(tmp_path / "archive").equals(before)
    assert compact_archive(tmp_path / "archive").migrated == 0


def test_a_reader_at_remembered_places_finds_groups_that_were_merged(tmp_path: Path) -> None:
    names = fill(tmp_path, 4)[:-1]
    reader = GroupReader({g.group_id: g.place for g in index_groups(tmp_path, "grpo/")})
    before = {name: reader.group(name) for name in names}
    fresh = GroupReader({g.group_id: g.place for g in index_groups(tmp_path, "grpo/")})
    compact_archive(tmp_path)
    fill_again = Archive(tmp_path, 0)  # takes the name of a file that was merged
    fill_again.append(a_group("grpo/new"))
    assert fill_again.compact(0) == tmp_path / "traces/attempt=000-step=000000.parquet"
    fill_again.close()
    on_disk = GroupsOnDisk(fresh, names)
    assert [on_disk[place] for place in range(len(names))] == [before[name] for name in names]
    (merged,) = [path for path in parquet_files(tmp_path) if name_of(path).merge]
    merged.unlink()
    gone = GroupReader(fresh._places)
    with pytest.raises(ArchiveError, match=r"'grpo/0000-0' was in .*merge=1.* no file"):
        gone.group("grpo/0000-0")


def test_reading_that_has_begun_goes_on_in_the_merged_file(tmp_path: Path) -> None:
    names = fill(tmp_path, 5)
    fill(tmp_path, 2, attempt=1)
    reading = read_groups(tmp_path)
    begun = [next(reading).group_id for _ in range(4)]
    compact_archive(tmp_path)
    assert sorted([*begun, *(group.group_id for group in reading)]) == sorted(
        [*names, *(f"grpo/{step:04d}-{n}" for step in range(2) for n in range(3)), "grpo/0002-0"]
    )


# Crashes

KILL_AT_EACH_STEP = """
import os, pathlib, shutil, signal, sys
from wire.archive.compaction import compact_archive
from wire.archive.deletion import Deletions, Video, delete_videos
source, work = map(pathlib.Path, sys.argv[1:3])
compact_archive(shutil.copytree(source, work / "warm"))
for number in range(200):
    directory = shutil.copytree(source, work / f"{number:03d}")
    child = os.fork()
    if child == 0:
        left = number
        def count(event, arguments):
            global left
            writes = os.O_WRONLY | os.O_RDWR
            if event in ("os.rename", "os.remove", "os.truncate") or (
                event == "open" and isinstance(arguments[2], int) and arguments[2] & writes
            ):
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
        sys.addaudithook(count)
        compact_archive(directory)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(number)
        break
"""


def python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.slow
def test_a_compaction_killed_at_any_step_loses_and_doubles_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    fill(source, 2)
    fill(source, 2, attempt=1)
    delete_videos(source, {"1" * 64: Video(addresses={"clip-2.mp4"})}, "today")
    names = ids(source)
    assert len(names) == 10  # of 14
    process = python(KILL_AT_EACH_STEP, source, tmp_path)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    num_steps = int(output)
    assert num_steps > 12  # two merges of three files each, two journals
    seen = set()
    for number in range(num_steps):
        directory = tmp_path / f"{number:03d}"
        seen.add(tuple(file_names(directory)))
        assert ids(directory) == names, number
        assert set(browse(directory, limit=99)["group_id"].to_pylist()) == set(names), number
        twin = shutil.copytree(directory, tmp_path / "twin")
        with Archive(twin, next_attempt(twin)) as archive:  # a run may start before a compaction
            archive.append(a_group("grpo/after", attempt=next_attempt(twin) - 1))
            assert sorted(ids(twin)) == sorted([*names, "grpo/after"]), number
        compact_archive(directory)
        assert ids(directory) == names, number
        assert len(in_files(directory)) == 2 * len(names), number
        assert len(file_names(directory)) == 2, number
        shutil.rmtree(twin)
    assert len(seen) > 8  # it was killed in different states indeed
    assert any(name.endswith(".merging") for names in seen for name in names)


APPEND_FOREVER = """
import itertools, pathlib, pickle, sys
from wire.archive.archive import Archive
from dataclasses import replace
directory, group = pathlib.Path(sys.argv[1]), pickle.loads(bytes.fromhex(sys.argv[2]))
archive = Archive(directory, 0)
for number in itertools.count():
    archive.append(replace(group, group_id=f"grpo/{number}"))
    print(f"grpo/{number}", flush=True)
    if number % 3 == 2:
        archive.compact(number)
"""

COMPACT_FOREVER = """
import pathlib, sys
from wire.archive.compaction import compact_archive
from wire.archive.deletion import Deletions, Video, delete_videos
while True:
    print(compact_archive(pathlib.Path(sys.argv[1])).has_writer, flush=True)
"""


@pytest.mark.slow
def test_readers_beside_a_writer_and_compactions_miss_and_double_nothing(tmp_path: Path) -> None:
    """Three processes; the compacting one is killed now and then."""
    (tmp_path / "traces").mkdir()
    written: list[str] = []
    writer = python(APPEND_FOREVER, tmp_path, pickle.dumps(a_group("g")).hex())
    assert writer.stdout is not None
    written.append(writer.stdout.readline().strip())

    def listen(lines: Iterator[str]) -> None:
        written.extend(line.strip() for line in lines)

    listener = threading.Thread(target=listen, args=(writer.stdout,))
    listener.start()
    has_writer: set[str] = set()
    try:
        for _ in range(2):
            compactor = python(COMPACT_FOREVER, tmp_path)
            assert compactor.stdout is not None
            has_writer.add(compactor.stdout.readline().strip())
            places = {g.group_id: g.place for g in index_groups(tmp_path, "grpo/")}
            for _ in range(8):
                acknowledged = list(written)
                read = ids(tmp_path)
                assert len(read) == len(set(read))
                assert set(acknowledged) <= set(read)
                indexed = [g.group_id for g in index_groups(tmp_path, "grpo/")]
                assert set(places) <= set(indexed)
            reader = GroupReader(places)
            assert all(reader.group(name).group_id == name for name in places)
            compactor.send_signal(signal.SIGKILL)
            compactor.communicate(timeout=10)
    finally:
        writer.send_signal(signal.SIGKILL)
        listener.join(10)
        writer.wait(10)
        if writer.stderr is not None:
            writer.stderr.close()
    assert has_writer == {"True"}
    assert len(written) > 30
    report = compact_archive(tmp_path)
    assert not report.has_writer
    assert report.files_after == 1
    assert set(written) <= set(ids(tmp_path))
    assert len(in_files(tmp_path)) == 2 * len(set(ids(tmp_path)))


FILL_THE_DISK = """
import pathlib, resource, sys
from wire.archive.compaction import compact_archive
from wire.archive.deletion import Deletions, Video, delete_videos
from wire.errors import ArchiveError
directory = pathlib.Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    compact_archive(directory)
except ArchiveError as error:
    print(error)
"""


def test_on_a_full_disk_all_files_stay_as_they_were(tmp_path: Path) -> None:
    fill(tmp_path, 6)
    with Archive(tmp_path, 1):  # the first attempt's journal is in Parquet
        before = file_names(tmp_path)
        names = ids(tmp_path)
        size = max(path.stat().st_size for path in parquet_files(tmp_path))
        output, _ = python(FILL_THE_DISK, tmp_path, size // 2).communicate(timeout=30)
        assert "cannot compact" in output
        assert "(nothing is lost): File too large" in output
        assert (file_names(tmp_path), ids(tmp_path)) == (before, names)
        compact_archive(tmp_path)
    assert len(file_names(tmp_path)) == 1


def test_a_second_compaction_waits_for_the_first_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = fill(tmp_path, 2)
    refused: list[str] = []
    merge = compaction._merge

    def merge_beside_another(directory: Path, files: list[Path], deletions: Deletions) -> Path:
        with pytest.raises(ArchiveError) as error:
            compact_archive(directory)
        refused.append(str(error.value))
        return merge(directory, files, deletions)

    monkeypatch.setattr(compaction, "_merge", merge_beside_another)
    compact_archive(tmp_path)
    assert refused == [f"process {os.getpid()} is compacting {tmp_path}; wait for its end"]
    assert ids(tmp_path) == names


def test_a_run_that_opens_an_archive_leaves_half_merged_files_to_the_compaction(
    tmp_path: Path,
) -> None:
    names = fill(tmp_path, 2)
    half = tmp_path / "traces/attempt=000-step=000000-to=000001-merge=1.parquet.merging"
    half.write_bytes(b"PAR1 and no more")
    with Archive(tmp_path, 1):
        assert half.exists()  # a compaction may be writing it
        assert compact_archive(tmp_path).has_writer
        assert not half.exists()
    assert ids(tmp_path) == names


def test_a_folder_without_an_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no trace archive at .*/nowhere"):
        compact_archive(tmp_path / "nowhere")


def test_progress_begins_before_the_first_merge(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    with Archive(tmp_path, 0) as archive:
        for step in range(3):
            archive.append(make_group(make_trace(), group_id=f"{step}"))
            archive.compact(step)
    compact_archive(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(0, 3), (3, 3)]
