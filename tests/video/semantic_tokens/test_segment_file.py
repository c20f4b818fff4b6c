from pathlib import Path

import numpy as np
import pytest

from tests.video.semantic_tokens.builders import PLACES, WIDTH, arrays
from video.semantic_tokens.segment_file import SegmentFile, SegmentWriter
from wire.errors import DataError


def written(path: Path, *lengths: int) -> list[np.ndarray]:
    clips = arrays(*lengths)
    with SegmentWriter(path, tower="tower", places=PLACES, width=WIDTH) as writer:
        for n, clip in enumerate(clips):
            writer.add(f"clip {n}", clip)
    return clips


def test_segments_are_read_from_the_disk_as_they_were_written(tmp_path: Path):
    clips = written(tmp_path / "new" / "segments", 3, 1, 5)
    file = SegmentFile.open(tmp_path / "new" / "segments")
    assert (file.tower, file.places, file.width, len(file)) == ("tower", PLACES, WIDTH, 3)
    assert file.clips == ("clip 0", "clip 1", "clip 2")
    assert isinstance(file.values, np.memmap)
    for there, here in zip(file.read([2, 0]), (clips[2], clips[0]), strict=True):
        assert np.array_equal(there, here)


def test_a_subset_has_its_own_order_on_the_same_file(tmp_path: Path):
    clips = written(tmp_path / "segments", 3, 1, 5)
    part = SegmentFile.open(tmp_path / "segments").subset(["clip 2", "clip 1"])
    assert (len(part), part.lengths) == (2, (5, 1))
    assert np.array_equal(part.read([1])[0], clips[1])
    with pytest.raises(DataError, match=r"1 of 2 clips have no segments in .*first is clip 9"):
        part.subset(["clip 2", "clip 9"])


def test_a_clip_that_comes_again_is_kept_once(tmp_path: Path):
    clips = arrays(2, 3)
    with SegmentWriter(tmp_path / "s", tower="t", places=PLACES, width=WIDTH) as writer:
        writer.add("a", clips[0])
        writer.add("a", clips[0])
        writer.add("b", clips[1])
    assert SegmentFile.open(tmp_path / "s").lengths == (2, 3)


def test_segments_of_another_size_are_refused_and_leave_no_file(tmp_path: Path):
    writer = SegmentWriter(tmp_path / "s", tower="t", places=PLACES, width=WIDTH)
    with pytest.raises(ValueError, match=r"expected \[T >= 1, 4, 6\]"), writer:
        writer.add("a", np.zeros((2, PLACES, WIDTH + 1), np.float32))
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_cut_missing_empty_or_something_else_is_refused(tmp_path: Path):
    path = tmp_path / "s"
    with pytest.raises(DataError, match="cannot open the segments"):
        SegmentFile.open(path)
    written(path, 3, 2)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[4:], b"", b"x" * 400):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is no whole segment file"):
            SegmentFile.open(path)
    written(path)
    with pytest.raises(DataError, match="holds no clips"):
        SegmentFile.open(path)
