import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.groups import UNREADABLE, make_group, make_trace
from wire.archive import group_reader, parquet_files
from wire.archive.archive import Archive
from wire.archive.group_reader import GroupReader, index_groups
from wire.archive.index import summarise
from wire.errors import ArchiveError
from wire.types import Failure, FailureKind, PolicyVersion

NUM = 150


@pytest.fixture(autouse=True)
def _small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "_ROWS", 128)  # the groups fill three


def fill(folder: Path, attempt: int, prefix: str = "calibrated") -> None:
    version = PolicyVersion(attempt=attempt, step=3)
    with Archive(folder, attempt) as archive:
        for number in range(NUM):
            traces = [] if number == 7 else [make_trace(tokens=(number, 2)), make_trace(None)]
            archive.append(
                make_group(*traces, group_id=f"{prefix}/{number}", policy_version=version)
            )
        archive.compact(3)


def test_the_index_says_who_wrote_a_group_and_what_is_in_it(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    fill(tmp_path, 1, "other")
    groups = list(index_groups(tmp_path, "calibrated/"))
    assert [group.group_id for group in groups] == [f"calibrated/{n}" for n in range(NUM)]
    assert {group.version for group in groups} == {PolicyVersion(attempt=0, step=3)}
    assert {(g.num_traces, g.num_failures) for g in groups if g.group_id[-2:] != "/7"} == {(2, 1)}
    assert (groups[7].num_traces, groups[7].num_failures) == (0, len([UNREADABLE]))


def test_traces_that_no_reward_judges_have_not_failed(tmp_path: Path) -> None:
    not_judged = Failure(kind=FailureKind.NOT_APPLICABLE, culprit="reward", reason="none")
    traces = [replace(make_trace(), outcome=not_judged), make_trace(None)]
    with Archive(tmp_path, 0) as archive:
        archive.append(make_group(*traces, group_id="a/0"))
        archive.compact(0)
    (group,) = index_groups(tmp_path, "a/")
    assert (group.num_traces, group.num_failures) == (2, 1)
    assert [one.failed for one in summarise(tmp_path).counts] == [1]


def test_a_group_is_read_as_it_was_written_whichever_comes_first(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    reader = GroupReader({g.group_id: g.place for g in index_groups(tmp_path, "calibrated/")})
    assert len(reader) == NUM
    for number in (149, 0, 70, 7, 1):
        group = reader.group(f"calibrated/{number}")
        assert group.group_id == f"calibrated/{number}"
        assert len(group.traces) == (0 if number == 7 else 2)
        if group.traces:
            assert list(group.traces[0].completion.token_ids) == [number, 2]
    with pytest.raises(KeyError):
        reader.group("calibrated/150")


def test_the_rows_in_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 0)
    monkeypatch.setattr(group_reader, "_HELD_BYTES", 1)
    places = {g.group_id: g.place for g in index_groups(tmp_path, "calibrated/")}
    reader = GroupReader(places)
    for number in (0, 149, 1, 148):
        assert reader.group(f"calibrated/{number}").group_id == f"calibrated/{number}"
        assert len(reader._held) == 1


def test_threads_read_while_another_attempt_writes_and_compacts(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    reader = GroupReader({g.group_id: g.place for g in index_groups(tmp_path, "calibrated/")})
    wrong: list[str] = []

    def read(start: int) -> None:
        for number in range(start, NUM, 4):
            if reader.group(f"calibrated/{number}").group_id != f"calibrated/{number}":
                wrong.append(f"{number}")

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    fill(tmp_path, 1)
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    reader = GroupReader({g.group_id: g.place for g in index_groups(tmp_path, "calibrated/")})
    (file,) = tmp_path.rglob("*.parquet")
    file.write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(ArchiveError, match=file.name):
        reader.group("calibrated/3")
