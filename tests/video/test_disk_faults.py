"""A fault of the disk that passes costs a pause; one that stays is not the clip's."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from video import disk_faults, pool
from video.cache import ClipStore
from video.config import VideoConfig
from video.disk_faults import PAUSES_S, is_readable, may_pass, number_of, patiently
from video.pool import DecodePool
from wire.errors import ClipError, ClipUnreachable

PASSING = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN]
STAYING = [errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG]
TRIES = len(PAUSES_S) + 1


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, in no time."""
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


def failing(number: int, times: int, act: Callable[..., Any] = lambda: "bytes") -> Any:
    left = [times]

    def failed(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(number, os.strerror(number))
        return act(*args, **kwargs)

    return failed


@pytest.mark.parametrize("number", PASSING)
def test_a_fault_that_passes_costs_pauses_alone(number: int, pauses: list[float]):
    assert patiently(failing(number, TRIES - 1), Path("a.mp4")) == "bytes"
    assert pauses == list(PAUSES_S)
    with pytest.raises(ClipUnreachable, match=r"the disk of a\.mp4 failed 4 times: .*mounted"):
        patiently(failing(number, TRIES), Path("a.mp4"))


@pytest.mark.parametrize("number", STAYING)
def test_a_fault_that_stays_is_raised_at_once(number: int, pauses: list[float]):
    with pytest.raises(OSError, match=os.strerror(number)):
        patiently(failing(number, 1), Path("a.mp4"))
    assert not pauses


def test_the_systems_number_is_that_of_any_cause():
    error = ClipError("cannot decode")
    error.__cause__ = ValueError()
    error.__cause__.__cause__ = OSError(errno.EIO, "Input/output error")
    assert number_of(error) == errno.EIO
    assert number_of(ClipError("moov atom not found")) is None
    assert [may_pass(number) for number in (errno.EIO, errno.ENOENT, None)] == [True, False, False]


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("call", ["stat", "open"])
def test_a_clip_is_had_after_a_hiccup_of_its_disk_and_unreachable_else(
    number: int,
    call: str,
    make_clip: Callable[..., Path],
    tmp_path: Path,
    fake: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    path = make_clip()
    sound = getattr(Path, call)
    fault = failing(number, 2, sound)

    def of_the_clip(self: Path, *args: Any, **kwargs: Any) -> Any:
        return (fault if self == path else sound)(self, *args, **kwargs)

    monkeypatch.setattr(Path, call, of_the_clip)
    store = ClipStore(tmp_path / "cache", fake, VideoConfig(max_frames=8))
    key = store.key_of(path)
    fault = failing(number, 10**6, sound)
    fresh = ClipStore(tmp_path / "cache", fake, VideoConfig(max_frames=8))
    with pytest.raises(ClipUnreachable):
        fresh.key_of(path)
    fault = sound
    assert fresh.key_of(path) == key


HELPER = """
import errno, os, sys
sys.path.insert(0, {root!r})
from video.pool_child import act, serve
from wire.errors import ClipError

def failing(question, on_decord):
    tries = question["path"] + ".tries"
    with open(tries, "a") as file:
        file.write("x")
    if os.path.getsize(tries) <= {times}:
        raise ClipError("cannot decode: Input/output error") from OSError({number}, "text")
    return act(question, on_decord)

serve(failing)
"""


def make_pool(times: int, number: int) -> DecodePool:
    root = str(Path(pool.__file__).parents[1])
    script = HELPER.format(root=root, times=times, number=number)
    return DecodePool(VideoConfig(max_frames=8, decode_workers=1), [sys.executable, "-c", script])


def tries(path: Path) -> int:
    return len(Path(f"{path}.tries").read_text())


@pytest.mark.parametrize(
    ("times", "readable", "number", "expected"),
    [
        (3, False, errno.EIO, None),  # the disk came back
        (99, False, errno.ESTALE, ClipUnreachable),
        (1, True, errno.EIO, None),  # it was back already
        (99, True, errno.EIO, ClipError),  # what a decoder says of many a broken file
        (1, False, errno.EINVAL, ClipError),
    ],
)
def test_a_decoder_tries_again_only_while_the_files_disk_fails(
    times: int,
    readable: bool,
    number: int,
    expected: type[ClipError] | None,
    make_clip: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
):
    path = make_clip()
    monkeypatch.setattr(pool, "is_readable", lambda _: readable)
    helpers = make_pool(times, number)
    if expected is None:
        assert helpers.decode(path).frames.shape[0] == 8
        assert tries(path) == times + 1
    else:
        with pytest.raises(ClipError) as caught:
            helpers.decode(path)
        assert type(caught.value) is expected
        assert tries(path) == (1 if number == errno.EINVAL else 2 if readable else TRIES)
    helpers.close()


ASLEEP = """
import os, sys
sys.path.insert(0, {root!r})
from video.pool_child import serve

def asleep(question, on_decord):
    # the parent of a vfork sleeps as who waits for a hard mount does, until its child has begun
    os.posix_spawn("/bin/true", ["true"], {{}}, file_actions=[
        (os.POSIX_SPAWN_OPEN, 0, question["path"] + ".fifo", os.O_RDONLY, 0)])

serve(asleep)
"""


def test_a_decoder_that_sleeps_in_the_kernel_at_its_deadline_is_no_fault_of_the_clip(
    tmp_path: Path,
):
    path = tmp_path / "a.mp4"
    path.touch()
    os.mkfifo(f"{path}.fifo")
    config = VideoConfig(decode_workers=1, decode_timeout_s=1.0)
    script = ASLEEP.format(root=str(Path(pool.__file__).parents[1]))
    helpers = DecodePool(config, [sys.executable, "-c", script])
    with pytest.raises(ClipUnreachable, match=r"gave no answer within decode_timeout_s=1"):
        helpers.decode(path)
    helpers.close()


def test_a_file_is_readable_if_its_fault_is_not_the_disks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.mp4"
    assert is_readable(path), "there is none: nothing to wait for"
    path.write_bytes(b"x" * 3_000_000)
    assert is_readable(path)
    monkeypatch.setattr(disk_faults.Path, "open", failing(errno.EIO, 1))
    assert not is_readable(path)
