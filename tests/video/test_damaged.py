"""No damaged file ends a run or hangs beyond its deadline; each that gives no clip is listed."""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.video.damage import HOPELESS, Damage, write_damaged
from tests.video.formats import Format, write_video
from video.cache import ClipStore
from video.config import VideoConfig
from video.quarantine import Quarantine
from wire.errors import ClipError

_COUNT = 500
_DEADLINE_S = 10.0
_CONFIG = VideoConfig(max_frames=8, decode_timeout_s=_DEADLINE_S, decode_memory_gb=1.0)


def test_no_damaged_file_stops_a_run(tmp_path: Path, fake: Any) -> None:
    files = write_damaged(tmp_path, _COUNT)
    sound = write_video(tmp_path / "sound.mp4", Format("sound.mp4"))
    store = ClipStore(tmp_path / "cache", fake, _CONFIG)
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    expected = store.get(sound).fingerprint
    seconds: dict[Path, float] = {}

    def use(path: Path) -> None:
        start = time.monotonic()
        try:
            store.get(path)
        except ClipError as error:
            quarantine.add(str(path), path.stem, str(error))
        seconds[path] = time.monotonic() - start

    with ThreadPoolExecutor(_CONFIG.decode_workers) as threads:
        list(threads.map(use, files))

    # a deadline, a replacement of the killed process, and a machine that is busy
    assert max(seconds.values()) < _DEADLINE_S + 10
    lines = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    listed = {Path(entry["video"]): entry["reason"] for entry in map(json.loads, lines)}
    assert all(str(path) in reason and "\n" not in reason for path, reason in listed.items())
    assert {path for path, damage in files.items() if damage in HOPELESS} <= set(listed)
    assert _COUNT * 0.5 < len(listed) < _COUNT, summary(files, listed)
    store.get(sound.rename(tmp_path / "moved.mp4"))
    again = ClipStore(tmp_path / "elsewhere", fake, _CONFIG)
    assert again.get(tmp_path / "moved.mp4").fingerprint == expected


def summary(files: dict[Path, Damage], listed: dict[Path, str]) -> str:
    counts = Counter((damage.__name__, path in listed) for path, damage in files.items())
    return "\n".join(f"{name} quarantined={bad}: {n}" for (name, bad), n in sorted(counts.items()))
