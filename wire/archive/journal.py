"""An append-only file of trace groups: they are on disk when ``append`` returns.

    TraceGroup -> record (rows, compressed); records -> one frame -> write -> fsync

    file    = magic, schema version, frames
    frame   = magic, length, CRC-32 of length and payload, payload
    payload = records: sizes, then the Arrow record batches of one group, without their schema

What is written together is one frame: a process that is killed while it writes leaves one torn
frame at the end of the file. Such a tail is cut off on reopening and loses nothing that was
acknowledged. A bad frame with a good one *behind* it cannot come from a torn write: it is damage,
and raises. One process writes a journal; any number may read it meanwhile. Before version 3 a
frame was one group's Arrow stream.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from wire.archive.trace_rows import (
    GROUP_SCHEMA,
    SCHEMA_VERSION,
    TRACE_SCHEMA,
    Packed,
    check_version,
    joined,
    journal_schemas,
    packed,
    split_up,
    upgraded,
    upgraded_batch,
)
from wire.errors import ArchiveError
from wire.types import TraceGroup
from wire.whole_file import sync_to_disk

_FILE_MAGIC = b"DITRACES"
_FILE_HEADER = struct.Struct("<8sI")
_FRAME_MAGIC = b"\xf7DI\x00"
_FRAME_HEADER = struct.Struct("<4sQI")
_RECORD_HEADER = struct.Struct("<QQQ")  # bytes of the two batches, and of both compressed
_CODEC = "zstd"
_ROWS, _BYTES = 4096, 32 << 20  # of a part that is read; bytes before they are compressed


class Journal:
    """The journal at ``path``, open for appending; created if it is not there.

    Opening cuts off a torn tail. Raises ArchiveError for a file that is no journal, is of another
    schema version, is damaged before its last frame, or cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.group_ids: set[str] = set()
        """Ids of the groups in the file."""
        self._is_torn = False
        with naming(f"cannot open the journal {path}"):
            if not path.exists():
                self._fd = self._fresh_file()
                return
            if is_outdated(path):
                raise ArchiveError(f"{path} is of an older schema version; compact it first")
            self._end = _FILE_HEADER.size
            for self._end, parts in _decoded(path):
                self.group_ids.update(str(part.group["group_id"][0]) for part, _ in parts)
            self._fd = os.open(path, os.O_RDWR)
            if os.fstat(self._fd).st_size > self._end:
                os.ftruncate(self._fd, self._end)
            os.fsync(self._fd)  # what we count as kept may have been written, but never synced
            self._sync_directory()

    def append(self, records: Mapping[str, bytes]) -> None:
        """Write groups together, by id as ``record_of`` makes them: they survive any crash from the
        moment this returns.

        Raises OSError if they cannot be written (a full disk): those before them are kept, of these
        none is in the journal, and a later append may succeed.
        """
        if not self._directory_is_synced:
            self._sync_directory()
        frame = _frame(b"".join(records.values()))
        self._cut_off_torn()
        self._is_torn = True
        try:
            _write_at(self._fd, frame, self._end)
            os.fsync(self._fd)
        except BaseException:
            with contextlib.suppress(OSError):  # should this fail too, the next append does it
                self._cut_off_torn()
            raise
        self._is_torn = False
        self._end += len(frame)
        self.group_ids.update(records)

    def clear(self) -> None:
        """Replace the journal by an empty one, by rename. Raises ArchiveError.

        If it fails before the rename, the old journal stays in use with all its groups.
        """
        with naming(f"cannot replace the journal {self.path} (its groups are kept)"):
            old = self._fd
            self._fd = self._fresh_file()
            os.close(old)

    def close(self) -> None:
        """Close the file; nothing is pending. Closing twice does no harm."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _cut_off_torn(self) -> None:
        if self._is_torn:
            os.ftruncate(self._fd, self._end)
            self._is_torn = False

    def _fresh_file(self) -> int:
        fd = empty_journal(self.path)
        self._end = _FILE_HEADER.size
        self._is_torn = False
        self.group_ids = set()
        self._directory_is_synced = False
        # A failure here must not keep the old descriptor in use: its file has lost its name.
        with contextlib.suppress(OSError):  # append tries again, before it acknowledges anything
            self._sync_directory()
        return fd

    def _sync_directory(self) -> None:
        sync_to_disk(self.path.parent)
        self._directory_is_synced = True


def empty_journal(path: Path) -> int:
    """An empty journal, renamed to ``path``, and its descriptor. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        _write_at(fd, _FILE_HEADER.pack(_FILE_MAGIC, SCHEMA_VERSION), 0)
        os.fsync(fd)
        partial.replace(path)
    except OSError:
        os.close(fd)
        raise
    return fd


def record_of(group: TraceGroup) -> bytes:
    """A group as the journal holds it. Raises ArchiveError for a value that has no place there."""
    batches = [batch.serialize() for batch in packed(group)]
    data: bytes = pa.compress(pa.py_buffer(b"".join(batches)), codec=_CODEC, asbytes=True)
    return _RECORD_HEADER.pack(*map(len, batches), len(data)) + data


