"""Each fault that an archive can have, made in a real one, is a finding that names its file."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.groups import make_group, make_sample, make_trace
from wire.archive.archive import Archive, read_tables
from wire.archive.compaction import compact_archive
from wire.archive.deletion import SEARCHED, delete_videos, file_hash, find_videos
from wire.archive.index_files import index_path
from wire.archive.parquet_files import parquet_files
from wire.archive.verify import verify_archive
from wire.errors import ArchiveError
from wire.finding import Finding, Level
from wire.types import Prompt

OLD_RUN = Path(__file__).parents[2] / "data/run_before_move/finished/archive"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An indexed file, a step file and a journal; the videos are there."""
    directory = tmp_path / "archive"
    with Archive(directory, 0) as opened:
        for step in range(3):
            for number in range(3):
                video = tmp_path / f"{number}.mp4"
                video.write_bytes(bytes([number]) * 100)
                prompt = Prompt(
                    token_ids=(1, 2),
                    clip_key="k",
                    fingerprint="f",
                    video_hash=file_hash(str(video)) or "",
                )
                opened.append(
                    make_group(
                        make_trace(),
                        make_trace(None),
                        group_id=f"grpo/{step}-{number}",
                        sample=make_sample(id=f"s{number}", video=f"{video}#t=0,1"),
                        prompt=prompt,
                    )
                )
            if step < 2:
                opened.compact(step)
            if step == 0:
                compact_archive(directory)
    return directory


def faults(directory: Path, videos: int = 0) -> list[Finding]:
    return [one for one in verify_archive(directory, videos) if one.level is not Level.OK]


def test_a_sound_archive_says_what_was_read(archive: Path) -> None:
    findings = verify_archive(archive, videos=2)
    assert [one.level for one in findings] == [Level.OK] * 3
    assert "2 files and 1 journals, 18 rows" in findings[0].what
    assert "index of 1 files is equal to them; 1 have none yet" in findings[1].what
    assert "2 of 3 videos have the content" in findings[2].what
    compact_archive(archive)
    assert faults(archive) == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60] ^= 0x10  # in a page of values
    path.write_bytes(data)


def again(path: Path) -> None:
    shutil.copy(path, path.with_name("attempt=000-step=000009.parquet"))


def foreign(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


def other_value(path: Path) -> None:
    table = pq.read_table(path)
    place = table.schema.get_field_index("split")
    odd = pa.array(["holdout"] * table.num_rows)
    pq.write_table(table.set_column(place, table.schema.field("split"), odd), path)


def half_a_group(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip, "step=000001.parquet is damaged"),
        (again, "step=000009.parquet holds group 'grpo/1-0' of attempt 0, as attempt"),
        (foreign, "step=000001.parquet is not a file of the trace archive"),
        (other_value, "step=000001.parquet holds split ['holdout']"),
        (half_a_group, "step=000001.parquet holds groups whose traces are not numbered"),
    ],
)
def test_a_damaged_file_is_named_and_the_others_are_read(
    archive: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(archive / "traces/attempt=000-step=000001.parquet")
    (fault,) = faults(archive)
    assert fault.level is Level.ERROR
    assert words in fault.what
    assert fault.remedy


def test_a_damaged_journal_is_named(archive: Path) -> None:
    journal = archive / "journal-0.bin"
    data = bytearray(journal.read_bytes())
    data[20] ^= 1
    journal.write_bytes(data)
    (fault,) = faults(archive)
    assert "journal-0.bin" in fault.what


def test_an_index_that_differs_from_its_file_is_named(archive: Path) -> None:
    compact_archive(archive)
    (traces,) = parquet_files(archive)
    index = index_path(archive, traces)
    table = pq.read_table(index)
    label = pa.array(["other"] * table.num_rows)
    place = table.schema.get_field_index("label")
    pq.write_table(table.set_column(place, table.schema.field("label"), label), index)
    (fault,) = faults(archive)
    assert (fault.level, fault.where) == (Level.ERROR, (traces.name,))
    assert "archive compact" in fault.remedy


def test_deleted_videos_are_proven_gone_or_named_where_they_are(
    archive: Path, tmp_path: Path
) -> None:
    content = file_hash(str(tmp_path / "1.mp4")) or ""
    use = find_videos(read_tables(archive, SEARCHED), [content], file_hash)
    delete_videos(archive, use.videos, "today")
    (fault,) = faults(archive)
    assert fault.level is Level.ERROR
    assert "6 rows of 1 deleted videos are hidden but still in the files" in fault.what
    assert [line.partition(":")[0] for line in fault.where] == [
        "attempt=000-step=000000.parquet",
        "attempt=000-step=000001.parquet",
        "journal-0.bin",
        "index/attempt=000-step=000000.parquet",
    ]
    compact_archive(archive)
    assert faults(archive) == []
    proof = [one.what for one in verify_archive(archive) if "deleted" in one.what]
    assert proof == [
        "no row of 1 deleted videos is in any of 1 files and 1 journals, 12 rows, nor in the index"
    ]


def test_leftovers_and_older_schemas_are_warnings(archive: Path, tmp_path: Path) -> None:
    (archive / "traces/x.parquet.merging").touch()
    (fault,) = faults(archive)
    assert (fault.level, fault.where) == (Level.WARNING, ("x.parquet.merging",))
    old = shutil.copytree(OLD_RUN, tmp_path / "old")
    (fault,) = faults(old)
    assert "of an older schema" in fault.what
    assert "archive compact writes them anew" in fault.remedy


def test_a_video_that_is_gone_or_another_is_named(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "0.mp4").unlink()
    (tmp_path / "1.mp4").write_bytes(b"another")
    gone, other = faults(archive, videos=10)
    assert (gone.level, gone.where) == (Level.WARNING, (str(tmp_path / "0.mp4"),))
    assert (other.level, other.where) == (Level.ERROR, (str(tmp_path / "1.mp4"),))
    assert faults(archive) == []


def test_damaged_tombstones_are_an_error(archive: Path) -> None:
    (archive / "deleted.json").write_text("{")
    assert "deleted.json" in faults(archive)[0].what


def test_a_folder_without_an_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no trace archive"):
        verify_archive(tmp_path / "nowhere")
