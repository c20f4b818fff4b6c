"""Hostile uploads: damaged clips, headers that claim too much, bombs, playlists, odd names."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from tests.video.conftest import write_clip
from tests.video.damage import write_damaged
from tests.video.formats import write_long
from tests.video.playlists import playlists

Upload = tuple[str, bytes]
"""Its name, as the client says it, and its bytes."""

_ZEROS = bytes(64 * 2**20)
_HUGE = 100_000


def hostile_uploads(folder: Path, *, canary: str, url: str) -> list[Upload]:
    """At least 200. ``canary`` and ``url`` are what playlists name."""
    clip = write_clip(folder / "whole.mp4", frames=40).read_bytes()
    damaged = [(path.name, path.read_bytes()) for path in write_damaged(folder, 120)]
    return [
        *damaged,
        *playlists(canary, url).items(),
        *_claims(clip),
        ("hour.mp4", write_long(folder / "hour.mp4", 3600).read_bytes()),
        ("slow.mp4", write_long(folder / "slow.mp4", 3600, rate=1).read_bytes()),
        *_bombs(clip),
        *_other_files(),
        *[(name, clip) for name in NAMES],
    ]


NAMES = (
    "../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "/etc/passwd",
    "a\0.mp4",
    "x" * 10_240 + ".mp4",
    "a\r\nX-Injected: yes.mp4",
    '"; filename="other.mp4',
    "frame%03d.png",
    "*?{a,b}[c].mp4",
    "concat:a.mp4|b.mp4",
    "http://127.0.0.1:9/a.mp4",
    "\u202e4pm.exe",
    "\ud800.mp4",
    "<img src=x onerror=alert(1)>.mp4",
    "clip.mp4#t=5,1&view=none",
    " ",
    "",
)


def _claims(clip: bytes) -> Iterator[Upload]:
    """Headers that claim more than the file holds."""
    most, wide = b"\x7f\xff\xff\xff", b"\xff\xff\0\0" * 2
    for box, offset in ((b"stsz", 12), (b"stts", 8), (b"stts", 12), (b"stsc", 8), (b"stco", 8)):
        yield f"frames_{box.decode()}_{offset}.mp4", _put(clip, box, offset, most)
    yield "seconds.mp4", _put(_put(clip, b"mvhd", 20, most), b"mdhd", 20, most)
    yield "timescale.mp4", _put(clip, b"mdhd", 16, b"\0\0\0\0")
    yield "track_size.mp4", _put(clip, b"tkhd", 80, wide)
    yield "entry_size.mp4", _put(clip, b"avc1", 28, b"\xff\xff\xff\xff")
    yield "sps_16384.mp4", _with_sps(clip, 16_384)
    yield "sps_131072.mp4", _with_sps(clip, 131_072)
    yield (
        "gif_65535.gif",
        b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0",
    )
    yield "png_100000.png", _png(_HUGE, b"\0" * 1000)
    yield "png_30000.png", _png(30_000, _ZEROS)
    yield "bmp_100000.bmp", _bmp(_HUGE)
    yield "bmp_negative.bmp", _bmp(-(2**31))
    yield "jpeg_65535.jpg", b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(9)
    yield (
        "psd_300000.psd",
        b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 300_000, 300_000, 8, 3),
    )
    yield "exr.exr", b"v/1\x01\x02\0\0\0dataWindow\0box2i\0\x10\0\0\0" + b"\0\0\0\0" * 2 + most * 2
    yield "avi.avi", _avi(_HUGE)
    yield "y4m.y4m", b"YUV4MPEG2 W100000 H100000 F1:1\nFRAME\n"
    yield "raw.y4m", b"YUV4MPEG2 W2 H2 F1000000:1 C420\n" + b"FRAME\n" + bytes(6)
    yield "tiff.tif", _tiff(_HUGE)
    yield "ivf.ivf", b"DKIF\0\0\x20\0VP90" + struct.pack("<HHIII", 65_535, 65_535, 1, 1, 2**31 - 1)
    yield "ebml.mkv", b"\x1a\x45\xdf\xa3" + b"\x01" + b"\xff" * 7 + b"\x18\x53\x80\x67" * 1000
    yield "nested.mp4", _nested(5_000)
    yield "many_tracks.mp4", _many_tracks(clip, 20_000)


def _bombs(clip: bytes) -> Iterator[Upload]:
    """Few bytes that become many."""
    pack = io.BytesIO()
    with zipfile.ZipFile(pack, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", _ZEROS)
        archive.writestr("../../evil.mp4", clip)
    yield "bomb.zip", pack.getvalue()
    yield "zip_called.mp4", pack.getvalue()
    yield "bomb.gz", gzip.compress(gzip.compress(_ZEROS))
    yield "compressed_moov.mp4", _compressed_moov(_ZEROS)
    yield "compressed_moov_lies.mp4", _compressed_moov(_ZEROS, 2**31 - 1)
    yield "flash.swf", b"CWS\x0a\xff\xff\xff\x7f" + zlib.compress(_ZEROS)
    yield "matroska_zlib.mkv", _matroska_zlib(_ZEROS)
    yield "apng.png", _png(3_000, _ZEROS)
    yield "zip_and_mp4.mp4", clip + pack.getvalue()


def _other_files() -> Iterator[Upload]:
    """Files of other kinds, whole."""
    yield "program.mp4", b"\x7fELF\x02\x01\x01" + bytes(5_000)
    yield "script.mp4", b"#!/bin/sh\nrm -rf /\n"
    yield "page.mp4", b"<!DOCTYPE html><script>alert(1)</script>"
    yield "sound.wav", _wav()
    yield "document.pdf", b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"
    yield "terminal.nfo", b"\x1b[2J\x1b[31m" + b"ansi art " * 500
    yield "subtitles.srt", b"1\n00:00:00,000 --> 00:00:01,000\nhello\n"
    yield (
        "pickle.mp4",
        b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
    )
    yield "database.mp4", b"SQLite format 3\0" + bytes(4_000)
    yield "entities.svg", b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg>&b;</svg>'


def _put(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """``value`` so many bytes behind the name of a box."""
    place = data.index(box) + offset
    return data[:place] + value + data[place + len(value) :]


def _with_sps(clip: bytes, side: int) -> bytes:
    """H.264 whose sequence header, the decoder's own, has another size than the container says."""
    start = clip.index(b"avcC") + 4 + 6
    length = struct.unpack(">H", clip[start : start + 2])[0]
    bits = "".join(
        [
            f"{0x67:08b}{66:08b}{0:08b}{51:08b}",  # baseline profile, level 5.1
            _golomb(0) * 2 + _golomb(2) + _golomb(1) + "0",
            _golomb(side // 16 - 1) * 2 + "1100",
            "1",
        ]
    )
    bits += "0" * (-len(bits) % 8)
    header = bytes(int(bits[place : place + 8], 2) for place in range(0, len(bits), 8))
    assert len(header) <= length
    return clip[: start + 2] + header.ljust(length, b"\0") + clip[start + 2 + length :]


def _golomb(value: int) -> str:
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits


def _png(side: int, pixels: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    )


def _bmp(side: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, side, side, 1, 24, *[0] * 6)


def _avi(side: int) -> bytes:
    def chunk(kind: bytes, *parts: bytes) -> bytes:
        return kind + struct.pack("<I", sum(map(len, parts))) + b"".join(parts)

    strh = chunk(
        b"strh", b"vidsMJPG", bytes(12), struct.pack("<IIII", 1, 25, 0, 2**31 - 1), bytes(20)
    )
    strf = chunk(b"strf", struct.pack("<IIIHH", 40, side, side, 1, 24), b"MJPG", bytes(20))
    avih = chunk(
        b"avih", struct.pack("<14I", 40_000, 0, 0, 0, 2**31 - 1, 0, 1, 0, side, side, *[0] * 4)
    )
    head = chunk(b"LIST", b"hdrl", avih, chunk(b"LIST", b"strl", strh, strf))
    return chunk(b"RIFF", b"AVI ", head, chunk(b"LIST", b"movi", chunk(b"00dc", bytes(100))))


def _tiff(side: int) -> bytes:
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


def _wav() -> bytes:
    form = struct.pack("<IHHIIHH", 16, 1, 1, 8_000, 8_000, 1, 8)
    return (
        b"RIFF"
        + struct.pack("<I", 1036)
        + b"WAVEfmt "
        + form
        + b"data"
        + struct.pack("<I", 1000)
        + bytes(1000)
    )


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


_FTYP = _box(b"ftyp", b"isom\0\0\x02\0isomiso2avc1mp41")


def _compressed_moov(data: bytes, length: int | None = None) -> bytes:
    compressed = struct.pack(">I", length or len(data)) + zlib.compress(data)
    return _FTYP + _box(b"moov", _box(b"cmov", _box(b"dcom", b"zlib"), _box(b"cmvd", compressed)))


def _nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = _box(b"trak", inner)
    return _FTYP + _box(b"moov", inner)


def _many_tracks(clip: bytes, count: int) -> bytes:
    place = clip.index(b"trak") - 4
    track = clip[place : place + struct.unpack(">I", clip[place : place + 4])[0]]
    moov = clip.index(b"moov") - 4
    return clip[:moov] + _box(b"moov", *[track] * count)


def _matroska_zlib(data: bytes) -> bytes:
    def element(name: str, body: bytes) -> bytes:
        return bytes.fromhex(name) + struct.pack(">Q", len(body) | 1 << 56) + body

    header = element("1a45dfa3", element("4282", b"matroska"))
    encoding = element("6d80", element("6240", element("5034", element("4254", b"\0"))))
    video = element("e0", element("b0", b"\x40") + element("ba", b"\x30"))
    track = element("d7", b"\1") + element("83", b"\1") + element("86", b"V_VP9") + video + encoding
    block = b"\x81\0\0\x80" + zlib.compress(data)
    cluster = element("1f43b675", element("e7", b"\0") + element("a3", block))
    return header + element("18538067", element("1654ae6b", element("ae", track)) + cluster)
