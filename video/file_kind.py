"""Kinds of files that are no video whatever their name says, and videos whose end is missing.

    the first bytes, the sizes that the container itself states -> a reason with the remedy, or None

A decoder says "Invalid data" of all of them, or shows a part without a word. The messages name what
a file is: a pointer of git-lfs, a page of a server that refused, an archive, half a download.
"""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_START = 4096
_ZEROS = 64 * 1024
_UNKNOWN = 0xFFFFFFFF
_SHOWN = 80
_ANEW = "download or copy it anew"
_CUT = f"it is cut: only {{}} of its {{}} bytes are there; {_ANEW}"

# FFmpeg would follow these into other files and onto the network.
_PLAYLISTS = (
    b"#extm3u",
    b"ffconcat",
    b"<mpd",
    b"<smil",
    b"<playlist",
    b"<asx",
    b"[playlist]",
    b"v=0\r",
    b"v=0\n",
)
_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf\x27\x1c": "7-zip",
    b"Rar!\x1a\x07": "rar",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_WEB_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body")
_BOXES = frozenset(
    [b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot"]
)
_NO_VIDEOS = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"M4A ", b"M4B ", b"crx ")
"""Brands of mp4's container that are pictures and music."""
_MATROSKA, _FLV, _MPEG = b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\x00\x00\x01\xba"
_ASF = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"
_TS_PACKET = 188


def why_no_video(path: Path) -> str | None:
    """Reason why a file holds no whole video, as far as its container tells. Raises OSError."""
    size = path.stat().st_size
    if size == 0:
        return f"the file is empty (0 bytes); {_ANEW}"
    with path.open("rb") as file:
        start = file.read(_START)
        return _other_kind(start, whole=size <= _START) or _missing_end(file, start, size)


def starts_as_video(path: Path) -> bool:
    """Whether a file begins as a container of videos does; pictures and music in one do not count.
    Raises OSError."""
    with path.open("rb") as file:
        start = file.read(_TS_PACKET + 1)
    if start[4:8] == b"ftyp":
        return start[8:12] not in _NO_VIDEOS
    return (
        start[4:8] in _BOXES
        or start.startswith((_MATROSKA, _FLV, _MPEG, _ASF))
        or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")
        or (start[:1] == b"G" and start[_TS_PACKET:] == b"G")
    )


def text_in(path: Path) -> str | None:
    """Beginning of a file that is plain text, in printable characters; None if it is no text."""
    with path.open("rb") as file:
        start = file.read(_START)
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # not only the last character, cut in two
            return None
        text = start[: error.start].decode()
    whole = all(character.isprintable() or character.isspace() for character in text)
    return _printable(text) if whole else None


def _other_kind(start: bytes, *, whole: bool) -> str | None:
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        stated = re.search(rb"^size (\d+)$", start, re.MULTILINE)
        of = f" of {stated[1].decode()} bytes" if stated else ""
        return (
            f"a git-lfs pointer to a file{of}, not the file; run `git lfs pull` in its repository"
        )
    if start.startswith(b"/annex/objects/"):
        return "a git-annex pointer, not the file; run `git annex get` in its repository"
    if start.startswith(b"\0\5\x16\7"):
        return "what macOS keeps beside a file (AppleDouble, ._NAME), not the file; delete it"
    for magic, kind in _ARCHIVES.items():
        if start.startswith(magic):
            return f"a {kind} archive, not a video; unpack it, and name the videos in it"
    if start[257:262] == b"ustar":
        return "a tar archive, not a video; unpack it, and name the videos in it"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP" and b"ANIM" in start[:256]:
        return "an animated WebP, which FFmpeg cannot decode; docs/video.md shows how to convert it"
    return _markup(start.removeprefix(b"\xef\xbb\xbf").lstrip(), whole=whole)


