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
from learner.model.embedding_store import EmbeddingStore, SeenClip
from learner.shared_prefix.clip_features import ClipFeatures
from tests.video.disk_cache.refusing_disk import ERRORS, OPERATIONS, RefusingDisk
from video.disk_cache.file_system import FileSystem
from video.disk_cache.folder import CacheFolder

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
    return one is not None and b"".join(one.parts()) == b"".join(other.parts())


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
    content = path.read_bytes()
    assert b"[2, 4, 4]" in content
    path.write_bytes(content.replace(b"[2, 4, 4]", b"[4, 2, 4]"))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    """Whole, and of another key."""
    path.write_bytes(b"".join(make_entry(key="ab99", seed=1).parts()))


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


def test_memory_alone_keeps_the_entries_used_last():
    size = make_entry().num_bytes
    store = EmbeddingStore(None, 2**30, recent_bytes=2 * size)
    for key in ("aa", "bb"):
        store.put(make_entry(key=key))
    assert store.get("aa") is not None  # now "bb" is the older one
    store.put(make_entry(key="cc"))
    assert [store.get(key) is not None for key in ("aa", "bb", "cc")] == [True, False, True]


def test_an_entry_read_from_disk_may_be_deleted_and_written_into(tmp_path: Path):
    new_store(tmp_path).put(make_entry())
    kept = new_store(tmp_path).get("ab12")
    kept.features.embeds.zero_()
    assert same(new_store(tmp_path).get("ab12"), make_entry())
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_a_full_folder_takes_only_what_will_stay(tmp_path: Path):
    """64 KiB a file; nothing is serialised, locked or written of an entry that would not stay."""
    bound = 20 * 64 * 1024

    def put(number: int, store: EmbeddingStore) -> None:
        store.put(make_entry(key=f"{number:02d}key", tokens=1000, layers=0))

    filled = new_store(tmp_path, bound)
    for number in range(20, 60):
        put(number, filled)
    new_store(tmp_path, bound)
    kept = {path.stem for path in tmp_path.rglob("*.safetensors")}
    assert 18 <= len(kept) <= 20
    assert max(kept) < "40key"
    disk = RefusingDisk()
    store = EmbeddingStore(tmp_path, bound, files=disk)
    looks = disk.calls.copy()
    put(70, store)
    assert disk.calls == looks
    assert store.get("70key") is not None, "it is kept in memory"
    put(10, store)
    assert (tmp_path / "10" / "10key.safetensors").exists()


def use_store(folder: Path, files: FileSystem) -> None:
    for _ in range(2):
        store = EmbeddingStore(folder, 5000, recent_bytes=0, files=files)  # each look evicts
        for key in ("cd34", "ab12"):
            assert same(store.get(key) or store.put(make_entry(key=key)), make_entry(key=key))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("number", ERRORS)
def test_an_entry_is_right_whatever_the_disk_refuses_at_whatever_call(
    tmp_path: Path, number: int, operation: str, caplog: pytest.LogCaptureFixture
):
    sound = RefusingDisk()
    use_store(tmp_path / "sound", sound)
    assert sound.calls[operation] > 0
    for at in (None, *range(1, sound.calls[operation] + 1)):
        caplog.clear()
        use_store(tmp_path / str(at), RefusingDisk(operation, number, at))
        assert len(caplog.messages) <= 2, caplog.messages  # one of each store


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
    class HalfADisk(FileSystem):
        def write(self, file, parts) -> None:
            super().write(file, [b"".join(parts)[:1000]])
            (folder / "half").touch()
            time.sleep(60)

    EmbeddingStore(folder, 2**30, files=HalfADisk()).put(make_entry(tokens=2000))


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
    monkeypatch.setattr(embedding_store, "_PATIENCE_S", 0.1)
    folder = CacheFolder(tmp_path, 2**30, what="clips", otherwise="they are made anew")
    with folder.making("ab12", time.monotonic() + 1):
        store = new_store(tmp_path)
        assert same(store.put(make_entry()), make_entry())
    assert "another process holds" in caplog.text
    assert same(store.get("ab12"), make_entry())
