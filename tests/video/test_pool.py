"""Helpers that hang, crash, eat memory or are killed; the real one, and small bad ones."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from video.address import Window
from video.config import VideoConfig
from video.decode import Decoder, decode, decode_frames
from video.facts import facts_of
from video.pool import DecodePool
from wire.errors import ClipError, ClipTimedOut, WorkerDied

MakeClip = Callable[..., Path]
ROOT = Path(__file__).parents[2]
QUICK = VideoConfig(max_frames=8, decode_timeout_s=1.0, decode_workers=1)

BAD_HELPER = """
import ctypes, os, sys, time
sys.path.insert(0, {root!r})
from video.pool_child import act, serve
from wire.errors import ClipError

def bad(question, on_decord):
    name = os.path.basename(question["path"])
    if name.startswith("hang"):
        if os.fork() == 0:
            open(question["path"] + ".grandchild", "w").write(str(os.getpid()))
        ctypes.CDLL(None).sleep(600)
    elif name.startswith("crash"):
        os.write(2, b"free(): invalid pointer\\n")
        os.abort()
    elif name.startswith("killed"):
        with open(question["path"] + ".tries", "a") as file:
            file.write("x")
        if os.path.getsize(question["path"] + ".tries") <= os.path.getsize(question["path"]):
            os.kill(os.getpid(), 9)
    elif name.startswith("memory"):
        bytearray(3 * 2**30)
    elif name.startswith("quit"):
        os._exit(7)
    elif name.startswith("odd"):
        raise ZeroDivisionError("in a decoder")
    elif name.startswith("decord") and question["decoder"] != "pyav":
        on_decord()
        if "hangs" in name:
            ctypes.CDLL(None).sleep(600)
        if "starves" in name:
            raise ClipError("no memory is left for PyAV")
        os.kill(os.getpid(), 9 if "killed" in name else 11)
    return act({{**question, "path": {clip!r}}}, on_decord)

