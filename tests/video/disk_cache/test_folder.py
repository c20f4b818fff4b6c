import errno
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tests.video.disk_cache.refusing_disk import RefusingDisk
from video.disk_cache.entry_file import Damaged, unpack
from video.disk_cache.file_system import Content, FileSystem
from video.disk_cache.folder import CacheFolder


def make_folder(path: Path, files: FileSystem | None = None) -> CacheFolder:
    return CacheFolder(
        path / "cache", 2**30, what="clips", otherwise="they are made anew", files=files
    )


def put(folder: CacheFolder, key: str, content: bytes = b"entry") -> bool:
    with folder.making(key, time.monotonic() + 1) as place:
        return place is not None and folder.write(place, [content[:2], memoryview(content[2:])])


def get(folder: CacheFolder, key: str) -> bytes | None:
    return folder.read(key, Content.tobytes)


def test_an_entry_appears_under_its_key(tmp_path: Path):
    folder = make_folder(tmp_path)
    assert get(folder, "ab12") is None
    assert put(folder, "ab12")
    assert folder.file("ab12") == tmp_path / "cache/ab/ab12.safetensors"
    assert folder.file("ab12").read_bytes() == b"entry"
    assert get(folder, "ab12") == b"entry"
    assert not folder.partial("ab12").exists()


def test_a_cache_that_is_deleted_while_it_is_used_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = make_folder(tmp_path)
    put(folder, "ab12")
    shutil.rmtree(tmp_path / "cache")
    folder._eviction.look()
    assert get(folder, "ab12") is None
    shutil.rmtree(tmp_path / "cache")
    assert put(folder, "cd34")
    assert get(folder, "cd34") == b"entry"
    assert not caplog.messages


def test_a_maker_that_makes_nothing_leaves_nothing(tmp_path: Path):
    folder = make_folder(tmp_path)
    with (
        pytest.raises(RuntimeError, match="no clip"),
        folder.making("ab12", time.monotonic() + 1),
    ):
        raise RuntimeError("no clip")
    assert not list(tmp_path.rglob("*.partial"))
    assert put(folder, "ab12")


def test_an_error_of_the_maker_is_the_makers(tmp_path: Path):
    folder = make_folder(tmp_path)
    with (
        pytest.raises(OSError, match="of the decoder"),
        folder.making("ab12", time.monotonic() + 1),
    ):
        raise OSError(errno.ENOSPC, "of the decoder")


def test_what_a_killed_writer_left_is_written_over(tmp_path: Path):
    folder = make_folder(tmp_path)
    folder.partial("ab12").parent.mkdir()
    folder.partial("ab12").write_bytes(b"half of a long entry")
    assert put(folder, "ab12")
    assert folder.file("ab12").read_bytes() == b"entry"


def test_a_damaged_entry_is_none_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def parse(content: Content) -> bytes:
        raise Damaged("its end is missing")

    folder = make_folder(tmp_path)
    put(folder, "ab12")
    assert folder.read("ab12", parse) is None
    assert f"{folder.file('ab12')}: its end is missing; making it anew" in caplog.text


@pytest.mark.parametrize("metadata", [{"clip": "{}"}, {"entry": '{"digest": "0"}'}])
def test_an_entry_of_an_older_version_is_made_anew_without_a_word(
    tmp_path: Path, metadata: dict[str, str], caplog: pytest.LogCaptureFixture
):
    folder = make_folder(tmp_path)
    put(folder, "ab12", save({"pixel_values": np.zeros((2, 2), np.float32)}, metadata))
    assert folder.read("ab12", partial(unpack, "ab12")) is None
    assert not caplog.messages


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_makes_room_and_is_a_warning_once(
    tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture
):
    for turn in range(20):
        put(make_folder(tmp_path), f"{turn:02d}key", b"x" * 4096)
    folder = make_folder(tmp_path, RefusingDisk("write", number))
    for key in ("ab12", "cd34"):
        assert not put(folder, key)
    assert caplog.text.count(f"no room for clips in {tmp_path / 'cache'}") == 1
    assert "until there is, they are made anew; free some" in caplog.text
    assert not list(tmp_path.rglob("*.partial"))
    kept = sorted(path.stem for path in tmp_path.rglob("*.safetensors"))
    assert 14 <= len(kept) < 20
    assert kept[-1] < "19key", "those with the largest keys go"


def test_a_disk_that_fails_is_a_warning_once_with_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = make_folder(tmp_path, RefusingDisk("lock", errno.ENOSYS))
    assert not put(folder, "ab12")
    assert not put(folder, "cd34")
    (warning,) = caplog.messages
    assert "cannot keep clips" in warning
    assert "Function not implemented" in warning
    assert "set video.cache_dir to a local disk of each node" in warning


def test_one_writer_at_a_time_holds_an_entry(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = make_folder(tmp_path)
    start = time.monotonic()
    with folder.making("ab12", start + 1) as first, folder.making("ab12", start + 0.1) as second:
        assert first is not None
        assert second is None
    assert time.monotonic() > start + 0.1
    assert f"another process holds {folder.partial('ab12')}" in caplog.text


def test_who_waited_finds_what_the_other_made(tmp_path: Path):
    folder = make_folder(tmp_path)
    with folder.making("ab12", time.monotonic() + 1) as place:
        assert place is not None
        folder.write(place, [b"entry"])
    with folder.making("ab12", time.monotonic() + 1):
        assert get(folder, "ab12") == b"entry"
    assert get(folder, "ab12") == b"entry"
    assert not list(tmp_path.rglob("*.partial"))
