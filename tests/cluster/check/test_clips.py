import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest

from cluster.check import clip_facts
from cluster.check.clip_facts import ClipFacts
from cluster.check.clips import (
    ClipScan,
    Unreadable,
    clip_findings,
    remember_opened,
    scan_clip,
    scan_clips,
)
from tests.cluster.check.builders import make_sample, make_scan, scans_of
from tests.cluster.session_fakes import make_config
from tests.video.boxes import with_matrix
from tests.video.exactness.planted import encode
from video.address import Address
from video.config import VideoConfig
from video.encode import write_mp4
from video.opened_clips import OpenedClips
from video.pool import DecodePool
from wire.types import Sample

CONFIG = VideoConfig(max_frames=4)


def write_clip(path: Path, seed: int = 0, frames: int = 12) -> Sample:
    noise = np.random.default_rng(seed)
    pictures = (noise.integers(0, 255, (32, 48, 3), np.uint8) for _ in range(frames))
    with path.open("wb") as file:
        write_mp4(file, pictures, Fraction(4))
    return make_sample(path.stem, video=str(path))


def test_a_clip_that_decodes_gives_its_facts(tmp_path: Path):
    sample = write_clip(tmp_path / "a.mp4")
    seen = scan_clip(sample.video, pool=DecodePool(CONFIG))
    assert isinstance(seen, ClipFacts)
    assert (seen.frames, seen.height, seen.width, seen.seconds) == (4, 32, 48, 3.0)


def test_the_size_of_a_turned_clip_is_the_one_that_is_shown(tmp_path: Path):
    path = Path(write_clip(tmp_path / "a.mp4").video)
    path.write_bytes(with_matrix(path.read_bytes(), 0, 1, -1, 0))
    seen = scan_clip(str(path), pool=DecodePool(CONFIG))
    assert isinstance(seen, ClipFacts)
    assert (seen.height, seen.width) == (48, 32)


