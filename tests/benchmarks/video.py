"""What decoding in other processes costs, what the cache and jumps save, how fast decord is.

    python -m tests.benchmarks.video [--json FILE]

Prints one row per figure: name, value, unit, limit, and whether the goal is to be above or below
it. Ends with status 1 if a limit is missed. Under a minute on two cores.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import xxhash

from tests.benchmarks.figures import Figure, report
from tests.tiny_models import build_processor
from tests.video.formats import Format, write_long, write_video
from video import frame_index
from video.cache import ClipStore
from video.config import VideoConfig
from video.decode import DecodedClip, decode
from video.pool import DecodePool
from video.processor import ClipProcessor, ProcessedClip, fingerprint_of

_CONFIG = VideoConfig(max_frames=16, decode_workers=2)


class PlainProcessor:
    """As many numbers as a model's processor makes, without loading one."""

    processor_hash = "plain"

    def pixel_bounds(self, config: VideoConfig) -> tuple[int, int]:
        return 1, 10**9

    def process(self, clip: DecodedClip, config: VideoConfig, *, clip_key: str) -> ProcessedClip:
        pixels = clip.frames.reshape(len(clip.frames), -1).astype(np.float32)
        grid, ids = (len(clip.frames), 1, 1), (1, *[2] * len(clip.frames), 3)
        return ProcessedClip(
            pixel_values=pixels,
            grid_thw=grid,
            seconds_per_grid=1.0,
            placeholder_ids=ids,
            fingerprint=fingerprint_of(pixels, grid, 1.0, ids),
            clip_key=clip_key,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    target = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            *measure_pool(Path(folder)),
            *measure_cache(Path(folder)),
            *measure_reference(Path(folder)),
            *measure_hour(Path(folder)),
            *measure_decord(Path(folder)),
        ]
    return report(rows, target)


def measure_pool(folder: Path) -> list[Figure]:
    """The same clips in this process, one after another, and in two helpers."""
    paths = [
        write_video(folder / f"{i}.mp4", Format(f"{i}.mp4", size=(480, 360)), range(150))
        for i in range(12)
    ]
    with (
        closing(DecodePool(_CONFIG)) as pool,
        ThreadPoolExecutor(_CONFIG.decode_workers) as threads,
    ):
        start = seconds(lambda: pool.decode(paths[0]))
        together = fastest(lambda: list(threads.map(pool.decode, paths)))
        alone = fastest(lambda: [decode(path, _CONFIG) for path in paths])
        return [
            Figure("pool/first_clip", start, "s", 5.0, "below"),
            Figure("pool/clips_per_s", len(paths) / together, "clips/s", 1.0, "above"),
            Figure("pool/throughput_to_in_process", alone / together, "ratio", 0.9, "above"),
        ]


def measure_cache(folder: Path) -> list[Figure]:
    """A clip from disk, checked against its digest, and the same clip made."""
    path = write_video(folder / "c.mp4", Format("c.mp4", size=(480, 360)), range(300))
    with closing(DecodePool(_CONFIG)) as pool:
        pool.decode(path)

        def new_store(name: str) -> ClipStore:
            return ClipStore(folder / name, PlainProcessor(), _CONFIG, pool)

        made = min(seconds(lambda name=str(i): new_store(name).get(path)) for i in range(3))
        found = fastest(lambda: new_store("0").get(path))
    return [
        Figure("cache/hit", found * 1000, "ms", 250.0, "below"),
        Figure("cache/hit_to_making", found / made, "ratio", 0.5, "below"),
    ]


def measure_reference(folder: Path) -> list[Figure]:
    """The cache beside making a clip of 32 frames of 448 x 448 with a model's processor (70 MB of
    float32 pixels): what a miss adds, and what a hit costs, as shares of making it."""
    build_processor("qwen2_5_vl").save_pretrained(folder / "processor")
    processor = ClipProcessor(folder / "processor")
    pixels = 448 * 448
    config = VideoConfig(max_frames=32, min_pixels=pixels, max_pixels=pixels)
    path = write_long(folder / "r.mp4", 10, rate=30, seconds_per_gop=2, size=(640, 480))
    with closing(DecodePool(config)) as pool:

        def make() -> ProcessedClip:
            return processor.process(pool.decode(path), config, clip_key="0" * 40)

        def get(name: int) -> None:
            ClipStore(folder / f"reference-{name}", processor, config, pool).get(path)

        clip, rounds = make(), range(7)
        made = [(seconds(make), seconds(partial(get, n)), seconds(partial(get, n))) for n in rounds]
    making, missing, finding = (statistics.median(column) for column in zip(*made, strict=True))
    files = [*(folder / "reference-0").rglob("*.safetensors")]
    stored = sum(file.stat().st_size for file in files) / clip.pixel_values.nbytes
    digest = seconds(lambda: xxhash.xxh3_128(clip.pixel_values.data).digest())
    return [
        Figure("cache/reference_making", making, "s", 10, "below"),
        Figure("cache/miss_to_making", missing / making - 1, "ratio", 0.35, "below"),
        Figure("cache/reference_hit_to_making", finding / making, "ratio", 0.2, "below"),
        Figure("cache/stored_to_pixels", stored, "ratio", 0.26, "below"),
        Figure("cache/digest", clip.pixel_values.nbytes / digest / 1e9, "GB/s", 1.0, "above"),
    ]


def measure_hour(folder: Path) -> list[Figure]:
    """32 frames out of an hour."""
    rows = []
    for ending in ("mp4", "mkv", "ts"):
        path = write_long(folder / f"hour.{ending}", seconds=3600)
        spent = fastest(lambda path=path: decode(path, VideoConfig(max_frames=32)))
        rows.append(Figure(f"hour/{ending}", spent, "s", 5.0, "below"))
    return rows


def measure_decord(folder: Path) -> list[Figure]:
    """A clip by decord, behind its check, against the same one by PyAV: processor time, in
    pairs."""
    rows = []
    for name, length, frames, size in (
        ("2s_224", 2, 8, (224, 224)),
        ("10s_480p", 10, 16, (640, 480)),
        ("60s_360p", 60, 32, (640, 360)),
        ("5min_240p", 300, 32, (320, 240)),
    ):
        path = write_long(folder / f"{name}.mp4", length, rate=30, seconds_per_gop=2, size=size)
        config = VideoConfig(max_frames=frames)
        assert decode(path, config).not_by_decord is None
        by_decord = partial(decode, path, config, decoder="auto")
        by_pyav = partial(decode, path, config, decoder="pyav")
        pairs = [(anew(by_decord), anew(by_pyav)) for _ in range(7)]
        ratio = statistics.median(one / other for one, other in pairs)
        rows.append(Figure(f"decord/{name}_to_pyav", ratio, "ratio", 6.0, "below"))
    return rows


def anew(act: Callable[[], object]) -> float:
    """Processor time with nothing remembered of the file."""
    frame_index._index_of.cache_clear()
    return cpu_seconds(act)


def cpu_seconds(act: Callable[[], object]) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


def fastest(act: Callable[[], object]) -> float:
    return min(seconds(act) for _ in range(3))


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
