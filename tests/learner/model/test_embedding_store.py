"""Entries on disk: whole and their own or made anew, shared, bounded, whoever dies when."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learner.model import embedding_store
from learner.model.embedding_store import EmbeddingStore, SeenClip, read
from learner.shared_prefix.clip_features import ClipFeatures

_FORK = multiprocessing.get_context("fork")


def make_entry(key: str = "ab12", tokens: int = 8, layers: int = 2, seed: int = 0, **changed):
    draw = torch.Generator().manual_seed(seed)
    parts = [torch.randn(tokens, 16, generator=draw) for _ in range(layers + 1)]
    values = {
        "key": key,
        "features": ClipFeatures(parts[0], tuple(parts[1:])),
        "grid_thw": (2, 4, 4),
        "seconds_per_grid": 1 / 3,
    }
    return SeenClip(**{**values, **changed})


def same(one: SeenClip | None, other: SeenClip) -> bool:
    return one is not None and one.digest() == other.digest()


def new_store(folder: Path, max_bytes: int = 2**30) -> EmbeddingStore:
    """As another process would open it: nothing in memory."""
    return EmbeddingStore(folder, max_bytes)


def file_of(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", [0, 3, 12])
def test_an_entry_comes_back_to_the_bit(tmp_path: Path, dtype: torch.dtype, layers: int):
    entry = make_entry(layers=layers)
    parts = entry.features
    features = ClipFeatures(parts.embeds.to(dtype), tuple(x.to(dtype) for x in parts.deepstack))
    entry = replace(entry, features=features)
    new_store(tmp_path).put(entry)
    found = new_store(tmp_path).get("ab12")
    assert same(found, entry)
    assert torch.equal(found.features.embeds, entry.features.embeds)
    assert found.features.embeds.dtype == dtype
    assert [
        torch.equal(*pair)
        for pair in zip(found.features.deepstack, features.deepstack, strict=True)
    ] == [True] * layers
    assert (found.grid_thw, found.seconds_per_grid) == (entry.grid_thw, entry.seconds_per_grid)


def test_what_was_never_put_is_not_found(tmp_path: Path):
    new_store(tmp_path).put(make_entry())
    assert new_store(tmp_path).get("ab13") is None


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def cut_tensors(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def other_grid(path: Path) -> None:
    """The tensors are right, what decides positions is not."""
    path.write_bytes(path.read_bytes().replace(b"[2, 4, 4]", b"[4, 2, 4]"))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    """Whole, and of another key."""
    with path.open("wb") as file:
        make_entry(key="ab99", seed=1).write(file)


def not_ours(path: Path) -> None:
    from safetensors.torch import save

    path.write_bytes(save({"embeds": torch.zeros(8, 16)}))


def text(path: Path) -> None:
    path.write_text("hello " * 100)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [cut_header, cut_tensors, flip_a_bit, other_grid, empty, foreign, not_ours, text]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_never_used_and_is_made_anew(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
):
    entry = make_entry()
    new_store(tmp_path).put(entry)
    damage(file_of(tmp_path, "ab12"))
    assert new_store(tmp_path).get("ab12") is None
    assert "making it anew" in caplog.text
    new_store(tmp_path).put(entry)
    assert same(new_store(tmp_path).get("ab12"), entry)


def test_an_entry_that_is_deleted_while_it_is_used_stays_readable(tmp_path: Path):
    entry = make_entry()
    kept = new_store(tmp_path).put(entry)
    file_of(tmp_path, "ab12").unlink()
    assert same(kept, entry)


def test_memory_alone_keeps_the_entries_used_last():
    size = make_entry().num_bytes
    store = EmbeddingStore(None, 2**30, recent_bytes=2 * size)
    for key in ("aa", "bb"):
        store.put(make_entry(key=key))
    assert store.get("aa") is not None  # now "bb" is the older one
    store.put(make_entry(key="cc"))
    assert [store.get(key) is not None for key in ("aa", "bb", "cc")] == [True, False, True]


def test_the_number_of_mapped_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedding_store, "_RECENT_CLIPS", 5)
    store = new_store(tmp_path)
    for turn in range(3):
        for number in range(20):
            key = f"{number:02d}key"
            assert same(store.get(key) or store.put(make_entry(key=key)), make_entry(key=key)), turn
    maps = Path("/proc/self/maps").read_text()
    assert maps.count(str(tmp_path)) <= 5


def test_the_disk_is_bounded_and_what_was_used_last_stays(tmp_path: Path):
    size = 64 * 1024  # of a file: 1008 values of 16 float32
    bound = 4 * size
    keys = [f"{n:02d}key" for n in range(8)]
    for number, key in enumerate(keys):
        store = EmbeddingStore(tmp_path, bound, recent_bytes=0)
        store.put(make_entry(key=key, tokens=1000, layers=0))
        os.utime(file_of(tmp_path, key), (number, number))
        new_store(tmp_path, bound).get(keys[0])  # in use all the time
    new_store(tmp_path, bound)
    left = [key for key in keys if file_of(tmp_path, key).exists()]
    assert keys[0] in left
    assert keys[-1] in left
    assert keys[1] not in left
    assert len(left) <= 4


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_a_full_disk_costs_time_and_no_more(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    import errno

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = (SeenClip, "write") if moment == "write" else (Path, "rename")
    entry, store = make_entry(), new_store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(*target, full)
        assert same(store.put(entry), entry)
        store.put(make_entry(key="cd34"))
    assert same(store.get("ab12"), entry)  # from memory
    assert caplog.text.count("no room") == 1
    assert new_store(tmp_path).get("ab12") is None
    assert not list(tmp_path.rglob("*.partial"))
    store.put(entry)
    assert same(new_store(tmp_path).get("ab12"), entry)


def _put_many(folder: Path, rounds: int) -> None:
    store = EmbeddingStore(folder, 2**30, recent_bytes=0)
    for number in range(rounds):
        for key in ("ab12", "cd34"):
            entry = make_entry(key=key, tokens=2000)
            found = store.put(entry) if number % 2 else store.get(key) or store.put(entry)
            assert same(found, entry)


def test_processes_that_write_and_read_the_same_entries_agree(tmp_path: Path):
    children = [_FORK.Process(target=_put_many, args=(tmp_path, 10)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    for key in ("ab12", "cd34"):
        assert same(new_store(tmp_path).get(key), make_entry(key=key, tokens=2000))
    assert not list(tmp_path.rglob("*.partial"))


def _write_half_and_wait(folder: Path) -> None:
    entry = make_entry(tokens=2000)
    whole = SeenClip.write

    def half(self: SeenClip, file) -> None:
        whole(self, file)
        file.truncate(file.tell() // 2)
        (folder / "half").touch()
        time.sleep(60)

    SeenClip.write = half  # type: ignore[method-assign]
    EmbeddingStore(folder, 2**30).put(entry)


def test_a_writer_killed_in_the_middle_leaves_nothing_to_be_used_and_blocks_nobody(tmp_path: Path):
    child = _FORK.Process(target=_write_half_and_wait, args=(tmp_path,))
    child.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "half").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert list(tmp_path.rglob("*.partial"))
    store = new_store(tmp_path)
    assert store.get("ab12") is None
    entry = make_entry(tokens=2000)
    store.put(entry)
    assert same(new_store(tmp_path).get("ab12"), entry)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_writer_that_hangs_costs_patience_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    from video.locked_file import locked

    monkeypatch.setattr(embedding_store, "_PATIENCE_S", 0.1)
    partial = file_of(tmp_path, "ab12").with_suffix(".partial")
    with locked(partial, time.monotonic() + 1):
        store = new_store(tmp_path)
        assert same(store.put(make_entry()), make_entry())
    assert "keeping it in memory" in caplog.text
    assert same(store.get("ab12"), make_entry())


def test_a_mapped_entry_is_not_changed_by_who_writes_into_it(tmp_path: Path):
    """torch maps the file copy-on-write."""
    kept = new_store(tmp_path).put(make_entry())
    kept.features.embeds.zero_()
    assert same(read(file_of(tmp_path, "ab12")), make_entry())
