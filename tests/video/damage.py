"""Damaged videos without end: real clips in many formats, each spoilt as a seed decides."""

import io
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.video.formats import FORMATS, write_video

Damage = Callable[[bytes, random.Random], bytes]

_SOURCES = (
    "h264.mp4",
    "h264.mkv",
    "h264.ts",
    "h264.flv",
    "h264_fragmented.mp4",
    "hevc_open_gop.mp4",
    "vp9.webm",
    "av1.mp4",
    "mpeg4_b_frames.avi",
    "mpeg2.mpg",
    "mjpeg.avi",
    "gif.gif",
)
_BOXES = (b"ftyp", b"moov", b"mvhd", b"trak", b"mdia", b"minf", b"stbl", b"stsz", b"stts", b"mdat")
_COUNTS = (b"stsz", b"stts", b"stsc", b"stco", b"ctts", b"stss", b"idx1", b"strh", b"trun")


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(1, len(data))]


def cut_front(data: bytes, draw: random.Random) -> bytes:
    return data[draw.randrange(1, len(data)) :]


def flip(data: bytes, draw: random.Random) -> bytes:
    spoilt = bytearray(data)
    for _ in range(draw.choice((1, 8, 64, 512))):
        spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
    return bytes(spoilt)


def flip_header(data: bytes, draw: random.Random) -> bytes:
    spoilt = bytearray(data)
    for _ in range(draw.choice((1, 4, 16))):
        spoilt[draw.randrange(min(len(spoilt), 512))] ^= 1 << draw.randrange(8)
    return bytes(spoilt)


def zero(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    length = draw.randrange(1, len(data) - start + 1)
    return data[:start] + bytes(length) + data[start + length :]


def repeat(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[: start + draw.randrange(1, 2000)] + data[start:]


def huge_box(data: bytes, draw: random.Random) -> bytes:
    """The size of an mp4 box, or the bytes behind the start of another container."""
    places = [data.find(name) - 4 for name in _BOXES if data.find(name) >= 4]
    place = draw.choice(places) if places else draw.randrange(4, 40)
    size = draw.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\0\0\0\0"))
    return data[:place] + size + data[place + 4 :]


def huge_count(data: bytes, draw: random.Random) -> bytes:
    """How many entries a table of an mp4 or avi is said to have."""
    places = [data.find(name) for name in _COUNTS if data.find(name) >= 0]
    place = draw.choice(places) + draw.choice((8, 12)) if places else draw.randrange(40, 400)
    return data[:place] + b"\x7f\xff\xff\xff" + data[place + 4 :]


def huge_frame(data: bytes, draw: random.Random) -> bytes:
    """Claimed width and height, wherever the format keeps them."""
    wide, narrow = struct.pack(">HH", 65_500, 65_500), struct.pack("<HH", 65_500, 65_500)
    if data.startswith(b"GIF8"):
        return data[:6] + narrow + data[10:]
    for name, offset in ((b"avc1", 28), (b"hvc1", 28), (b"av01", 28), (b"\xff\xc0", 5)):
        place = data.find(name)
        if place >= 0:
            data = data[: place + offset] + wide + data[place + offset + 4 :]
    place = data.find(b"strf")
    if place >= 0:
        data = data[: place + 12] + struct.pack("<II", 65_500, 65_500) + data[place + 20 :]
    for pair in (b"\xb0\x81\x40\xba\x81\x30",):  # Matroska's PixelWidth 64, PixelHeight 48
        data = data.replace(pair, b"\xb0\x81\xff\xba\x81\xff")
    return data


def text(data: bytes, draw: random.Random) -> bytes:
    return b"".join(b"this is line %d\n" % draw.randrange(10**6) for _ in range(200))


def html(data: bytes, draw: random.Random) -> bytes:
    return b"<!DOCTYPE html><html><body>404 Not Found %d</body></html>" % draw.randrange(10**9)


def zipped(data: bytes, draw: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{draw.randrange(10**9)}.mp4", data)
    return file.getvalue()


def noise(data: bytes, draw: random.Random) -> bytes:
    return draw.randbytes(draw.randrange(1, 20_000))


def empty(data: bytes, draw: random.Random) -> bytes:
    return b""


def blank(data: bytes, draw: random.Random) -> bytes:
    return bytes(draw.randrange(1, 20_000))


DAMAGES: tuple[Damage, ...] = (
    cut,
    cut_front,
    flip,
    flip_header,
    zero,
    repeat,
    huge_box,
    huge_count,
    huge_frame,
    text,
    html,
    zipped,
    noise,
    empty,
    blank,
)
HOPELESS: tuple[Damage, ...] = (html, zipped, empty, blank, text)
"""After these nothing of a video is left."""


def write_damaged(folder: Path, count: int, seed: int = 0) -> dict[Path, Damage]:
    """``count`` files, every damage in turn, sources drawn."""
    sources = []
    for form in FORMATS:
        if form.name in _SOURCES:
            path = write_video(folder / form.name, form, range(40))
            sources.append((path.suffix, path.read_bytes()))
            path.unlink()
    written = {}
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")
        damage = DAMAGES[number % len(DAMAGES)]
        suffix, data = draw.choice(sources)
        path = folder / f"{number:03}_{damage.__name__}{suffix}"
        path.write_bytes(damage(data, draw))
        written[path] = damage
    return written
