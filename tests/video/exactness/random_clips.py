"""Random clips of many kinds: codecs, containers, GOPs, rates, sizes, edit lists, turns."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

Options = Callable[[random.Random], dict[str, str]]
SIZES = ((80, 48), (96, 64), (98, 66), (66, 82), (160, 90), (128, 96))


def no_options(_: random.Random) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Kind:
    name: str
    codec: str
    endings: tuple[str, ...]
    options: Options = no_options
    pixels: str = "yuv420p"
    is_variable: bool = False
    sizes: Sequence[tuple[int, int]] = SIZES
    container: dict[str, str] = field(default_factory=dict)
    turn: bool = False
    sound: str | None = None
    decord: bool | None = None
    """Whether decord reads it; None: it depends on the clip."""


def x264(**fixed: object) -> Options:
    def draw(rng: random.Random) -> dict[str, str]:
        chosen = {
            "keyint": rng.choice((1, 8, 12, 30, 250)),
            "bframes": rng.choice((0, 1, 3, 5)),
            "b-pyramid": rng.choice(("none", "normal")),
            "ref": rng.choice((1, 3, 5)),
            "scenecut": 0,
            "weightp": rng.choice((0, 2)),
        } | {name.replace("_", "-"): value for name, value in fixed.items()}
        return {"x264-params": ":".join(f"{name}={value}" for name, value in chosen.items())}

    return draw


def vpx(rng: random.Random) -> dict[str, str]:
    return {
        "lag-in-frames": rng.choice(("0", "16", "25")),
        "auto-alt-ref": rng.choice(("0", "1")),
        "g": rng.choice(("8", "20", "100")),
        "deadline": "realtime",
        "cpu-used": "5",
        "error-resilient": rng.choice(("0", "1")),
    }


def svt(rng: random.Random) -> dict[str, str]:
    keyint, grain = rng.choice((8, 16, 60)), rng.choice((0, 0, 15))
    kind = rng.choice((1, 2))
    params = f"lp=1:keyint={keyint}:irefresh-type={kind}:film-grain={grain}"
    return {"preset": "12", "svtav1-params": params}


def x265(rng: random.Random) -> dict[str, str]:
    bframes, is_open = rng.choice((0, 4)), rng.choice((0, 1))
    return {
        "preset": "ultrafast",
        "x265-params": f"log-level=none:keyint=12:bframes={bframes}:open-gop={is_open}",
    }


def mpeg4(rng: random.Random) -> dict[str, str]:
    return {"g": "12", "bf": rng.choice(("0", "2"))}


FOUR = ((80, 48), (96, 64), (128, 96))
ODD = ((63, 47), (64, 47), (97, 65))
BIG = ((80, 64), (96, 64), (128, 96))

KINDS = (
    Kind("h264", "libx264", ("mp4", "mov", "mkv"), x264(), decord=True),
    Kind("h264_variable_rate", "libx264", ("mp4", "mkv"), x264(), is_variable=True, decord=True),
    Kind("h264_late", "libx264", ("mp4", "mkv"), x264(sliced_threads=1, slices=3), decord=True),
    Kind("h264_sound", "libx264", ("mp4", "mov", "mkv"), x264(), sound="aac", decord=True),
    Kind("vp9_sound", "libvpx-vp9", ("webm", "mkv"), vpx, sound="libopus"),
    Kind("h264_open_gop", "libx264", ("mp4", "mkv"), x264(open_gop=1, bframes=3, keyint=12)),
    Kind("h264_refresh", "libx264", ("mp4", "mkv"), x264(intra_refresh=1, keyint=12, ref=1)),
    Kind(
        "h264_interlaced",
        "libx264",
        ("mp4", "mkv"),
        x264(tff=1, weightp=0),
        sizes=FOUR,
        decord=False,
    ),
    Kind("h264_10_bit", "libx264", ("mp4",), x264(), "yuv420p10le", decord=False),
    Kind("h264_444_odd", "libx264", ("mp4", "mkv"), x264(), "yuv444p", sizes=ODD, decord=False),
    Kind("h264_turned", "libx264", ("mp4", "mov"), x264(), turn=True, decord=False),
    Kind(
        "h264_fragments",
        "libx264",
        ("mp4",),
        x264(),
        container={"movflags": "frag_keyframe+empty_moov"},
        decord=False,
    ),
    Kind("h264_ts", "libx264", ("ts",), x264(), decord=False),
    Kind("h264_avi", "libx264", ("avi",), x264(), decord=False),
    Kind("hevc", "libx265", ("mp4", "mkv"), x265, decord=False),
    Kind("vp8", "libvpx", ("webm", "mkv"), vpx),
    Kind("vp9", "libvpx-vp9", ("webm", "mkv", "mp4"), vpx),
    Kind("vp9_odd", "libvpx-vp9", ("webm",), vpx, sizes=ODD, decord=False),
    Kind("vp9_variable_rate", "libvpx-vp9", ("webm",), vpx, is_variable=True),
    Kind("av1", "libsvtav1", ("mp4", "mkv", "webm"), svt, sizes=BIG),
    Kind("av1_10_bit", "libsvtav1", ("mkv",), svt, "yuv420p10le", sizes=BIG, decord=False),
    Kind("mpeg4", "mpeg4", ("mp4", "avi"), mpeg4, decord=False),
    Kind("mpeg2", "mpeg2video", ("ts", "mpg", "mkv"), mpeg4, decord=False),
    Kind("mjpeg", "mjpeg", ("mov", "avi", "mkv"), pixels="yuvj420p", decord=False),
    Kind("prores", "prores_ks", ("mov",), pixels="yuv422p10le", decord=False),
    Kind("gif", "gif", ("gif",), pixels="rgb8", decord=False),
)


def rng_of(name: str) -> random.Random:
    """Always the same numbers for a name."""
    return random.Random(name)


def write_random(folder: Path, kind: Kind, rng: random.Random, count: int | None = None) -> Path:
    """A clip of a kind: shapes over noise that move, with cuts."""
    path = folder / f"{kind.name}-{rng.randrange(10**9)}.{rng.choice(kind.endings)}"
    size, drawn = rng.choice(kind.sizes), rng.choice((1, 2, 7, 30, 60, 90))
    rate = rng.choice((10, 24, 25, 30))
    options = kind.options(rng)
    start = rng.choice((0, 0, 5, 1000)) if kind.codec == "libx264" else 0
    with av.open(str(path), "w", options=kind.container) as container:
        stream: Any = container.add_stream(kind.codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, kind.pixels
        stream.codec_context.thread_count = 1
        _draw_colour(stream.codec_context, rng)
        if kind.turn:
            stream.set_display_rotation(rng.choice((90, 180, -90)))
        voice: Any = container.add_stream(kind.sound, rate=48000) if kind.sound else None
        tick = start
        for picture in pictures(size, count or drawn, rng):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, rate)
            tick += rng.choice((1, 1, 2, 3)) if kind.is_variable else 1
            container.mux(stream.encode(frame))
            if voice is not None:
                container.mux(voice.encode(_sound(tick, rate)))
        container.mux(stream.encode())
        if voice is not None:
            container.mux(voice.encode())
    return path


def _sound(tick: int, rate: int) -> av.AudioFrame:
    """A tone as long as a picture, at its time."""
    length = 48000 // rate
    tone = (8000 * np.sin(np.arange(length) / 20)).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(np.repeat(tone, 2)[None], format="s16", layout="stereo")
    frame.sample_rate, frame.pts = 48000, tick * length
    frame.time_base = Fraction(1, 48000)
    return frame


def _draw_colour(context: Any, rng: random.Random) -> None:
    space = rng.choice((None, 1, 5, 6, 9))
    if space is not None and context.pix_fmt in ("yuv420p", "yuv420p10le"):
        context.colorspace = space
        context.color_range = rng.choice((1, 2))


def pictures(size: tuple[int, int], count: int, rng: random.Random) -> Iterator[Any]:
    width, height = size
    numbers = np.random.default_rng(rng.randrange(10**9))
    ground = _blocks(numbers, size)
    for i in range(count):
        if i and numbers.random() < 0.05:
            ground = _blocks(numbers, size)
        picture = np.roll(ground, (i, 2 * i), (0, 1)).copy()
        x, y = (3 * i) % width, (2 * i) % height
        picture[y : y + height // 4, x : x + width // 4] = numbers.integers(0, 255, 3)
        noise = numbers.integers(-12, 12, picture.shape)
        yield np.clip(picture + noise, 0, 255).astype(np.uint8)


def _blocks(numbers: np.random.Generator, size: tuple[int, int]) -> Any:
    width, height = size
    coarse = numbers.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3))
    return np.kron(coarse, np.ones((8, 8, 1), np.int64))[:height, :width]
