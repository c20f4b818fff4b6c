import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from video.cache import ClipStore
from video.config import VideoConfig
from video.eviction import Eviction
from video.locked_file import locked

MakeClip = Callable[..., Path]
ROOT = Path(__file__).parents[2]
BUILDERS = Path(__file__).with_name("conftest.py")
MIB = 2**20


def put(folder: Path, name: str, age_s: float, mib: float = 1.0) -> Path:
    path = folder / name[:2] / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * int(mib * MIB))
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def names(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*.safetensors")}


def test_clips_not_used_for_longest_go_first(tmp_path: Path) -> None:
    for age, name in enumerate(["aa1", "bb2", "aa3", "cc4", "dd5", "aa6"]):
        put(tmp_path, name, age)
    Eviction(tmp_path, 5 * MIB)
    assert names(tmp_path) == {"aa1", "bb2", "aa3", "cc4"}  # down to nine tenths of the bound


def test_below_the_bound_nothing_goes(tmp_path: Path) -> None:
    for name in ("aa1", "bb2"):
        put(tmp_path, name, 1e6)
    Eviction(tmp_path, 3 * MIB)
    assert names(tmp_path) == {"aa1", "bb2"}


def test_a_clip_that_is_read_stays(tmp_path: Path) -> None:
    eviction = Eviction(tmp_path, 4 * MIB)
    old = put(tmp_path, "old", 100)
    for age in range(4):
        put(tmp_path, f"aa{age}", 1 + age)
    eviction.used(old)
    eviction.look()
    assert names(tmp_path) == {"old", "aa0", "aa1"}
    eviction.used(tmp_path / "no" / "such.safetensors")


def test_a_mapped_clip_lives_on_for_its_reader(tmp_path: Path) -> None:
    path = put(tmp_path, "aa1", 5)
    mapped = np.memmap(path, np.uint8, "c")
    Eviction(tmp_path, 1)
    assert not path.exists()
    assert (mapped == ord("x")).all()


def test_what_killed_writers_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    left = tmp_path / "ab" / "left.partial"
    left.parent.mkdir()
    left.write_bytes(b"half a clip")
    with locked(tmp_path / "ab" / "busy.partial", time.monotonic() + 1):
        Eviction(tmp_path, MIB)
        assert [path.name for path in left.parent.iterdir()] == ["busy.partial"]


def test_the_folder_is_looked_at_when_enough_was_written(tmp_path: Path) -> None:
    eviction = Eviction(tmp_path, 100 * MIB)
    for index in range(102):
        put(tmp_path, f"{index:03}", 1000 - index)
    eviction.wrote(MIB // 2)
    assert len(names(tmp_path)) == 102
    eviction.wrote(MIB // 2)
    assert len(names(tmp_path)) == 90


def test_a_store_keeps_to_its_bound(make_clip: MakeClip, tmp_path: Path, fake: Any) -> None:
    gib = 2**30
    config = VideoConfig(max_frames=8, cache_max_gb=MIB / gib)  # a clip of 64 x 48 has 0.3 MB
    store = ClipStore(tmp_path / "cache", fake, config)
    paths = [make_clip(f"{index}.mp4", frames=8 + index) for index in range(8)]
    for path in paths:
        store.get(path)
    sizes = [f.stat().st_size for f in (tmp_path / "cache").rglob("*.safetensors")]
    assert 1 <= len(sizes) < 8
    assert sum(sizes) <= MIB
    again = ClipStore(tmp_path / "cache", fake, config)
    assert again.get(paths[0]).fingerprint == store.get(paths[0]).fingerprint
    assert fake.calls == 9  # the first had gone, and was made anew


def test_a_full_disk_is_said_once_by_name_and_ends_nothing(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    script = """
import logging, resource, runpy, sys
from pathlib import Path
from video.cache import ClipStore
from video.config import VideoConfig

folder, builders = Path(sys.argv[1]), sys.argv[2]
logging.basicConfig(format="%(message)s")
fake = runpy.run_path(builders)["FakeProcessor"](folder / "log")
store = ClipStore(folder / "cache", fake, VideoConfig(max_frames=8))
store.get(sys.argv[3])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # as if no more fitted
prints = [store.get(path).fingerprint for path in sys.argv[4:]]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store = ClipStore(folder / "cache", fake, VideoConfig(max_frames=8))
assert prints == [store.get(path).fingerprint for path in sys.argv[4:]]
"""
    paths = [str(make_clip(f"{index}.mp4", frames=8 + index)) for index in range(3)]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(BUILDERS), *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no room for clips") == 1
    assert str(tmp_path / "cache") in done.stderr
    assert not list((tmp_path / "cache").rglob("*.partial"))


CHILD = """
import itertools, random, runpy, sys
from pathlib import Path
from video.cache import ClipStore
from video.config import VideoConfig

folder, builders, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
fake = runpy.run_path(builders)["FakeProcessor"](folder / f"log{seed}")
config = VideoConfig(max_frames=8, decode_workers=1, cache_max_gb=2**20 / 2**30)
store = ClipStore(folder / "cache", fake, config)
known = dict(line.split() for line in (folder / "known").read_text().splitlines())
draw = random.Random(seed)
for turn in itertools.count():
    path = draw.choice(list(known))
    assert store.get(path).fingerprint == known[path], path
    sys.stdout.write("ok\\n")
    sys.stdout.flush()
    if turn == int(sys.argv[4]):
        break
"""


def test_processes_that_are_killed_leave_a_sound_cache(
    make_clip: MakeClip, tmp_path: Path, fake: Any
) -> None:
    """Four processes read and write a cache with room for three of eight clips; half are killed."""
    paths = [str(make_clip(f"{index}.mp4", frames=8 + index)) for index in range(8)]
    sound = ClipStore(tmp_path / "sound", fake, VideoConfig(max_frames=8))
    lines = [f"{path} {sound.get(path).fingerprint}\n" for path in paths]
    (tmp_path / "known").write_text("".join(lines))
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(BUILDERS), str(seed), "60"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(4)
    ]
    for number, child in enumerate(children[:2]):
        assert child.stdout is not None
        for _ in range(10 + 7 * number):
            assert child.stdout.readline() == "ok\n", child.communicate()[1]
        os.kill(child.pid, signal.SIGKILL)
        child.communicate(timeout=10)
    for child in children[2:]:
        out, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors
        assert out.count("ok") == 61
    Eviction(tmp_path / "cache", MIB)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors"}
    assert sum(path.stat().st_size for path in files) <= MIB


def test_a_folder_that_cannot_be_tidied_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    eviction = Eviction(tmp_path, MIB)
    tmp_path.rmdir()
    eviction.look()
    eviction.look()
    assert caplog.text.count("cannot tidy the clip cache") == 1
    tmp_path.mkdir()
