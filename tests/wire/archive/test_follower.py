from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.groups import make_group, make_sample, make_trace
from wire.archive import follower as module
from wire.archive.archive import Archive
from wire.archive.compaction import compact_archive
from wire.archive.deletion import Video, delete_videos
from wire.archive.follower import ArchiveFollower
from wire.archive.parquet_files import free_path, parquet_files, write_parquet
from wire.archive.trace_rows import rows_of
from wire.errors import ArchiveError
from wire.types import PolicyVersion, Purpose, Split, TraceGroup


def group(
    name: str, *, purpose: Purpose = Purpose.VALIDATION, split: Split = Split.VAL, attempt: int = 0
) -> TraceGroup:
    return make_group(
        make_trace(),
        group_id=name,
        purpose=purpose,
        sample=make_sample(id=name, split=split),
        policy_version=PolicyVersion(attempt=attempt, step=1),
    )


def ids(follower: ArchiveFollower) -> list[str]:
    return [group.group_id for group in follower.new_groups()]


def test_each_group_comes_once_from_the_journal_from_parquet_and_from_merged_files(tmp_path: Path):
    follower = ArchiveFollower(tmp_path, Purpose.VALIDATION)
    assert ids(follower) == []  # the run has not begun to write
    with Archive(tmp_path, 0) as archive:
        archive.append(group("a"))
        archive.append(group("t", purpose=Purpose.TRAIN))
        assert ids(follower) == ["a"]
        assert ids(follower) == []
        archive.append(group("b"))
        archive.compact(step=1)
        archive.append(group("c"))
        assert ids(follower) == ["b", "c"]
        archive.compact(step=2)
        assert ids(follower) == []
        compact_archive(tmp_path)
        archive.append(group("d"))
        assert ids(follower) == ["d"]
    with Archive(tmp_path, 1) as archive:  # the resumed run compacts the journal of the dead one
        archive.append(group("a", attempt=1))  # the same clip and step, by other weights
        assert [(g.group_id, g.policy_version.attempt) for g in follower.new_groups()] == [("a", 1)]
    again = ids(ArchiveFollower(tmp_path, Purpose.VALIDATION))  # a watcher that starts anew
    assert sorted(again) == ["a", "a", "b", "c", "d"]


def test_a_file_that_is_merged_away_while_it_is_asked_for_is_read_from_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with Archive(tmp_path, 0) as archive:
        for step, name in enumerate("abc"):
            archive.append(group(name))
            archive.compact(step)
    listed = parquet_files(tmp_path)
    compact_archive(tmp_path)
    listings: list[Callable[[Path], list[Path]]] = [lambda _: listed, parquet_files, parquet_files]
    monkeypatch.setattr(module, "parquet_files", lambda directory: listings.pop(0)(directory))
    assert ids(ArchiveFollower(tmp_path, Purpose.VALIDATION)) == ["a", "b", "c"]


@pytest.mark.parametrize("compacted", [False, True])
def test_nothing_is_made_of_the_rows_of_test_clips(tmp_path: Path, compacted: bool):
    """They hold what no group can be made of: reading one would raise."""
    rows = rows_of(group("secret", split=Split.TEST))
    spoilt = rows.set_column(
        rows.schema.get_field_index("finish_reason"), "finish_reason", pa.array(["no such reason"])
    )
    with Archive(tmp_path, 0) as archive:
        archive.append(group("a"))
        if compacted:
            archive.compact(step=1)
    write_parquet(free_path(tmp_path, 0, 1), [spoilt, rows_of(group("b"))])
    with pytest.raises(ArchiveError, match="secret"):
        list(module.groups_in(spoilt, "here"))
    assert sorted(ids(ArchiveFollower(tmp_path, Purpose.VALIDATION))) == ["a", "b"]


def test_a_file_that_got_the_name_of_one_that_was_merged_away_is_read(tmp_path: Path):
    with Archive(tmp_path, 0) as archive:
        archive.append(group("a"))
        archive.compact(step=1)
        follower = ArchiveFollower(tmp_path, Purpose.VALIDATION)
        assert ids(follower) == ["a"]
        compact_archive(tmp_path)
        archive.append(group("b"))
        archive.compact(step=1)
    assert len({path.name for path in parquet_files(tmp_path)}) == 2
    assert ids(follower) == ["b"]


def test_groups_of_a_deleted_video_do_not_come(tmp_path: Path):
    follower = ArchiveFollower(tmp_path, Purpose.VALIDATION)
    with Archive(tmp_path, 0) as archive:
        archive.append(group("a"))
        assert ids(follower) == ["a"]
        archive.append(group("b"))
        video = Video(addresses={"a.mp4"})  # of all groups here
        delete_videos(tmp_path, {"0" * 64: video}, "2026-11-30")
        archive.append(group("c"))
        archive.compact(step=1)
    assert ids(follower) == []


def test_of_some_versions_only_their_groups_come(tmp_path: Path):
    with Archive(tmp_path, 0) as archive:
        archive.append(group("a"))
        archive.compact(step=1)
        archive.append(group("b", attempt=1))
    versions = [PolicyVersion(attempt=1, step=1), PolicyVersion(attempt=0, step=2)]
    assert ids(ArchiveFollower(tmp_path, Purpose.VALIDATION, versions)) == ["b"]


def test_a_damaged_file_is_named(tmp_path: Path):
    with Archive(tmp_path, 0) as archive:
        archive.append(group("a"))
        (path,) = [archive.compact(step=1)]
    assert path is not None
    path.write_bytes(b"PAR1 and nothing behind it")
    with pytest.raises(ArchiveError, match=path.name):
        ids(ArchiveFollower(tmp_path, Purpose.VALIDATION))
