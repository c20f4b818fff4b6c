"""Edits of the boxes of an mp4, to make the files that phones, recorders and cutters write.

PyAV writes the moov box last, so that nothing else moves when it grows.
"""

import struct
from collections.abc import Callable

Change = Callable[[bytes], bytes]


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def find(data: bytes, *path: bytes) -> tuple[int, int]:
    """(start, end) of the first box with this path."""
    start, end = 0, len(data)
    for kind in path:
        start = start + 8 if kind is not path[0] else 0
        while data[start + 4 : start + 8] != kind:
            start += int.from_bytes(data[start : start + 4])
            if start >= end:
                raise KeyError(path)
        end = start + int.from_bytes(data[start : start + 4])
    return start, end


def change(data: bytes, path: tuple[bytes, ...], by: Change) -> bytes:
    """The file with the payload of a box changed, and the sizes of the boxes around it."""
    start, end = find(data, path[0])
    inner = data[start + 8 : end]
    new = by(inner) if len(path) == 1 else change(inner, path[1:], by)
    return data[:start] + box(path[0], new) + data[end:]


def remove(data: bytes, path: tuple[bytes, ...]) -> bytes:
    """The file without a box."""

    def without(inner: bytes) -> bytes:
        start, end = find(inner, path[-1])
        return inner[:start] + inner[end:]

    return change(data, path[:-1], without)


TABLES = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def add_to_count(data: bytes, table: bytes, place: int, more: int = 1) -> bytes:
    """The file with a number of a table raised, ``place`` bytes from its payload's start."""

    def by(inner: bytes) -> bytes:
        number = int.from_bytes(inner[place : place + 4]) + more
        return inner[:place] + struct.pack(">I", number) + inner[place + 4 :]

    return change(data, (*TABLES, table), by)


def with_edits(data: bytes, *edits: tuple[float, float | None]) -> bytes:
    """The file with an edit list of (seconds that are shown, second of the media where they start);
    None starts an empty edit."""
    start, _ = find(data, b"moov", b"trak", b"mdia", b"mdhd")
    ticks = int.from_bytes(data[start + 20 : start + 24])
    entries = [
        struct.pack(">IiHH", round(length * 1000), -1 if at is None else round(at * ticks), 1, 0)
        for length, at in edits
    ]
    edts = box(b"edts", box(b"elst", struct.pack(">II", 0, len(entries)), *entries))

    def by(inner: bytes) -> bytes:
        old, end = find(inner, b"edts")
        return inner[:old] + edts + inner[end:]

    return change(data, (b"moov", b"trak"), by)


def with_matrix(data: bytes, a: float, b: float, c: float, d: float) -> bytes:
    """The file with another display matrix: (x, y) is shown at (a x + c y, b x + d y)."""
    numbers = [round(one * (1 << 16)) for one in (a, b, 0, c, d, 0, 0, 0)]
    matrix = struct.pack(">9i", *numbers, 1 << 30)
    return change(data, (b"moov", b"trak", b"tkhd"), lambda inner: inner[:40] + matrix + inner[76:])
