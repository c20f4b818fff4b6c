import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.groups import UNREADABLE, make_group, make_sample, make_trace
from wire.archive.archive import Archive, read_groups, read_table, read_tables
from wire.archive.compaction import compact_archive
from wire.archive.deletion import (
    SEARCHED,
    Deletions,
    Video,
    address_hash,
    base_address,
    delete_videos,
    file_hash,
    find_videos,
    read_deletions,
)
from wire.archive.follower import ArchiveFollower
from wire.archive.group_reader import GroupReader, index_groups
from wire.archive.index import browse, summarise
from wire.archive.journal import read_journal
from wire.errors import ArchiveError, ConfigError
from wire.types import PolicyVersion, Prompt, Purpose, TraceGroup

OLD_RUN = Path(__file__).parents[2] / "data/run_before_move/killed/archive"
ONE, TWO = "1" * 64, "2" * 64


def make_rows(*videos: tuple[str, str | None]) -> pa.Table:
    """A row for each address and content hash."""
    return pa.table(
        {
            "video": [video for video, _ in videos],
            "video_hash": pa.array([content for _, content in videos], pa.string()),
            "group_id": [f"g{number}" for number in range(len(videos))],
            "attempt": [0] * len(videos),
            "clip_key": ["k"] * len(videos),
            "trace_index": pa.array([0] * len(videos), pa.int32()),
            "sample_id": [video.partition(".")[0] for video, _ in videos],
        }
    )


def test_a_tombstone_hides_the_rows_of_its_video_whatever_the_address(tmp_path: Path) -> None:
    assert not read_deletions(tmp_path)
    rows = make_rows(("a.mp4", ONE), ("b.mp4", ONE), ("a.mp4#t=1,2", ONE), ("c.mp4", TWO))
    assert read_deletions(tmp_path).kept(rows) is rows
    delete_videos(tmp_path, {ONE: Video()}, "2026-11-30")
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
    ann, bob = "/people/ann.mp4", "/people/bob.mp4"
    delete_videos(tmp_path, {ONE: Video(addresses={f"{ann}#t=1,2"}, samples={"ann"})}, "today")
    deletions = delete_videos(tmp_path, {TWO: Video(), ONE: Video(addresses={bob})}, "tomorrow")
    assert deletions == read_deletions(tmp_path)
    assert deletions.hashes == {ONE, TWO}
    assert deletions.addresses == {address_hash(ann), address_hash(bob)}
    assert deletions.names("ann")
    assert not deletions.names("bob")
    text = (tmp_path / "deleted.json").read_text()
    assert "ann" not in text
    assert "people" not in text


@pytest.mark.parametrize("name", ["clip.mp4", "1" * 63, "A" * 64])
def test_what_is_no_hash_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no video hash; give the SHA-256"):
        delete_videos(tmp_path, {name: Video()}, "today")
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
    (video,) = use.videos.values()
    assert video.addresses == {"a.mp4", "old.mp4"}
    assert video.samples == {"a", "old"}
    assert video.num_traces == 4
    assert use.unknown == {"gone.mp4"}


def test_a_search_of_nothing_finds_nothing() -> None:
    use = find_videos([], [ONE], lambda _: None)
    assert use.videos == {ONE: Video()}


def test_a_file_s_hash_is_that_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"frames")
    assert file_hash(str(tmp_path / "a.mp4")) == hashlib.sha256(b"frames").hexdigest()
    assert file_hash(str(tmp_path / "b.mp4")) is None


# In an archive: group d/N is of the video to delete, k/N of another; d/2 could not be decoded


def write(directory: Path, *names: str, attempt: int = 0, step: int | None = None) -> None:
    with Archive(directory, attempt) as archive:
        for name in names:
            archive.append(one_group(name, attempt))
        if step is not None:
            archive.compact(step)


def one_group(name: str, attempt: int = 0) -> TraceGroup:
    video = f"/clips/{name[0]}.mp4#t=0,{name[-1]}"
    sample = make_sample(id=f"sample-{name[0]}", video=video, text=f"side text of {name}")
    version = PolicyVersion(attempt=attempt, step=0)
    if name == "d/2":
        return make_group(
            group_id=name, sample=sample, policy_version=version, prompt=None, failures=[UNREADABLE]
        )
    prompt = Prompt(
        token_ids=(1,), clip_key="k", fingerprint="f", video_hash=ONE if name[0] == "d" else TWO
    )
    return make_group(
        make_trace(), group_id=name, sample=sample, policy_version=version, prompt=prompt
    )


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Indexed files, a step file and a journal, each with both videos, and a file of one alone."""
    write(tmp_path, "d/0", "k/0", step=0)
    compact_archive(tmp_path)
    write(tmp_path, "k/1", "d/1", "d/2", step=1)
    write(tmp_path, "d/3", step=2)
    write(tmp_path, "d/4", "k/4")
    return tmp_path


def delete(directory: Path) -> Deletions:
    use = find_videos(read_tables(directory, SEARCHED), [ONE], lambda _: None)
    return delete_videos(directory, use.videos, "today")


def ids(directory: Path) -> list[str]:
    return [group.group_id for group in read_groups(directory)]


def mentions(directory: Path) -> list[str]:
    """Files in which a deleted group's id, or its text, is to be read."""
    texts = [f"side text of d/{number}" for number in range(5)]
    return [
        path.name
        for path in directory.rglob("*")
        if path.is_file() and any(text in str(content(path)) for text in [*texts, "/clips/d.mp4"])
    ]


