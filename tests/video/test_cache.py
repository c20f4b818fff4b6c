import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from video import cache
from video.address import View, Window, with_view
from video.cache import ClipStore
from video.config import VideoConfig
from video.disk_cache.entry_file import pack, unpack
from video.disk_cache.file_system import FileSystem
from video.processor import ClipProcessor, ProcessedClip
from wire.errors import ClipError, ParityError

MakeClip = Callable[..., Path]
CONFIG = VideoConfig(max_frames=8)
ROOT = Path(cache.__file__).parent.parent
BUILDERS = Path(__file__).with_name("conftest.py")

CHILD = """
import runpy, sys
from pathlib import Path
from video.cache import ClipStore
from video.config import VideoConfig

folder, clip, pause, builders = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]
fake = runpy.run_path(builders)["FakeProcessor"](folder / "log", pause_s=pause)
store = ClipStore(folder / "cache", fake, VideoConfig(max_frames=8))
sys.stdout.write(store.get(clip).fingerprint)
"""


def start_child(folder: Path, clip: Path | str, pause_s: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(clip), str(pause_s), str(BUILDERS)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the child process did not get there in 60 s"
        time.sleep(0.02)


@pytest.fixture
def new_store(tmp_path: Path, fake: Any) -> Callable[[], ClipStore]:
    """Each call is like a new process: same folder, nothing in memory."""
    return lambda: ClipStore(tmp_path / "cache", fake, CONFIG)


def same(first: ProcessedClip, second: ProcessedClip) -> bool:
    return (
        np.array_equal(first.pixel_values, second.pixel_values)
        and first.grid_thw == second.grid_thw
        and first.seconds_per_grid == second.seconds_per_grid
        and first.placeholder_ids == second.placeholder_ids
        and first.fingerprint == second.fingerprint
        and first.clip_key == second.clip_key
    )


def cached_file(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    return file


def test_a_clip_is_made_once(
    make_clip: MakeClip, new_store: Callable[[], ClipStore], fake: Any
) -> None:
    path = make_clip()
    store = new_store()
    first, second, third = store.get(path), store.get(path), new_store().get(path)
    assert second is first
    assert same(first, third)
    assert fake.calls == 1
    assert (store.hits, store.misses) == (1, 1)


def test_a_clip_says_which_frames_of_which_video_it_shows_also_from_disk(
    make_clip: MakeClip, new_store: Callable[[], ClipStore]
) -> None:
    path = make_clip(frames=20, rate=10)
    address = f"{path}#t=0.5,1.5&view=reversed"
    for clip in (new_store().get(address), new_store().get(address)):
        assert clip.video_hash == hashlib.sha256(path.read_bytes()).hexdigest()
        assert clip.window == Window(0.5, 1.5)
        assert clip.frame_indices == (14, 12, 11, 10, 8, 7, 6, 5)
    assert new_store().get(path).window is None


def test_a_file_of_an_older_cache_is_made_anew_under_its_key(
    make_clip: MakeClip,
    new_store: Callable[[], ClipStore],
    tmp_path: Path,
    fake: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It does not say which frames it shows."""
    path = make_clip()
    first = new_store().get(path)
    content = FileSystem().read(cached_file(tmp_path))
    described, tensors = unpack(first.clip_key, content)
    known = {"fingerprint", "grid_thw", "seconds_per_grid", "placeholder_ids", "scale"}
    older = {name: value for name, value in described.items() if name in known}
    cached_file(tmp_path).write_bytes(b"".join(pack(first.clip_key, older, tensors)))
    again = new_store().get(path)
    assert same(first, again)
    assert again.frame_indices == first.frame_indices != ()
    assert fake.calls == 2
    assert not caplog.messages
    assert new_store().get(path).frame_indices == first.frame_indices
    assert fake.calls == 2


def test_the_decoders_are_counted_and_the_first_clip_of_each_reason_is_logged(
    make_clip: MakeClip, tmp_path: Path, fake: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="video.cache")
    by_decord = [make_clip(f"{n}.mp4", frames=10 + n, size=(72, 48)) for n in range(3)]
    by_pyav = [
        make_clip(f"{n}.webm", frames=10 + n, size=(72, 47), codec="libvpx-vp9") for n in range(2)
    ]
    store = ClipStore(tmp_path / "cache", fake, CONFIG)
    for path in [*by_decord, *by_pyav, *by_decord]:  # the last are in the cache
        store.get(path)
    assert store.decoded == {"decord": 3, "pyav": 2}
    said = [message for message in caplog.messages if "its height is odd" in message]
    assert len(said) == 1
    assert str(by_pyav[0]) in said[0]


def test_the_decoder_is_no_part_of_a_clip(make_clip: MakeClip, tmp_path: Path, fake: Any) -> None:
    path = make_clip(size=(72, 48))
    clips = [
        ClipStore(tmp_path / decoder, fake, CONFIG.model_copy(update={"decoder": decoder})).get(
            path
        )
        for decoder in ("decord", "pyav")
    ]
    assert same(*clips)


def test_a_clip_made_ready_ahead_is_there_and_counts_once(
    make_clip: MakeClip, new_store: Callable[[], ClipStore], fake: Any
) -> None:
    path = make_clip()
    store = new_store()
    store.prepare(path)
    assert (fake.calls, store.hits, store.misses) == (1, 0, 1)
    first = store.get(path)
    assert (fake.calls, store.hits, store.misses) == (1, 0, 1)
    assert store.get(path) is first
    assert (fake.calls, store.hits, store.misses) == (1, 1, 1)
    other = new_store()  # the next epoch
    other.prepare(path)
    other.get(path)
    assert (other.hits, other.misses) == (1, 0)


def test_what_is_wrong_with_a_clip_is_said_to_who_asks_not_ahead(
    new_store: Callable[[], ClipStore], tmp_path: Path
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    store = new_store()
    for address in (tmp_path / "bad.mp4", tmp_path / "none.mp4"):
        store.prepare(address)
        with pytest.raises(ClipError):
            store.get(address)


def test_the_real_processor_survives_the_disk(
    make_clip: MakeClip, tmp_path: Path, processor: ClipProcessor
) -> None:
    path = make_clip()
    made = ClipStore(tmp_path / "cache", processor, CONFIG).get(path)
    read = ClipStore(tmp_path / "cache", processor, CONFIG).get(path)
    assert same(made, read)
    assert not isinstance(read.pixel_values, np.memmap)  # a mapped file may go on another node
    assert cached_file(tmp_path).stat().st_size < 0.3 * made.pixel_values.nbytes


def test_torch_takes_a_clip_from_disk_without_a_warning(
    make_clip: MakeClip, new_store: Callable[[], ClipStore], recwarn: pytest.WarningsRecorder
) -> None:
    import torch

    path = make_clip()
    new_store().get(path)
    torch.from_numpy(new_store().get(path).pixel_values)
    assert not list(recwarn)


def test_the_file_is_plain_safetensors(
    make_clip: MakeClip, new_store: Callable[[], ClipStore], tmp_path: Path
) -> None:
    clip = new_store().get(make_clip())
    with safe_open(cached_file(tmp_path), framework="numpy") as file:
        assert np.array_equal(file.get_tensor("pixel_values"), clip.pixel_values)
        assert clip.fingerprint in file.metadata()["entry"]


def test_the_key_follows_content_sampling_and_processor(
    make_clip: MakeClip, new_store: Callable[[], ClipStore], tmp_path: Path, fake: Any
) -> None:
    path = make_clip()
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(path.read_bytes())
    other = make_clip("other.mp4", frames=9)
    fewer, hurried = VideoConfig(max_frames=4), VideoConfig(max_frames=8, decode_timeout_s=9)
    key = new_store().key_of(path)

    def key_with(config: VideoConfig, processor_hash: str = "fake") -> str:
        processor = type(fake)(tmp_path / "log", processor_hash)
        return ClipStore(tmp_path, processor, config).key_of(path)

    assert new_store().key_of(copy) == key
    assert key_with(hurried) == key
    assert len({key, new_store().key_of(other), key_with(fewer), key_with(CONFIG, "new")}) == 4


def test_the_key_of_a_plain_clip_is_what_it_always_was(
    new_store: Callable[[], ClipStore], tmp_path: Path
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"a clip")
    # of layout 3: settings that came later must leave the caches made since then valid
    assert new_store().key_of(path) == "ffe57fb741bc17efdb8a870b00fa03b7941f3fe4"


def test_a_file_that_changes_gets_a_new_key(
    make_clip: MakeClip, new_store: Callable[[], ClipStore]
) -> None:
    store = new_store()
    before = store.key_of(make_clip())
    assert store.key_of(make_clip(frames=9)) != before


@pytest.mark.parametrize("damage", ["cut", "emptied", "one bit", "header", "other clip"])
def test_a_damaged_entry_is_made_anew(
    damage: str,
    make_clip: MakeClip,
    new_store: Callable[[], ClipStore],
    fake: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = make_clip()
    made = new_store().get(path)
    file = cached_file(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "cut":
        del content[-100:]
    elif damage == "emptied":
        content.clear()
    elif damage == "one bit":
        content[-1000] ^= 1
    elif damage == "header":
        content[:8] = (2**60).to_bytes(8, "little")
    else:
        content = bytearray(bytes(content).replace(made.clip_key.encode(), b"0" * 40))
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert same(new_store().get(path), made)
    assert str(file) in caplog.text
    assert "making it anew" in caplog.text
    assert fake.calls == 2
    assert same(new_store().get(path), made)
    assert fake.calls == 2


def test_the_learner_loads_what_the_rollout_saw(
    make_clip: MakeClip, new_store: Callable[[], ClipStore], fake: Any
) -> None:
    path = make_clip()
    seen = new_store().get(path)
    path.unlink()  # the cache is enough
    assert same(new_store().load(seen.clip_key, path, seen.fingerprint), seen)
    assert fake.calls == 1


def test_the_learner_makes_a_missing_clip_anew(
    make_clip: MakeClip, new_store: Callable[[], ClipStore], tmp_path: Path
) -> None:
    path = make_clip()
    seen = new_store().get(path)
    cached_file(tmp_path).unlink()
    assert same(new_store().load(seen.clip_key, path, seen.fingerprint), seen)


def test_a_different_fingerprint_is_a_parity_error(
    make_clip: MakeClip, new_store: Callable[[], ClipStore], tmp_path: Path
) -> None:
    path = make_clip()
    seen = new_store().get(path)
    with pytest.raises(ParityError) as caught:
        new_store().load(seen.clip_key, path, "0123")
    for part in (str(path), seen.clip_key, seen.fingerprint, "0123"):
        assert part in str(caught.value)
    cached_file(tmp_path).unlink()
    make_clip(frames=11)  # the file is not what it was
    with pytest.raises(ParityError):
        new_store().load(seen.clip_key, path, seen.fingerprint)


def test_a_bad_clip_is_an_error_and_leaves_nothing(
    new_store: Callable[[], ClipStore], tmp_path: Path
) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(ClipError, match=r"text\.mp4"):
        new_store().get(path)
    with pytest.raises(ClipError, match="No such file"):
        new_store().get(tmp_path / "missing.mp4")
    assert not list((tmp_path / "cache").glob("*/*"))


def test_threads_that_want_one_clip_make_it_once(
    make_clip: MakeClip, new_store: Callable[[], ClipStore], fake: Any
) -> None:
    path, store = make_clip(), new_store()
    threads = [threading.Thread(target=store.get, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert fake.calls == 1
    assert (store.hits, store.misses) == (7, 1)


def test_threads_that_want_views_of_one_clip_make_each_once(
    make_clip: MakeClip, new_store: Callable[[], ClipStore], fake: Any
) -> None:
    path, store = make_clip(), new_store()
    addresses = [str(path), *[with_view(str(path), view) for view in View if not view.needs_tokens]]
    with ThreadPoolExecutor(16) as pool:
        clips = list(pool.map(store.get, addresses * 4))
    assert fake.calls == len(addresses)
    assert [clip.clip_key for clip in clips] == [store.key_of(a) for a in addresses] * 4
    assert (store.hits, store.misses) == (12, 4)


def test_recent_clips_are_bounded(make_clip: MakeClip, new_store: Callable[[], ClipStore]) -> None:
    store = new_store()
    for index in range(cache._RECENT_CLIPS + 3):
        store.get(make_clip(f"{index}.mp4", frames=2, size=(16, 16 + 2 * index)))
    assert len(store._recent._clips) == cache._RECENT_CLIPS


def test_processes_that_want_one_clip_make_it_once(
    make_clip: MakeClip, tmp_path: Path, fake: Any
) -> None:
    path = make_clip()
    children = [start_child(tmp_path, path, pause_s=1.0) for _ in range(4)]
    prints = {child.communicate(timeout=60)[0] for child in children}
    assert [child.returncode for child in children] == [0] * 4
    assert len(prints) == 1
    assert fake.calls == 1
    assert [f.suffix for f in (tmp_path / "cache").glob("*/*")] == [".safetensors"]


def test_a_shuffled_clip_is_the_same_in_every_process(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip()
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(path.read_bytes())
    folders = [tmp_path / "one", tmp_path / "two"]  # no cache in common
    for folder in folders:
        folder.mkdir()
    children = [
        start_child(folder, with_view(str(clip), View.SHUFFLED), pause_s=0)
        for folder, clip in zip(folders, (path, copy), strict=True)
    ]
    prints = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert prints[0] == prints[1] != ""


@pytest.fixture
def dead_writer(make_clip: MakeClip, tmp_path: Path, fake: Any) -> Path:
    """A clip whose maker was killed by ``kill -9`` while it held the lock."""
    path = make_clip()
    child = start_child(tmp_path, path, pause_s=60)
    wait_for(lambda: fake.calls == 1)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    return path


def test_a_killed_writer_blocks_nobody(
    dead_writer: Path, new_store: Callable[[], ClipStore], tmp_path: Path
) -> None:
    (partial,) = (tmp_path / "cache").rglob("*.partial")
    partial.write_bytes(b"half a clip" * 100_000)  # as if it had died while writing
    start = time.monotonic()
    made = new_store().get(dead_writer)
    assert time.monotonic() - start < 5
    assert same(new_store().get(dead_writer), made)
    assert not partial.exists()


def test_a_maker_that_hangs_costs_patience_and_no_more(
    make_clip: MakeClip, tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_clip()
    monkeypatch.setattr(cache, "_PROCESSING_S", -2 * CONFIG.decode_timeout_s)
    store = ClipStore(tmp_path / "cache", fake, CONFIG)
    with store._folder.making(store.key_of(path), time.monotonic() + 1):
        assert store.get(path).clip_key == store.key_of(path)
    assert fake.calls == 1
