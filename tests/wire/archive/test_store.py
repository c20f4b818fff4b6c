"""Archives in S3, a real server over HTTP: read, browsed, merged, verified, deleted from."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from tests.buckets import s3_bucket
from tests.groups import make_group, make_sample, make_trace
from wire import remote_path
from wire.archive.archive import Archive, read_groups, read_table, read_tables
from wire.archive.compaction import compact_archive
from wire.archive.deletion import SEARCHED, delete_videos, find_videos
from wire.archive.garbage import find_garbage, remove_garbage
from wire.archive.group_reader import GroupReader, index_groups
from wire.archive.index import browse, summarise
from wire.archive.locks import compacting
from wire.archive.parquet_files import parquet_files
from wire.archive.store import copy_archive
from wire.archive.verify import verify_archive
from wire.errors import ArchiveError, ConfigError
from wire.finding import Level
from wire.remote_path import place_of
from wire.types import Prompt


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    remote_path._system.cache_clear()
    with s3_bucket("traces") as address:
        yield address
    remote_path._system.cache_clear()


def fill(directory: Path, steps: int = 3) -> list[str]:
    with Archive(directory, 0) as archive:
        for step in range(steps + 1):
            for video in ("1", "2"):
                archive.append(
                    make_group(
                        make_trace(),
                        make_trace(None),
                        group_id=f"{step}/{video}",
                        sample=make_sample(id=f"s{video}", video=f"/clips/{video}.mp4"),
                        prompt=Prompt(
                            token_ids=(1,), clip_key="k", fingerprint="f", video_hash=video * 64
                        ),
                    )
                )
            if step < steps:
                archive.compact(step)
    return [f"{step}/{video}" for step in range(steps + 1) for video in ("1", "2")]


def ids(directory: Path) -> list[str]:
    return [group.group_id for group in read_groups(directory)]


def test_an_archive_is_copied_there_and_back_whole(bucket: str, tmp_path: Path) -> None:
    names = fill(tmp_path / "archive")
    remote = place_of(f"{bucket}/copied")
    copied = copy_archive(tmp_path / "archive", remote)
    assert len(copied) == 4
    assert list(read_groups(remote)) == list(read_groups(tmp_path / "archive"))
    copy_archive(remote, tmp_path / "back")
    assert ids(tmp_path / "back") == names
    assert read_table(tmp_path / "back").equals(read_table(tmp_path / "archive"))
    with pytest.raises(ArchiveError, match=r"s3://traces/copied is not empty"):
        copy_archive(tmp_path / "archive", remote)


def test_a_remote_archive_is_read_browsed_merged_and_verified(bucket: str, tmp_path: Path) -> None:
    names = fill(tmp_path)
    remote = place_of(f"{bucket}/merged")
    copy_archive(tmp_path, remote)
    before = summarise(remote)
    places = {group.group_id: group.place for group in index_groups(remote, "")}
    reader = GroupReader(places)
    report = compact_archive(remote)
    assert (report.files_before, report.files_after, report.recovered) == (4, 1, 1)
    assert sorted(ids(remote)) == names
    assert all(reader.group(name).group_id == name for name in places)
    after = summarise(remote)
    assert after.counts == before.counts
    assert after.num_indexed == 1
    page = browse(remote, ["group_id"], newest_first=True, limit=2)
    assert page["group_id"].to_pylist() == [ids(remote)[-1]] * 2
    assert all(finding.level is Level.OK for finding in verify_archive(remote))
    compact_archive(tmp_path)
    assert read_table(remote).equals(read_table(tmp_path))


def test_a_video_is_deleted_from_a_remote_archive(bucket: str, tmp_path: Path) -> None:
    fill(tmp_path)
    remote = place_of(f"{bucket}/deleted")
    copy_archive(tmp_path, remote)
    use = find_videos(read_tables(remote, SEARCHED), ["1" * 64], lambda _: None)
    delete_videos(remote, use.videos, "today")
    assert ids(remote) == [f"{step}/2" for step in range(4)]
    assert compact_archive(remote).removed == 8
    assert "1.mp4" not in str(read_table(remote)["video"].to_pylist())
    assert all(finding.level is Level.OK for finding in verify_archive(remote))


def test_one_compaction_at_a_time_and_leftovers_go(bucket: str, tmp_path: Path) -> None:
    fill(tmp_path)
    remote = place_of(f"{bucket}/locked")
    copy_archive(tmp_path, remote)
    with compacting(remote), pytest.raises(ArchiveError, match=r"remove s3://traces/locked/comp"):
        compact_archive(remote)
    with (remote / "traces/x.parquet.merging").open("wb") as file:
        file.write(b"half")
    assert "x.parquet.merging" in [one.path.name for one in find_garbage(remote)]
    remove_garbage(remote)
    assert find_garbage(remote) == []
    assert len(parquet_files(remote)) == 4  # the journal's groups are in one of them


def test_a_folder_without_an_archive_is_named(bucket: str) -> None:
    with pytest.raises(ArchiveError, match=r"no trace archive at s3://traces/nowhere"):
        read_groups(place_of(f"{bucket}/nowhere"))


def test_a_store_that_does_not_answer_and_one_that_is_closed_are_named(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote_path._system.cache_clear()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ConfigError, match=r"closed to you.* give credentials such as AWS_PROFILE"):
        read_groups(place_of(f"{bucket}/copied"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    remote_path._system.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ConfigError, match=r"cannot be reached: .*127\.0\.0\.1:9"):
        read_groups(place_of(f"{bucket}/copied"))