def _markup(start: bytes, *, whole: bool) -> str | None:
    low = start.lower()
    beginning = re.sub(rb"\A(<\?xml[^>]*>|<!--.*?-->|\s)+", b"", low, flags=re.DOTALL)
    if beginning.startswith(_PLAYLISTS):
        return "a playlist, not a video; give the video itself"
    if beginning.startswith(_WEB_PAGES):
        title = re.search(rb"<title[^>]*>(.*?)</title", start, re.IGNORECASE | re.DOTALL)
        return f"a web page{_quoted(title)}, not a video: a server refused, or asks for a login"
    if low.startswith(b"<?xml") or beginning.startswith(b"<error"):
        text = re.search(rb"<(?:Message|Code)>(.*?)</", start, re.DOTALL)
        return f"an XML document{_quoted(text)}, not a video: a server's answer? {_ANEW}"
    if low[:1] in (b"{", b"[") and _is_json(start, whole=whole):
        shown = _printable(start.decode(errors="replace"))
        return f"JSON ({shown}), not a video: a server's answer? {_ANEW}"
    return None


def _is_json(start: bytes, *, whole: bool) -> bool:
    try:
        json.loads(start)
    except UnicodeDecodeError:
        return False
    except ValueError:
        return not whole and re.match(rb'[\[{]\s*["{\[]', start) is not None
    return True


def _quoted(match: re.Match[bytes] | None) -> str:
    return f' ("{_printable(match[1].decode(errors="replace"))}")' if match else ""


def _printable(text: str) -> str:
    line = " ".join(text.split())
    shown = "".join(character if character.isprintable() else "?" for character in line)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."


def _missing_end(file: BinaryIO, start: bytes, size: int) -> str | None:
    if start[4:8] in _BOXES:
        return _missing_end_of_mp4(file, size)
    if start.startswith(b"\x1a\x45\xdf\xa3"):
        file.seek(max(0, size - _ZEROS))
        if size > 2 * _ZEROS and not any(file.read(_ZEROS)):
            return f"its end is nothing but zeros: half a download? {_ANEW}"
        end = _end_of_matroska(start)
    elif start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        end = _end_of_avi(file, size)
    else:
        return None
    return _CUT.format(size, end) if end > size else None


def _missing_end_of_mp4(file: BinaryIO, size: int) -> str | None:
    """An mp4's index says where its frames are (video/container.py looks there). Here: an mp4
    without one, and one of fragments, each of which has its own."""
    ends = dict(_boxes(file, size))
    last = max(ends.values(), default=0)
    if last > size and (b"moof" in ends or b"moov" not in ends or ends[b"moov"] > size):
        return _CUT.format(size, last)
    if b"moov" in ends or b"meta" in ends:  # pictures have meta alone
        return None
    if b"moof" in ends:
        return "a segment of a stream without its beginning; join it to its initialization segment"
    return f"its index (the moov box) is missing: was its recording or upload broken off? {_ANEW}"


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """(kind, end) of the boxes of an mp4, the outermost."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        header = file.read(16)
        length, kind = struct.unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        end = size if length == 0 else place + length
        if end < place + 8:
            return
        yield kind, end
        place = end


def _end_of_matroska(start: bytes) -> int:
    """Where the segment ends; 0 if it does not say (a live recording)."""
    length, place = _ebml_number(start, 4)
    segment = place + length
    if start[segment : segment + 4] != b"\x18\x53\x80\x67":
        return 0
    length, place = _ebml_number(start, segment + 4)
    return place + length


def _ebml_number(data: bytes, place: int) -> tuple[int, int]:
    """A length of variable size, 0 if it is unknown, and where it ends."""
    first = data[place] if place < len(data) else 0
    size = 9 - first.bit_length()
    number = int.from_bytes(data[place : place + size]) & ((1 << 7 * size) - 1)
    return (0 if number == (1 << 7 * size) - 1 else number), place + size


def _end_of_avi(file: BinaryIO, size: int) -> int:
    """Where the frames end; 0 if it does not say (a recorder that was switched off)."""
    file.seek(4)
    whole = int.from_bytes(file.read(4), "little")
    place = 12
    while place + 12 <= size:
        file.seek(place)
        kind, length, inner = struct.unpack("<4sI4s", file.read(12))
        if kind == b"LIST" and inner == b"movi":
            return 0 if length == _UNKNOWN else int(place + 8 + length)
        place += 8 + length + length % 2
    return 0 if whole == _UNKNOWN else whole + 8