serve(bad)
"""


@pytest.fixture
def bad_pool(tmp_path: Path, make_clip: MakeClip) -> Iterator[DecodePool]:
    """What it does depends on the name of the file it is given."""
    script = tmp_path / "helper.py"
    script.write_text(BAD_HELPER.format(root=str(ROOT), clip=str(make_clip("good.mp4"))))
    config = QUICK.model_copy(update={"decode_memory_gb": 2.0})
    with contextlib.closing(DecodePool(config, (sys.executable, str(script)))) as pool:
        yield pool


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    with contextlib.closing(DecodePool(VideoConfig(max_frames=8))) as made:
        yield made


def ask(pool: DecodePool, path: Path, content: bytes = b"x") -> None:
    path.write_bytes(content)
    assert len(pool.decode(path).frames) == 8


def is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_helper_gives_what_decoding_here_gives(pool: DecodePool, make_clip: MakeClip) -> None:
    path = make_clip(frames=40)
    for window in (None, Window(1.0, 3.5)):
        here, there = decode(path, VideoConfig(max_frames=8), window), pool.decode(path, window)
        assert np.array_equal(here.frames, there.frames)
        assert here.timestamps_s == there.timestamps_s
        assert (here.fps, here.total_frames, here.native_fps) == (
            there.fps,
            there.total_frames,
            there.native_fps,
        )
    pool.probe(path)


def test_facts_and_frames_by_number_come_from_a_helper(
    pool: DecodePool, make_clip: MakeClip
) -> None:
    path = make_clip(frames=40)
    seen = pool.facts(path, max_frames=100, max_pixels=10_000)
    assert seen == facts_of(path, max_frames=100, max_pixels=10_000)
    clip = pool.frames(path, [9, 2])
    assert clip.frame_indices == (2, 9)
    assert np.array_equal(clip.frames, decode_frames(path, [2, 9]).frames)
    with pytest.raises(ClipError, match=f"cannot decode {path}: it has frames 0 to 39"):
        pool.frames(path, [40])


def test_what_takes_too_long_is_told_from_what_is_damaged(
    bad_pool: DecodePool, tmp_path: Path
) -> None:
    for name, kind in (("hang.mp4", ClipTimedOut), ("crash.mp4", ClipError)):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ClipError) as caught:
            bad_pool.facts(tmp_path / name, max_frames=1, max_pixels=1)
        assert type(caught.value) is kind


def test_frames_can_be_written_to_and_outlive_the_pool(make_clip: MakeClip) -> None:
    with contextlib.closing(DecodePool(QUICK)) as pool:
        clip = pool.decode(make_clip())
    clip.frames[0] = 7
    assert (clip.frames[0] == 7).all()


def test_what_is_wrong_with_a_file_comes_back(pool: DecodePool, tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    for call in (pool.decode, pool.probe):
        with pytest.raises(ClipError, match=r"cannot decode .*text\.mp4: a text file"):
            call(path)
    with pytest.raises(ClipError, match="no such file"):
        pool.decode(tmp_path / "missing.mp4")


def test_a_hanging_decoder_is_killed_with_all_it_started(
    bad_pool: DecodePool, tmp_path: Path
) -> None:
    ask(bad_pool, tmp_path / "fine.mp4")  # it is up: the deadline is all that takes time
    path = tmp_path / "hang.mp4"
    start = time.monotonic()
    with pytest.raises(ClipError, match=r"hang\.mp4: no result within decode_timeout_s=1"):
        ask(bad_pool, path)
    assert time.monotonic() - start < 5
    grandchild = int(Path(f"{path}.grandchild").read_text())
    wait_for(lambda: not is_alive(grandchild))
    ask(bad_pool, tmp_path / "fine.mp4")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("crash.mp4", r"crash\.mp4: its decoder crashed with SIGABRT: free\(\): invalid pointer"),
        ("quit.mp4", r"quit\.mp4: its decoder ended with exit code 7"),
        ("memory.mp4", r"memory\.mp4: it needs more than decode_memory_gb"),
        ("odd.mp4", r"odd\.mp4: ZeroDivisionError\('in a decoder'\)"),
    ],
)
def test_a_decoder_that_fails_costs_its_clip_and_no_other(
    bad_pool: DecodePool, tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(ClipError, match=words):
        ask(bad_pool, tmp_path / name)
    ask(bad_pool, tmp_path / "fine.mp4")


def test_a_helper_that_was_killed_from_outside_gets_another_try(
    bad_pool: DecodePool, tmp_path: Path
) -> None:
    lost = bad_pool.num_lost
    ask(bad_pool, tmp_path / "killed once.mp4", content=b"1")
    assert bad_pool.num_lost == lost + 1
    with pytest.raises(
        ClipError, match=r"killed twice\.mp4: its decoder was ended twice by SIGKILL"
    ):
        ask(bad_pool, tmp_path / "killed twice.mp4", content=b"12")
    ask(bad_pool, tmp_path / "fine.mp4")


def test_waiting_for_a_helper_is_not_the_clip_s_time(bad_pool: DecodePool, tmp_path: Path) -> None:
    ask(bad_pool, tmp_path / "fine.mp4")
    with ThreadPoolExecutor(3) as threads:
        hanging = [threads.submit(ask, bad_pool, tmp_path / f"hang{i}.mp4") for i in range(2)]
        wait_for(lambda: (tmp_path / "hang0.mp4.grandchild").exists())
        threads.submit(ask, bad_pool, tmp_path / "fine.mp4").result()
    assert all(isinstance(future.exception(), ClipError) for future in hanging)


def test_a_helper_that_cannot_start_is_no_clip_s_fault(tmp_path: Path, make_clip: MakeClip) -> None:
    script = tmp_path / "helper.py"
    script.write_text("import no_such_module")
    pool = DecodePool(QUICK, (sys.executable, str(script)))
    with pytest.raises(WorkerDied, match="exit code 1: ModuleNotFoundError"):
        pool.decode(make_clip())


def test_threads_share_the_helpers(make_clip: MakeClip) -> None:
    paths = [make_clip(f"{i}.mp4", frames=8 + i) for i in range(6)]
    others = set(find_helpers(os.getpid()))  # of pools that tests in this process left open
    with contextlib.closing(DecodePool(VideoConfig(max_frames=8, decode_workers=2))) as pool:
        with ThreadPoolExecutor(6) as threads:
            clips = list(threads.map(pool.decode, paths * 3))
        assert [clip.total_frames for clip in clips] == [8 + i for i in range(6)] * 3
        assert len(set(find_helpers(os.getpid())) - others) <= 2


def find_helpers(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            status = (entry / "stat").read_text().rsplit(")")[-1].split()
            if int(status[1]) == parent and "pool_child" in (entry / "cmdline").read_text():
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("ending", ["sys.exit(0)", "os.kill(os.getpid(), 9)"])
def test_helpers_die_with_their_parent(make_clip: MakeClip, tmp_path: Path, ending: str) -> None:
    script = f"""
        import os, sys, threading, time
        from pathlib import Path
        from video.config import VideoConfig
        from video.pool import DecodePool
        from tests.video.test_pool import find_helpers
        pool = DecodePool(VideoConfig(max_frames=8))
        thread = threading.Thread(target=pool.decode, args=(Path(sys.argv[1]),))
        thread.start()
        thread.join()
        time.sleep(0.2)  # the thread that first asked has ended, and its helper has not
        sys.stdout.write(str(find_helpers(os.getpid())[0]))
        sys.stdout.flush()
        {ending}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(make_clip())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.isdecimal(), done.stderr
    wait_for(lambda: not is_alive(int(done.stdout)))


