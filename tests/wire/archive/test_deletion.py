from pathlib import Path

import pyarrow as pa
import pytest

from wire.archive.deletion import (
    Deletions,
    address_hash,
    delete_videos,
    find_videos,
    read_deletions,
)
from wire.errors import ArchiveError, ConfigError

ONE, TWO = "1" * 64, "2" * 64


def make_rows(*videos: tuple[str, str | None]) -> pa.Table:
    """A row for each address and content hash."""
    return pa.table(
        {
            "video": [video for video, _ in videos],
            "video_hash": pa.array([content for _, content in videos], pa.string()),
            "group_id": [f"g{number}" for number in range(len(videos))],
            "attempt": [0] * len(videos),
            "trace_index": pa.array([0] * len(videos), pa.int32()),
            "sample_id": [video.partition(".")[0] for video, _ in videos],
        }
    )


def test_a_tombstone_hides_the_rows_of_its_video_whatever_the_address(tmp_path: Path) -> None:
    assert not read_deletions(tmp_path)
    rows = make_rows(("a.mp4", ONE), ("b.mp4", ONE), ("a.mp4#t=1,2", ONE), ("c.mp4", TWO))
    assert read_deletions(tmp_path).kept(rows) is rows
    delete_videos(tmp_path, {ONE: []}, "2026-11-30")
    assert read_deletions(tmp_path).kept(rows)["video"].to_pylist() == ["c.mp4"]
    assert read_deletions(tmp_path).deleted(make_rows(("c.mp4", TWO))) is None


def test_rows_without_a_hash_are_known_by_the_address_and_others_are_not() -> None:
    deletions = Deletions(frozenset([ONE]), frozenset([address_hash("a.mp4")]))
    rows = make_rows(
        ("a.mp4", None), ("a.mp4#view=blank", ""), ("a.mp4", TWO), ("b.mp4", None), ("a.mp4#1", "")
    )
    kept = deletions.kept(rows)["group_id"].to_pylist()
    assert kept == ["g2", "g3", "g4"]  # another video at the same address stays


def test_tombstones_add_up_and_keep_no_address(tmp_path: Path) -> None:
    delete_videos(tmp_path, {ONE: ["/people/ann.mp4#t=1,2"]}, "today")
    deletions = delete_videos(tmp_path, {TWO: [], ONE: ["/people/bob.mp4"]}, "tomorrow")
    assert deletions.hashes == {ONE, TWO}
    assert deletions.addresses == {address_hash("/people/ann.mp4"), address_hash("/people/bob.mp4")}
    assert "people" not in (tmp_path / "deleted.json").read_text()
    assert deletions.fingerprint == read_deletions(tmp_path).fingerprint != Deletions().fingerprint


@pytest.mark.parametrize("name", ["clip.mp4", "1" * 63, "A" * 64])
def test_what_is_no_hash_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no video hash; give the SHA-256"):
        delete_videos(tmp_path, {name: []}, "today")
    assert not (tmp_path / "deleted.json").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1, "videos": {"x": 3}}', '{"format": 2}'])
def test_damaged_tombstones_hide_nothing_silently(tmp_path: Path, text: str) -> None:
    (tmp_path / "deleted.json").write_text(text)
    with pytest.raises(ArchiveError, match=r"deleted\.json"):
        read_deletions(tmp_path)


def test_a_search_names_addresses_samples_and_what_cannot_be_known() -> None:
    first = make_rows(("a.mp4#t=0,1", ONE), ("a.mp4", None), ("b.mp4", TWO), ("gone.mp4", None))
    second = make_rows(("old.mp4", ""), ("other.mp4", None), ("old.mp4#view=blank", None))
    files = {"a.mp4": None, "old.mp4": ONE, "other.mp4": TWO}
    use = find_videos([first, second], [ONE], files.get)
    assert use.addresses == {ONE: {"a.mp4", "old.mp4"}}
    assert use.sample_ids == {"a", "old"}
    assert use.num_traces == 4
    assert use.unknown == {"gone.mp4"}


def test_a_search_of_nothing_finds_nothing() -> None:
    use = find_videos([], [ONE], lambda _: None)
    assert (use.num_groups, use.num_traces, use.addresses) == (0, 0, {ONE: frozenset()})
