from pathlib import Path

import pytest

from tests.groups import make_group, make_trace
from wire.archive.archive import Archive, next_attempt, read_groups
from wire.archive.compaction import compact_archive
from wire.archive.garbage import find_garbage, remove_garbage
from wire.archive.parquet_files import parquet_files


def write(directory: Path, *names: str, attempt: int = 0) -> None:
    with Archive(directory, attempt) as archive:
        for name in names:
            archive.append(make_group(make_trace(), group_id=name))
        archive.compact(0)
        archive.append(make_group(make_trace(), group_id=f"{names[0]}/journaled"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A merged file beside one that it replaces, halves of files, a stale index, a journal."""
    write(tmp_path, "a")
    (step,) = parquet_files(tmp_path)
    kept = step.read_bytes()
    with Archive(tmp_path, 0) as opened:
        opened.append(make_group(make_trace(), group_id="b"))
        opened.compact(1)
        compact_archive(tmp_path)
        opened.append(make_group(make_trace(), group_id="c"))
    step.write_bytes(kept)
    (tmp_path / "traces/x.parquet.merging").write_bytes(b"1")
    (tmp_path / "traces/y.parquet.partial").write_bytes(b"22")
    (tmp_path / "index/attempt=009-step=000000.parquet").write_bytes(b"333")
    return tmp_path


def names(directory: Path) -> list[str]:
    return sorted(one.path.name for one in find_garbage(directory))


def test_garbage_is_listed_with_its_size_and_reason_and_nothing_is_touched(archive: Path) -> None:
    before = sorted(archive.rglob("*"))
    garbage = {one.path.name: one for one in find_garbage(archive)}
    assert sorted(garbage) == [
        "attempt=000-step=000000.parquet",
        "attempt=009-step=000000.parquet",
        "journal-0.bin",
        "x.parquet.merging",
        "y.parquet.partial",
    ]
    assert garbage["x.parquet.merging"].num_bytes == 1
    assert "replaced by a merged file" in garbage["attempt=000-step=000000.parquet"].why
    assert sorted(archive.rglob("*")) == before


def test_garbage_is_removed_and_no_group_is_lost(archive: Path) -> None:
    groups = sorted(group.group_id for group in read_groups(archive))
    remove_garbage(archive)
    assert names(archive) == []
    assert sorted(group.group_id for group in read_groups(archive)) == groups
    assert next_attempt(archive) == 1


def test_what_a_running_attempt_may_need_is_no_garbage(archive: Path) -> None:
    with Archive(archive, 0):
        (archive / "traces/z.parquet.partial").touch()  # it is writing this
        assert names(archive) == [
            "attempt=000-step=000000.parquet",
            "attempt=009-step=000000.parquet",
            "x.parquet.merging",
        ]
        remove_garbage(archive)
        assert (archive / "traces/z.parquet.partial").exists()
        assert names(archive) == []


def test_a_clean_archive_has_no_garbage(tmp_path: Path) -> None:
    Archive(tmp_path, 0).close()
    assert names(tmp_path) == []


def test_garbage_of_a_folder_that_cannot_be_written_is_listed(
    archive: Path,
) -> None:
    everything = [one.path for one in find_garbage(archive)]
    (archive / "writer-lock").unlink()
    (archive / "writer-lock").symlink_to(archive / "nowhere/lock")
    listed = [one.path for one in find_garbage(archive)]
    assert set(listed) < set(everything), "a run of somebody else's may be writing"
    assert any(path.name.endswith(".merging") for path in listed)