def read_journal(path: Path) -> Iterator[pa.Table]:
    """The rows in a journal, whole groups in order of writing, some at a time; a torn tail is
    skipped, not cut.

    Raises ArchiveError as Journal does, and FileNotFoundError if there is none (any more).
    """
    held: list[Packed] = []
    num_rows = num_bytes = 0
    for parts in _readable(path):
        for part, size in parts:
            held.append(part)
            num_rows += part.traces.num_rows
            num_bytes += size
            if num_rows >= _ROWS or num_bytes >= _BYTES:
                yield joined(held)
                held, num_rows, num_bytes = [], 0, 0
    if held:
        yield joined(held)


def _readable(path: Path) -> Iterator[list[tuple[Packed, int]]]:
    try:
        for _, parts in _decoded(path):
            yield parts
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ArchiveError(
            f"cannot read the journal {path}: {error.strerror or error}; restore it, or move it "
            "away to go on without its groups"
        ) from error


def is_outdated(path: Path) -> bool:
    """Whether a journal is of an older version: it is read, but not appended to. Raises
    ArchiveError and OSError."""
    with path.open("rb") as file:
        return _version(path, file) < SCHEMA_VERSION


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn an OSError in the block into an ArchiveError that names the failed action."""
    try:
        yield
    except OSError as error:
        raise ArchiveError(f"{what}: {error.strerror or error}") from error


def _frame(payload: bytes) -> bytes:
    return _FRAME_HEADER.pack(_FRAME_MAGIC, len(payload), _checksum(payload)) + payload


def _checksum(payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<Q", len(payload))))


def _write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``; on a disk that fills up one call writes only a part."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Each frame's payload, with the file's version and the offset at which the frame ends. Raises
    ArchiveError."""
    with path.open("rb") as file:
        # what the writer adds from now on is not ours to judge
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        version = _version(path, file)
        while True:
            offset = file.tell()
            payload = _read_frame(file, end)
            if payload is None:
                file.seek(offset)
                _refuse_damage(path, offset, file.read(end - offset))
                return
            yield version, file.tell(), payload


def _decoded(path: Path) -> Iterator[tuple[int, list[tuple[Packed, int]]]]:
    """The groups in each frame, with about the bytes of their rows, and the offset at which the
    frame ends. Raises ArchiveError."""
    for version, end, payload in _frames(path):
        try:
            parts = [_older_part(payload)] if version < 3 else list(_parts(payload, version))
        except (OSError, struct.error, pa.ArrowException) as error:
            offset = end - len(payload) - _FRAME_HEADER.size
            raise ArchiveError(
                f"{path}: the record at byte {offset} holds no trace group: {error}"
            ) from error
        yield end, parts


def _parts(payload: bytes, version: int) -> Iterator[tuple[Packed, int]]:
    at, (group_schema, trace_schema) = 0, journal_schemas(version)
    while at < len(payload):
        group, traces, size = _RECORD_HEADER.unpack_from(payload, at)
        at += _RECORD_HEADER.size
        data = pa.decompress(payload[at : at + size], group + traces, _CODEC)
        at += size
        part = Packed(
            upgraded_batch(
                pa.ipc.read_record_batch(data.slice(0, group), group_schema), GROUP_SCHEMA
            ),
            upgraded_batch(pa.ipc.read_record_batch(data.slice(group), trace_schema), TRACE_SCHEMA),
        )
        yield part, group * part.traces.num_rows + traces


def _older_part(payload: bytes) -> tuple[Packed, int]:
    """The one group in a frame of before version 3."""
    stream = pa.CompressedInputStream(pa.BufferReader(payload), _CODEC)
    rows = upgraded(pa.ipc.open_stream(stream).read_all())
    return split_up(rows), rows.nbytes


def _version(path: Path, file: BinaryIO) -> int:
    header = file.read(_FILE_HEADER.size)
    if len(header) < _FILE_HEADER.size or not header.startswith(_FILE_MAGIC):
        raise ArchiveError(f"{path} is not a trace journal; move it out of the run directory")
    version: int = _FILE_HEADER.unpack(header)[1]
    check_version(path, version)
    return version


def _read_frame(file: BinaryIO, end: int) -> bytes | None:
    """The payload of the frame that starts here; None if no whole, sound frame ends by ``end``."""
    room = end - file.tell() - _FRAME_HEADER.size
    if room < 0:
        return None
    magic, length, checksum = _FRAME_HEADER.unpack(file.read(_FRAME_HEADER.size))
    if magic != _FRAME_MAGIC or length > room:
        return None
    payload = file.read(length)
    return payload if _checksum(payload) == checksum else None


def _refuse_damage(path: Path, offset: int, rest: bytes) -> None:
    """Raise ArchiveError if a sound frame lies behind the bad one that ``rest`` starts with."""
    at = rest.find(_FRAME_MAGIC, 1)
    while at >= 0:
        body = at + _FRAME_HEADER.size
        if body <= len(rest):
            _, length, checksum = _FRAME_HEADER.unpack(rest[at:body])
            if body + length <= len(rest) and _checksum(rest[body : body + length]) == checksum:
                raise ArchiveError(
                    f"{path} is damaged: the record at byte {offset} is bad, but one behind it, "
                    f"at byte {offset + at}, is sound; restore the file, or move it away "
                    "to go on without it"
                )
        at = rest.find(_FRAME_MAGIC, at + 1)
