"""An append-only file of trace groups: a group is on disk when ``append`` returns.

    TraceGroup -> Arrow IPC, compressed -> frame -> write -> fsync

    file   = magic, schema version, frames
    frame  = magic, length, CRC-32 of length and payload, payload

A process that is killed while it writes leaves a torn frame at the end of the file. Such a tail is
cut off on reopening and loses nothing that was acknowledged. A bad frame with a good one *behind*
it cannot come from a torn write: it is damage, and raises. One process writes a journal; any number
may read it meanwhile.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from wire.archive.trace_rows import (
    SCHEMA,
    SCHEMA_VERSION,
    check_version,
    group_id_of,
    rows_of,
    upgraded,
)
from wire.errors import ArchiveError
from wire.types import TraceGroup
from wire.whole_file import sync_to_disk

_FILE_MAGIC = b"DITRACES"
_FILE_HEADER = struct.Struct("<8sI")
_FRAME_MAGIC = b"\xf7DI\x00"
_FRAME_HEADER = struct.Struct("<4sQI")
_CODEC = "zstd"  # over the whole payload: the prompt's ids, and the schema's names, repeat a lot


class Journal:
    """The journal at ``path``, open for appending; created if it is not there.

    Opening cuts off a torn tail. Raises ArchiveError for a file that is no journal, is of another
    schema version, is damaged before its last frame, or cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.group_ids: set[str] = set()
        """Ids of the groups in the file."""
        with naming(f"cannot open the journal {path}"):
            if not path.exists():
                self._fd = self._fresh_file()
                return
            self._end = _FILE_HEADER.size
            for self._end, table in _read(path):
                self.group_ids.add(group_id_of(table))
            self._fd = os.open(path, os.O_RDWR)
            if os.fstat(self._fd).st_size > self._end:
                os.ftruncate(self._fd, self._end)
            os.fsync(self._fd)  # what we count as kept may have been written, but never synced
            self._sync_directory()

    def append(self, group: TraceGroup) -> None:
        """Write one group; it survives any crash from the moment this returns.

        Raises ArchiveError if it cannot be written (a full disk): the groups before it are kept,
        this one is not in the journal, and a later append may succeed.
        """
        frame = _frame(rows_of(group))
        kept = f"the {len(self.group_ids)} groups before it are kept"
        with naming(f"cannot append group {group.group_id!r} to {self.path} ({kept})"):
            if not self._directory_is_synced:
                self._sync_directory()
            try:
                _write_at(self._fd, frame, self._end)
                os.fsync(self._fd)
            except OSError:
                # Should this fail too, the next append writes over the torn frame.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._end)
                raise
        self._end += len(frame)
        self.group_ids.add(group.group_id)

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

    def _fresh_file(self) -> int:
        """An empty journal, renamed to ``path``, and its descriptor."""
        partial = self.path.with_name(self.path.name + ".partial")
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            _write_at(fd, _FILE_HEADER.pack(_FILE_MAGIC, SCHEMA_VERSION), 0)
            os.fsync(fd)
            partial.replace(self.path)
        except OSError:
            os.close(fd)
            raise
        self._end = _FILE_HEADER.size
        self.group_ids = set()
        self._directory_is_synced = False
        # A failure here must not keep the old descriptor in use: its file has lost its name.
        with contextlib.suppress(OSError):  # append tries again, before it acknowledges anything
            self._sync_directory()
        return fd

    def _sync_directory(self) -> None:
        sync_to_disk(self.path.parent)
        self._directory_is_synced = True


def read_journal(path: Path) -> Iterator[pa.Table]:
    """The rows of each group in a journal, in order of writing; a torn tail is skipped, not cut.

    Raises ArchiveError as Journal does, and FileNotFoundError if there is none (any more).
    """
    for _, table in _read(path):
        yield table


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn an OSError in the block into an ArchiveError that names the failed action."""
    try:
        yield
    except OSError as error:
        raise ArchiveError(f"{what}: {error.strerror or error}") from error


def _frame(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    packed = pa.CompressedOutputStream(sink, _CODEC)
    with packed, pa.ipc.new_stream(packed, SCHEMA) as writer:
        writer.write_table(table)
    payload: bytes = sink.getvalue().to_pybytes()
    return _FRAME_HEADER.pack(_FRAME_MAGIC, len(payload), _checksum(payload)) + payload


def _checksum(payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<Q", len(payload))))


def _write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``; on a disk that fills up one call writes only a part."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _read(path: Path) -> Iterator[tuple[int, pa.Table]]:
    """Each group's rows, with the offset at which its frame ends. Raises ArchiveError."""
    with path.open("rb") as file:
        end = os.fstat(
            file.fileno()
        ).st_size  # what the writer adds from now on is not ours to judge
        _check_header(path, file.read(_FILE_HEADER.size))
        while True:
            offset = file.tell()
            payload = _read_frame(file, end)
            if payload is None:
                file.seek(offset)
                _refuse_damage(path, offset, file.read(end - offset))
                return
            try:
                packed = pa.CompressedInputStream(pa.BufferReader(payload), _CODEC)
                table = pa.ipc.open_stream(packed).read_all()
            except (OSError, pa.ArrowException) as error:
                raise ArchiveError(
                    f"{path}: the record at byte {offset} holds no trace group: {error}"
                ) from error
            yield file.tell(), upgraded(table)


def _check_header(path: Path, header: bytes) -> None:
    if len(header) < _FILE_HEADER.size or not header.startswith(_FILE_MAGIC):
        raise ArchiveError(f"{path} is not a trace journal; move it out of the run directory")
    _, version = _FILE_HEADER.unpack(header)
    check_version(path, version)


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
