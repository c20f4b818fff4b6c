"""Clips per second of the decoder helpers, against what a step takes.

The need: 64 groups in a step of 40 s, each about another clip, so 1.6 clips/s; with engines and
learner on nodes of their own each decodes them once. The clip: 10 s of 1280 x 720 at 30 frames per
second in H.264, of which 32 frames are read.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from tests.benchmarks.figures import Figure
from tests.gpu.setting import Setting
from tests.video.formats import write_long
from video.config import VideoConfig
from video.pool import DecodePool

_GROUPS, _STEP_S = 64, 40.0
_CLIPS = 16


def figures(setting: Setting) -> Iterator[Figure]:
    """Clips per second of as many helpers as there are cores, at most 8."""
    helpers = min(8, len(os.sched_getaffinity(0)))
    config = VideoConfig(max_frames=32, decode_workers=helpers)
    with tempfile.TemporaryDirectory() as folder, closing(DecodePool(config)) as pool:
        first = write_long(Path(folder, "0.mp4"), 10, rate=30, seconds_per_gop=2, size=(1280, 720))
        paths = [first]
        for number in range(1, _CLIPS):  # another file each: nothing of one is remembered
            paths.append(Path(folder, f"{number}.mp4"))
            paths[-1].write_bytes(first.read_bytes())
        with ThreadPoolExecutor(helpers) as threads:
            list(threads.map(pool.decode, paths[:helpers]))  # the helpers start
            start = time.perf_counter()
            clips = list(threads.map(pool.decode, paths))
            spent = time.perf_counter() - start
    assert all(len(clip.frames) == 32 for clip in clips)
    yield Figure("decoding/helpers", helpers, "")
    rate = len(clips) / spent
    yield Figure("decoding/clips_per_s", rate, "clips/s", _GROUPS / _STEP_S, "above")
