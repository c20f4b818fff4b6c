"""The store keeps one file for each content, within its budget, and never drops what is held."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from calibrate.service.intake.store import ClipStore, Incoming
from calibrate.service.problems import Problem


@contextlib.contextmanager
def receiving(store: ClipStore) -> Iterator[Incoming]:
    clip = store.incoming()
    try:
        yield clip
    finally:
        clip.discard()


def put(store: ClipStore, data: bytes) -> str:
    with receiving(store) as clip:
        clip.write(data[: len(data) // 2])
        clip.write(data[len(data) // 2 :])
        clip.keep()
        return clip.video_hash


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_clip_is_kept_under_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 100)
    name = put(store, b"some bytes")
    assert name == hashlib.sha256(b"some bytes").hexdigest()
    path = store.path_of(name)
    assert path == tmp_path / name[:2] / name
    assert path.read_bytes() == b"some bytes"


def test_the_same_bytes_are_kept_once(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 15)
    assert put(store, b"x" * 7) == put(store, b"x" * 7)
    assert (len(store), store.used_bytes, len(files(tmp_path))) == (1, 7, 1)


def test_two_receivers_of_the_same_bytes_leave_one_file_and_its_bytes(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 100)
    with receiving(store) as one, receiving(store) as other:
        one.write(b"same")
        other.write(b"same")
        assert store.used_bytes == 8
        one.keep()
        other.keep()
    assert (len(store), store.used_bytes, len(files(tmp_path))) == (1, 4, 1)


def test_what_is_not_kept_leaves_no_file_and_no_bytes(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 100)
    with contextlib.suppress(ZeroDivisionError), receiving(store) as clip:
        clip.write(b"half of a clip")
        raise ZeroDivisionError
    assert files(tmp_path) == []
    assert store.used_bytes == 0


def test_a_write_after_the_request_has_ended_is_dropped(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 100)
    with receiving(store) as clip:
        clip.write(b"abc")
    clip.write(b"from a thread that was on its way")
    assert files(tmp_path) == []
    assert store.used_bytes == 0


def test_the_clip_used_longest_ago_makes_room(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 30)
    first, second, third = (put(store, letter * 10) for letter in (b"a", b"b", b"c"))
    assert store.path_of(first) is not None
    put(store, b"d" * 10)
    assert store.path_of(second) is None
    assert store.path_of(first) is not None
    assert store.path_of(third) is not None


def test_a_clip_under_review_makes_no_room(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 20)
    held, free = put(store, b"a" * 10), put(store, b"b" * 10)
    store.hold(held, "rev_1")
    store.hold(held, "rev_2")
    store.release(held, "rev_1")
    put(store, b"c" * 10)
    assert store.path_of(held) is not None
    assert store.path_of(free) is None
    store.release(held, "rev_2")
    store.release(held, "rev_2")
    put(store, b"d" * 20)
    assert store.path_of(held) is None


def test_a_store_full_of_held_clips_refuses_the_next_and_keeps_what_it_has(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 15)
    held = put(store, b"a" * 10)
    store.hold(held, "rev_1")
    with pytest.raises(Problem, match="complete reviews or raise clip_store_gb") as caught:
        put(store, b"b" * 10)
    assert caught.value.status == 507
    assert store.used_bytes == 10
    assert put(store, b"c" * 5)


def test_a_restart_takes_clips_up_in_the_order_of_their_use_and_drops_halves(
    tmp_path: Path,
) -> None:
    store = ClipStore(tmp_path, 100)
    first, second = put(store, b"a" * 10), put(store, b"b" * 10)
    for name, moment in ((first, 2_000), (second, 1_000)):
        os.utime(tmp_path / name[:2] / name, (moment, moment))
    store.incoming().write(b"killed in the middle")

    again = ClipStore(tmp_path, 25)
    assert again.used_bytes == 20
    put(again, b"c" * 10)
    assert again.path_of(second) is None
    assert again.path_of(first) is not None
    assert len(files(tmp_path)) == 2


def test_a_use_of_a_clip_does_not_change_its_time_of_change(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 100)
    name = put(store, b"some bytes")
    path = tmp_path / name[:2] / name
    os.utime(path, (1_000, 1_000))
    assert store.path_of(name) is not None
    assert path.stat().st_mtime == 1_000
    assert path.stat().st_atime > 1_000


def test_a_clip_that_was_removed_by_hand_is_not_kept(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 100)
    name = put(store, b"some bytes")
    (tmp_path / name[:2] / name).unlink()
    assert store.path_of(name) is None
    assert store.used_bytes == 0
    assert put(store, b"some bytes") == name
    assert store.path_of(name) is not None


def test_a_clip_that_somebody_has_open_makes_no_room(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 20)
    name, other = put(store, b"a" * 10), put(store, b"b" * 10)
    kept = store.open(name)
    assert kept is not None
    put(store, b"c" * 10)
    assert kept.path.read_bytes() == b"a" * 10
    assert store.open(other) is None
    del kept
    put(store, b"d" * 10)
    assert store.open(name) is None


def test_a_clip_can_be_deleted_though_it_is_held(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 100)
    name = put(store, b"some bytes")
    store.hold(name, "rev_1")
    assert store.remove(name)
    assert not store.remove(name)
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "A" * 64, "0" * 63])
def test_a_name_that_is_no_hash_of_a_clip_leads_nowhere(tmp_path: Path, name: str) -> None:
    assert ClipStore(tmp_path, 100).path_of(name) is None


def test_a_full_disk_is_a_typed_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ClipStore(tmp_path, 100)
    with receiving(store) as clip:
        clip._file = full = open("/dev/full", "wb", buffering=0)  # noqa: PTH123, SIM115
        with full, pytest.raises(Problem, match="No space left") as caught:
            clip.write(b"x")
    assert (caught.value.status, caught.value.slug) == (507, "disk-full")


def test_a_disk_that_fails_as_a_clip_is_kept_is_the_same_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = ClipStore(tmp_path, 100)
    monkeypatch.setattr("calibrate.service.intake.store.sync_to_disk", full)
    with receiving(store) as clip:
        clip.write(b"some bytes")
        with pytest.raises(Problem, match="No space left"):
            clip.keep()
    assert files(tmp_path) == []
    assert (store.used_bytes, len(store)) == (0, 0)
    assert store._holds == {}
