import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from video.cache import ClipStore
from video.config import VideoConfig
from video.disk_cache.eviction import Eviction
from video.disk_cache.file_system import FileSystem
from video.disk_cache.folder import CacheFolder

MakeClip = Callable[..., Path]
ROOT = Path(__file__).parents[3]
BUILDERS = Path(__file__).parents[1] / "conftest.py"
MIB, DAY = 2**20, 86_400


def open_eviction(
    folder: Path, max_bytes: int, window_share: float = 0.0, files: FileSystem | None = None
) -> Eviction:
    return Eviction(
        folder,
        max_bytes,
        window_share=window_share,
        files=files or FileSystem(),
        on_fault=lambda error: FAULTS.append(error),
    )


FAULTS: list[OSError] = []


def put(folder: Path, name: str, age_s: float = 0.0, mib: float = 1.0) -> Path:
    path = folder / name[:2] / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * int(mib * MIB))
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def names(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*.safetensors")}


def test_entries_of_former_runs_go_first_then_those_with_the_largest_keys(tmp_path: Path) -> None:
    for age, name in enumerate(["aa1", "bb2", "aa3", "cc4", "dd5"]):
        put(tmp_path, name, age)
    put(tmp_path, "aa0", 4 * DAY)
    open_eviction(tmp_path, 4 * MIB + MIB // 2)
    assert names(tmp_path) == {"aa1", "bb2", "aa3", "cc4"}


def test_below_the_bound_nothing_goes_however_old(tmp_path: Path) -> None:
    for name in ("aa1", "bb2"):
        put(tmp_path, name, 1e6)
    open_eviction(tmp_path, 3 * MIB)
    assert names(tmp_path) == {"aa1", "bb2"}


def test_what_was_used_last_stays_within_its_window(tmp_path: Path) -> None:
    eviction = open_eviction(tmp_path, 5 * MIB, window_share=0.25)
    last = put(tmp_path, "zz9", 100)
    for age in range(7):
        put(tmp_path, f"aa{age}", 1 + age)
    eviction.used(last)
    eviction.look()
    assert names(tmp_path) == {"zz9", "aa0", "aa1", "aa2"}
    eviction.used(tmp_path / "no" / "such.safetensors")


def test_a_full_cache_keeps_no_larger_key_and_one_with_room_any(tmp_path: Path) -> None:
    eviction = open_eviction(tmp_path, 30 * MIB + MIB // 2)
    assert eviction.keeps("ff")
    for number in range(40):
        put(tmp_path, f"{number:02d}")
    eviction.look()
    assert names(tmp_path) == {f"{number:02d}" for number in range(29)}
    assert [eviction.keeps(key) for key in ("10x", "28", "29", "ff")] == [True, True, False, False]
    for number in range(10, 29):
        (tmp_path / f"{number}" / f"{number}.safetensors").unlink()
    eviction.look()
    assert eviction.keeps("ff")


def test_entries_of_former_runs_do_not_make_a_cache_full(tmp_path: Path) -> None:
    for number in range(10):
        put(tmp_path, f"{number:02d}", 4 * DAY)
    assert open_eviction(tmp_path, 10 * MIB).keeps("ff")


def test_what_killed_writers_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    left = tmp_path / "ab" / "left.partial"
    left.parent.mkdir()
    left.write_bytes(b"half a clip")
    folder = CacheFolder(tmp_path, MIB, what="clips", otherwise="they are made anew")
    with folder.making("abbusy", time.monotonic() + 1):
        open_eviction(tmp_path, MIB)
        assert [path.name for path in left.parent.iterdir()] == ["abbusy.partial"]


def test_one_process_at_a_time_tidies(tmp_path: Path) -> None:
    eviction, files = open_eviction(tmp_path, MIB), FileSystem()
    put(tmp_path, "aa1", mib=2.0)
    with files.open(tmp_path / ".evict-lock") as lock:
        assert files.lock(lock)
        eviction.look()
        assert names(tmp_path) == {"aa1"}
    eviction.look()
    assert not names(tmp_path)


def test_the_lock_is_of_a_file_open_for_writing_as_nfs_asks(tmp_path: Path) -> None:
    class Nfs(FileSystem):
        def lock(self, file: BinaryIO) -> bool:
            if not file.writable():
                raise OSError(errno.EBADF, "Bad file descriptor")
            return super().lock(file)

    for number in range(10):
        put(tmp_path, f"{number:02d}")
    FAULTS.clear()
    open_eviction(tmp_path, 5 * MIB, files=Nfs())
    assert len(names(tmp_path)) == 4
    assert not FAULTS


def test_the_disk_keeps_a_tenth_for_others(tmp_path: Path) -> None:
    class SmallDisk(FileSystem):
        def space(self, folder: Path) -> tuple[int, int]:
            return 20 * MIB, MIB

    for number in range(10):
        put(tmp_path, f"{number:02d}")
    eviction = open_eviction(tmp_path, 50 * 2**30, files=SmallDisk())
    assert len(names(tmp_path)) == 8
    put(tmp_path, "99", mib=4.0)
    eviction.wrote(4 * MIB)  # much of this disk, if little of the bound
    assert "99" not in names(tmp_path)


def test_the_folder_is_looked_at_when_enough_was_written(tmp_path: Path) -> None:
    eviction = open_eviction(tmp_path, 100 * MIB)
    for index in range(102):
        put(tmp_path, f"{index:03}")
    eviction.wrote(MIB // 2)
    assert len(names(tmp_path)) == 102
    eviction.wrote(MIB // 2)
    assert len(names(tmp_path)) == 98


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
    assert fake.calls <= 9  # it had gone, or it is of those that stay


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
    open_eviction(tmp_path / "cache", MIB)
    files = list((tmp_path / "cache").glob("*/*"))
    assert {path.suffix for path in files} == {".safetensors"}
    assert sum(path.stat().st_size for path in files) <= MIB