def test_a_helper_that_ended_meanwhile_is_replaced(pool: DecodePool, make_clip: MakeClip) -> None:
    path = make_clip()
    others = set(find_helpers(os.getpid()))  # of pools that tests in this process left open
    pool.decode(path)
    (helper,) = set(find_helpers(os.getpid())) - others
    os.kill(helper, signal.SIGKILL)
    wait_for(lambda: not is_alive(helper))
    assert len(pool.decode(path).frames) == 8


@pytest.mark.parametrize("num_kills", [1, 2])
def test_a_helper_that_is_killed_while_it_starts_is_started_once_more(
    tmp_path: Path, make_clip: MakeClip, num_kills: int
) -> None:
    script, starts = tmp_path / "helper.py", tmp_path / "starts"
    script.write_text(
        f"""
import os, sys
with open({str(starts)!r}, "a") as file:
    file.write("x")
if os.path.getsize({str(starts)!r}) <= {num_kills}:
    os.kill(os.getpid(), 9)
sys.path.insert(0, {str(ROOT)!r})
from video.pool_child import main
main()
"""
    )
    config = VideoConfig(max_frames=8, decode_workers=1)
    with contextlib.closing(DecodePool(config, (sys.executable, str(script)))) as pool:
        if num_kills == 1:
            assert len(pool.decode(make_clip()).frames) == 8
            assert pool.num_lost == 1
        else:
            with pytest.raises(WorkerDied, match="did not start: its decoder was ended twice"):
                pool.decode(make_clip())


def test_a_helper_imports_nothing_of_the_engines() -> None:
    heavy = "{'torch', 'transformers', 'ray', 'pydantic', 'decord', 'vllm'}"
    script = f"import sys, video.pool_child; assert not {heavy} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("decord_hangs", "decord: no result within decode_timeout_s=1"),
        ("decord_crashes", "decord: its decoder crashed with SIGSEGV"),
        ("decord_killed", "decord: its decoder was ended twice by SIGKILL"),
        ("decord_starves", "decord failed, and PyAV after it"),
    ],
)
def test_pyav_reads_what_decord_broke_on(
    bad_pool: DecodePool, tmp_path: Path, name: str, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(b"x")
    clip = bad_pool.decode(path)
    assert clip.frames.shape == (8, 48, 64, 3)
    assert clip.not_by_decord is not None
    assert clip.not_by_decord.startswith(reason)


def test_where_only_decord_may_decode_its_crash_is_the_clips(
    tmp_path: Path, make_clip: MakeClip
) -> None:
    script = tmp_path / "helper.py"
    script.write_text(BAD_HELPER.format(root=str(ROOT), clip=str(make_clip("good.mp4"))))
    config = QUICK.model_copy(update={"decoder": "decord"})
    path = tmp_path / "decord_crashes"
    path.write_bytes(b"x")
    with (
        contextlib.closing(DecodePool(config, (sys.executable, str(script)))) as pool,
        pytest.raises(ClipError, match=r"decord_crashes: decord: .* SIGSEGV"),
    ):
        pool.decode(path)


@pytest.mark.parametrize("decoder", ["auto", "decord", "pyav"])
def test_the_setting_reaches_the_helper(decoder: Decoder, make_clip: MakeClip) -> None:
    config = VideoConfig(max_frames=8, decode_workers=1, decoder=decoder)
    path = make_clip(size=(72, 48))
    odd = make_clip("odd.webm", size=(72, 47), codec="libvpx-vp9")
    with contextlib.closing(DecodePool(config)) as pool:
        assert (pool.decode(path).not_by_decord is None) == (decoder != "pyav")
        if decoder == "decord":
            for ask in (pool.decode, pool.probe):
                with pytest.raises(ClipError, match="its height is odd"):
                    ask(odd)
        else:
            pool.probe(odd)
            assert pool.decode(odd).not_by_decord is not None
