import errno
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from video.cache_folder import CacheFolder, is_disk_full
from wire.errors import DeadlineExceeded


def make_folder(path: Path) -> CacheFolder:
    return CacheFolder(path / "cache", 2**30, what="clips", otherwise="they are made anew")


def put(folder: CacheFolder, key: str, content: bytes = b"entry") -> bool:
    def write(file: BinaryIO) -> None:
        file.write(content)

    with folder.locked(key, time.monotonic() + 1) as file:
        return folder.write(key, file, write)


def put_on_full_disk(folder: CacheFolder, key: str, number: int = errno.ENOSPC) -> bool:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(number, "No space left on device")

    with folder.locked(key, time.monotonic() + 1) as file:
        return folder.write(key, file, write)


def test_an_entry_appears_under_its_key(tmp_path: Path):
    folder = make_folder(tmp_path)
    assert put(folder, "ab12")
    assert folder.file("ab12") == tmp_path / "cache/ab/ab12.safetensors"
    assert folder.file("ab12").read_bytes() == b"entry"
    assert not folder.partial("ab12").exists()


def test_what_a_killed_writer_left_is_written_over(tmp_path: Path):
    folder = make_folder(tmp_path)
    folder.partial("ab12").parent.mkdir()
    folder.partial("ab12").write_bytes(b"half of a long entry")
    assert put(folder, "ab12")
    assert folder.file("ab12").read_bytes() == b"entry"


def test_a_full_disk_is_a_warning_once_until_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = make_folder(tmp_path)
    for key in ("ab12", "cd34"):
        assert not put_on_full_disk(folder, key)
    assert caplog.text.count(f"no room for clips in {tmp_path / 'cache'}") == 1
    assert "until there is, they are made anew; free some" in caplog.text
    assert not list(tmp_path.rglob("*.partial"))
    assert put(folder, "ab12")
    assert not put_on_full_disk(folder, "cd34")
    assert caplog.text.count("no room for clips") == 2


def test_another_error_of_the_disk_is_raised(tmp_path: Path):
    folder = make_folder(tmp_path)
    with pytest.raises(OSError, match="No space"):
        put_on_full_disk(folder, "ab12", errno.EIO)
    assert not list(tmp_path.rglob("*.partial"))


def test_one_writer_at_a_time_holds_an_entry(tmp_path: Path):
    folder = make_folder(tmp_path)
    other = folder.locked("ab12", time.monotonic())
    with folder.locked("ab12", time.monotonic() + 1), pytest.raises(DeadlineExceeded):
        other.__enter__()


@pytest.mark.parametrize(
    ("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)]
)
def test_a_full_disk_is_told_by_its_error(number: int, full: bool):
    assert is_disk_full(OSError(number, "text")) is full