def content(path: Path) -> object:
    if path.suffix == ".bin":
        return [table.to_pylist() for table in read_journal(path)]
    return pq.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_bytes()


def test_every_reader_hides_a_deleted_video_at_once(archive: Path) -> None:
    follower = ArchiveFollower(archive, Purpose.TRAIN)
    assert len(mentions(archive)) == 5  # three files, one of which has an index, and the journal
    delete(archive)
    kept = ["k/0", "k/1", "k/4"]
    assert ids(archive) == kept
    assert read_table(archive, ["group_id"])["group_id"].to_pylist() == kept
    assert [group.group_id for group in index_groups(archive, "d/")] == []
    assert browse(archive)["group_id"].to_pylist() == kept
    assert sum(one.groups for one in summarise(archive).counts) == 3
    assert [group.group_id for group in follower.new_groups()] == kept
    for name in ("d/0", "d/5"):  # the same id is taken still, and a new one is hidden
        with Archive(archive, 0) as opened, suppress(ArchiveError):
            opened.append(one_group(name))
    assert ids(archive) == kept


def test_compaction_removes_what_is_hidden_from_every_file(archive: Path) -> None:
    delete(archive)
    report = compact_archive(archive)
    assert report.removed == 5
    assert mentions(archive) == []
    assert sorted(ids(archive)) == ["k/0", "k/1", "k/4"]
    assert browse(archive)["group_id"].to_pylist() == ids(archive)
    assert compact_archive(archive).removed == 0


def test_a_file_of_deleted_videos_alone_leaves_no_row(tmp_path: Path) -> None:
    write(tmp_path, "d/0", step=0)
    delete(tmp_path)
    compact_archive(tmp_path)
    assert mentions(tmp_path) == []
    assert ids(tmp_path) == []
    write(tmp_path, "k/0", step=1)
    compact_archive(tmp_path)
    assert ids(tmp_path) == ["k/0"]


def test_beside_a_run_that_writes_deleted_rows_are_hidden_and_wait(archive: Path) -> None:
    """It may read them at places that it remembers."""
    places = {group.group_id: group.place for group in index_groups(archive, "d/")}
    reader, later = GroupReader(places), GroupReader(places)
    with Archive(archive, 0) as running:
        delete(archive)
        report = compact_archive(archive)
        assert (report.has_writer, report.removed) == (True, 0)
        assert reader.group("d/0").group_id == "d/0"
        running.append(one_group("k/5"))
        assert ids(archive) == ["k/0", "k/1", "k/4", "k/5"]
    compact_archive(archive)
    assert mentions(archive) == []
    with pytest.raises(ArchiveError, match="it was deleted"):
        later.group("d/0")


def test_an_archive_without_hashes_knows_a_video_by_its_file(tmp_path: Path) -> None:
    """As of the schemas before there was a column for it."""
    archive = tmp_path / "archive"
    shutil.copytree(OLD_RUN, archive)
    rows = read_table(archive, ["video", "group_id"])
    videos = rows["video"].unique().to_pylist()
    files = {base_address(videos[0]): ONE}
    use = find_videos(read_tables(archive, SEARCHED), [ONE], files.get)
    assert use.unknown == {base_address(video) for video in videos} - files.keys()
    delete_videos(archive, use.videos, "today")
    assert set(read_table(archive, ["video"])["video"].to_pylist()) == set(videos[1:])
    removed = compact_archive(archive).removed
    assert removed == rows["video"].to_pylist().count(videos[0])
    assert videos[0] not in str(
        [pq.read_table(path).to_pydict() for path in archive.rglob("*.pa*")]
    )


def test_deletions_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    names = [f"{number:064x}" for number in range(24)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: delete_videos(tmp_path, {name: Video()}, "today"), names))
    assert read_deletions(tmp_path).hashes == set(names)


def test_damaged_tombstones_are_moved_away_and_made_again(tmp_path: Path) -> None:
    (tmp_path / "deleted.json").write_text('{"format": 1, "videos"')
    with pytest.raises(ArchiveError, match="move it away and delete the videos again"):
        delete_videos(tmp_path, {ONE: Video()}, "today")