def test_a_cut_clip_and_a_file_that_is_none_are_unreadable(tmp_path: Path):
    sample = write_clip(tmp_path / "a.mp4")
    whole = Path(sample.video).read_bytes()
    Path(sample.video).write_bytes(whole[: len(whole) // 2])
    text = tmp_path / "b.mp4"
    text.write_text("no video")
    for file in (sample.video, str(text)):
        seen = scan_clip(file, pool=DecodePool(CONFIG))
        assert isinstance(seen, Unreadable)
        assert file in seen.reason


def test_a_second_look_decodes_only_what_has_changed(tmp_path: Path):
    samples = [write_clip(tmp_path / f"{n}.mp4", n) for n in range(3)]
    facts = tmp_path / "facts.sqlite"
    first = scan_clips(samples, CONFIG, facts)
    assert all(isinstance(scan, ClipFacts) for scan in first.values())
    # would not decode: were it looked at again, the second scan would differ
    stat = Path(samples[0].video).stat()
    Path(samples[0].video).write_bytes(b"\0" * stat.st_size)
    os.utime(samples[0].video, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert scan_clips(samples, CONFIG, facts) == first
    os.utime(samples[0].video)
    assert isinstance(scan_clips(samples, CONFIG, facts)[samples[0].video], Unreadable)


def test_a_view_looks_at_its_file_once(tmp_path: Path):
    sample = write_clip(tmp_path / "a.mp4")
    blank = make_sample("b", video=f"{sample.video}#view=blank")
    assert list(scan_clips([sample, blank], CONFIG, tmp_path / "f")) == [sample.video]


def test_a_window_behind_the_clip_s_end_is_found(tmp_path: Path):
    sample = write_clip(tmp_path / "a.mp4")  # of three seconds
    windows = [make_sample(f"s{n}", video=f"{sample.video}#t={n}") for n in (0, 2, 3)]
    scans = scan_clips(windows, CONFIG, tmp_path / "f")
    finding, _ = clip_findings(make_config(), windows, scans)
    assert "1 of 3 clips cannot be used" in finding.what
    assert [Path(video).name.split(":")[0] for video in finding.where] == ["a.mp4#t=3"]


def test_a_check_says_how_many_clips_each_decoder_reads_and_why_not_decord():
    reasons = [None, None, *["it is interlaced"] * 3, "its height is odd", "a", "b"]
    samples = [make_sample(f"s{n}") for n in range(len(reasons))]
    scans = {
        sample.video: make_scan(sample.id, not_by_decord=reason)
        for sample, reason in zip(samples, reasons, strict=True)
    }
    (finding,) = clip_findings(make_config(), samples, scans)
    assert finding.what.endswith(
        "; decord decodes 2, PyAV 6 (3 it is interlaced, 1 its height is odd, 1 a, 1 for other "
        "reasons)"
    )
    (finding,) = clip_findings(make_config(), samples, scans_of(*samples))
    assert finding.what.endswith("; decord decodes all")


def test_the_facts_say_why_pyav_decodes(tmp_path: Path):
    sample = make_sample("a", video=str(encode(tmp_path / "a.mp4", count=8)))
    for decoder, reason in (("auto", None), ("pyav", 'video.decoder is "pyav"')):
        config = CONFIG.model_copy(update={"decoder": decoder})
        for _ in range(2):  # seen, and kept
            scan = scan_clips([sample], config, tmp_path / "facts.sqlite")[sample.video]
            assert isinstance(scan, ClipFacts)
            assert scan.not_by_decord == reason


def test_facts_of_another_sampling_do_not_count(tmp_path: Path):
    sample = write_clip(tmp_path / "a.mp4")
    facts = tmp_path / "facts.sqlite"
    scan_clips([sample], CONFIG, facts)
    seen = scan_clips([sample], VideoConfig(max_frames=8), facts)[sample.video]
    assert isinstance(seen, ClipFacts)
    assert seen.frames == 8


@pytest.mark.parametrize("content", [b"no database", b""])
def test_a_damaged_file_of_facts_is_begun_anew(tmp_path: Path, content: bytes):
    sample = write_clip(tmp_path / "a.mp4")
    facts = tmp_path / "facts.sqlite"
    facts.write_bytes(content * 100)
    for _ in range(2):
        assert isinstance(scan_clips([sample], CONFIG, facts)[sample.video], ClipFacts)


@pytest.mark.parametrize("call", ["_open", "execute", "executemany"])
def test_a_disk_that_cannot_keep_scans_is_a_warning_and_the_clips_are_scanned(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    class NoLocks:
        """A database on a file system without locks."""

        def __init__(self, path: Path) -> None:
            if call == "_open":
                raise sqlite3.OperationalError("locking protocol")

        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None: ...

        def close(self) -> None: ...

        def execute(self, *query: object) -> "NoLocks":
            if call == "execute":
                raise sqlite3.OperationalError("disk I/O error")
            return self

        def fetchone(self) -> None: ...

        def executemany(self, *rows: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

    samples = [write_clip(tmp_path / f"{n}.mp4") for n in range(2)]
    monkeypatch.setattr(clip_facts, "_open", NoLocks)
    scans = scan_clips(samples, CONFIG, tmp_path / "facts.sqlite")
    assert all(isinstance(scan, ClipFacts) for scan in scans.values())
    assert len(scans) == 2
    assert caplog.text.count("cannot remember clips") == 1


def test_a_folder_that_cannot_be_made_keeps_no_clip_from_being_scanned(tmp_path: Path):
    (tmp_path / "file").touch()
    sample = write_clip(tmp_path / "a.mp4")
    assert len(scan_clips([sample], CONFIG, tmp_path / "file" / "facts.sqlite")) == 1


INTERRUPTED = """
import sys, time
from pathlib import Path
from cluster.check import clips
from tests.cluster.check import test_clips
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    samples = [test_clips.make_sample(f.stem, video=str(f)) for f in sorted(folder.glob("*.mp4"))]
    clips.scan_clip = test_clips.slow_scan
    clips.scan_clips(samples, test_clips.CONFIG, folder / "facts.sqlite")
"""


def slow_scan(file: str, *, pool: DecodePool) -> ClipScan:
    time.sleep(0.2)
    return scan_clip(file, pool=pool)


def test_an_interrupted_look_keeps_what_it_had_and_leaves_no_process(tmp_path: Path):
    samples = [write_clip(tmp_path / f"{n:02}.mp4", n, frames=2) for n in range(40)]
    script = tmp_path / "scan.py"
    script.write_text(INTERRUPTED)
    root = str(Path(__file__).parents[3])
    scan = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    watch = threading.Timer(60, scan.kill)
    watch.start()
    facts = tmp_path / "facts.sqlite"
    while scan.poll() is None and num_kept(facts) < 3:
        time.sleep(0.05)
    os.killpg(scan.pid, signal.SIGINT)
    _, err = scan.communicate(timeout=30)
    watch.cancel()
    kept = num_kept(facts)
    assert 3 <= kept < len(samples)
    assert err.count(b"Traceback") == 1  # the parent's: its processes end in silence
    deadline = time.monotonic() + 20
    while alive := in_group(scan.pid):
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


def in_group(group: int) -> list[psutil.Process]:
    """Its processes; those that wait to be reaped are none any more."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def num_kept(facts: Path) -> int:
    import sqlite3

    if not facts.exists():
        return 0
    try:
        with sqlite3.connect(facts) as database:
            return int(database.execute("SELECT COUNT(*) from clip_facts").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_a_run_need_not_open_what_a_check_has_decoded(tmp_path: Path):
    samples = [write_clip(tmp_path / f"{n}.mp4") for n in range(2)]
    (tmp_path / "bad.mp4").write_text("no video")
    samples.append(make_sample("bad", video=str(tmp_path / "bad.mp4")))
    scans = scan_clips(samples, CONFIG, tmp_path / "facts")
    remember_opened(OpenedClips([tmp_path / "opened.json"], "auto"), scans)
    clips = [Address.parse(sample.video) for sample in samples]
    assert OpenedClips([tmp_path / "opened.json"], "auto").unknown(clips) == clips[2:]
