"""Files of batches: uploaded requests, and the outputs that batches leave.

    stream -> ID.partial, counted and checked line by line -> fsync, rename -> row -> FileRecord

A file without a row, or half of one, is what a kill left: removed at the next start.
"""

import os
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from calibrate.service.batches.lines import check_lines
from calibrate.service.caller import Caller
from calibrate.service.problems import Problem
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database, Schema
from wire.whole_file import sync_to_disk, whole_file

SCHEMA = Schema(
    "batch_files",
    (
        """
        CREATE TABLE batch_files (
            place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
            purpose TEXT NOT NULL, filename TEXT NOT NULL, bytes INTEGER NOT NULL,
            lines INTEGER NOT NULL, owner TEXT NOT NULL, created_at INTEGER NOT NULL);
        CREATE INDEX batch_files_by_owner ON batch_files (owner, place);
        """,
    ),
)
Purpose = Literal["batch", "batch_output"]
_MAX_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """File as the service lists it.

    Example:
        FileRecord(id="file-9f3c", purpose="batch", filename="clips.jsonl", bytes=210, lines=2, ...)
    """

    id: str
    purpose: Purpose
    filename: str
    bytes: int
    lines: int
    owner: str
    """Id of the token whose requests see it."""
    created_at: int

    def as_json(self) -> dict[str, Any]:
        """OpenAI's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "expires_at": None,
        }


class BatchFiles:
    """Keeps files in a folder, and their facts in the database."""

    def __init__(self, database: Database, audit: Audit, folder: Path, *, max_bytes: int) -> None:
        """``max_bytes``: of an uploaded file."""
        self._database, self._audit = database, audit
        self._folder, self._max_bytes = folder, max_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def remove_left_over(self) -> None:
        """Remove what a kill left: half-written files, and those that nobody was told of."""
        with self._database.read() as connection:
            known = {row["id"] for row in connection.execute("SELECT id FROM batch_files")}
        for path in self._folder.iterdir():
            if path.name not in known:
                path.unlink(missing_ok=True)

    async def upload(
        self, chunks: AsyncIterator[bytes], filename: str, caller: Caller
    ) -> FileRecord:
        """Keep a file of requests. Raises Problem 413 if it is too large, 422 if a line is no
        request."""
        new_id = new_file_id()
        with whole_file(self.path_of(new_id), sync=True) as partial:
            size = await self._write(partial, chunks)
            lines = await self._database.run(lambda: check_lines(partial))
        record = FileRecord(
            id=new_id,
            purpose="batch",
            filename=_plain_name(filename),
            bytes=size,
            lines=lines,
            owner=caller.token_id,
            created_at=int(time.time()),
        )
        try:
            await self._database.run(lambda: self._insert_alone(record))
        except BaseException:
            self.path_of(new_id).unlink(missing_ok=True)
            raise
        return record

    def get(self, file_id: str, caller: Caller) -> FileRecord:
        """A file that the caller may see. Raises Problem 404."""
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT * FROM batch_files WHERE id = ?", (file_id,)
            ).fetchone()
        if row is None or not _may_see(caller, row["owner"]):
            raise Problem(404, "no-such-file", f"there is no file {file_id!r}; GET /v1/files lists")
        return _record(row)

    def page(
        self, caller: Caller, *, after: str | None, limit: int, purpose: str | None
    ) -> tuple[list[FileRecord], bool]:
        """The caller's files, the newest first, and whether there are more. Raises Problem 404 if
        there is no file ``after``."""
        place = 2**62
        with self._database.read() as connection:
            if after is not None:
                row = connection.execute(
                    "SELECT place, owner FROM batch_files WHERE id = ?", (after,)
                ).fetchone()
                if row is None or not _may_see(caller, row["owner"]):
                    raise Problem(404, "no-such-file", f"after: there is no file {after!r}")
                place = row["place"]
            rows = connection.execute(
                "SELECT * FROM batch_files WHERE place < ? AND (owner = ? OR ?) "
                "AND (? IS NULL OR purpose = ?) ORDER BY place DESC LIMIT ?",
                (place, caller.token_id, caller.may("admin"), purpose, purpose, limit + 1),
            ).fetchall()
        return [_record(row) for row in rows[:limit]], len(rows) > limit

    def delete(self, file_id: str, caller: Caller) -> None:
        """Delete a file. Raises Problem 404, or 409 while a batch reads it."""
        record = self.get(file_id, caller)
        with self._database.write() as connection:
            busy = connection.execute(
                "SELECT id FROM batches WHERE input_file_id = ? AND status IN "
                "('validating', 'in_progress', 'finalizing', 'cancelling')",
                (record.id,),
            ).fetchone()
            if busy is not None:
                raise Problem(
                    409, "file-in-use", f"the batch {busy['id']} reads {file_id}; cancel it first"
                )
            connection.execute("DELETE FROM batch_files WHERE id = ?", (record.id,))
            detail = {"purpose": record.purpose, "lines": record.lines}
            self._audit.append(connection, caller.name, "file.deleted", f"files/{file_id}", detail)
        self.path_of(record.id).unlink(missing_ok=True)

    def write_output(
        self, file_id: str, filename: str, owner: str, write: Callable[[Path], int]
    ) -> FileRecord:
        """Write the file of a batch's answers; its row is the caller's to insert, with the batch's
        end. ``write``: writes the lines and returns their number. The same id again replaces what
        a kill left."""
        with whole_file(self.path_of(file_id), sync=True) as partial:
            lines = write(partial)
        sync_to_disk(self._folder)
        return FileRecord(
            id=file_id,
            purpose="batch_output",
            filename=filename,
            bytes=self.path_of(file_id).stat().st_size,
            lines=lines,
            owner=owner,
            created_at=int(time.time()),
        )

    def path_of(self, file_id: str) -> Path:
        """Path of a file's content."""
        return self._folder / file_id

    async def _write(self, partial: Path, chunks: AsyncIterator[bytes]) -> int:
        size = 0
        with partial.open("wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > self._max_bytes:
                    raise Problem(
                        413,
                        "file-too-large",
                        f"the file has over {self._max_bytes} bytes, the limit of a batch file "
                        "here; divide it",
                    )
                file.write(chunk)
        return size

    def _insert_alone(self, record: FileRecord) -> None:
        sync_to_disk(self._folder)
        with self._database.write() as connection:
            insert_file(connection, record)


def insert_file(connection: sqlite3.Connection, record: FileRecord) -> None:
    """Insert the row of a file whose content is on disk."""
    connection.execute(
        "INSERT INTO batch_files (id, purpose, filename, bytes, lines, owner, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            record.id,
            record.purpose,
            record.filename,
            record.bytes,
            record.lines,
            record.owner,
            record.created_at,
        ),
    )


def new_file_id() -> str:
    """A new id, in OpenAI's form."""
    return f"file-{secrets.token_hex(12)}"


def _record(row: sqlite3.Row) -> FileRecord:
    return FileRecord(**{name: row[name] for name in FileRecord.__slots__})


def _may_see(caller: Caller, owner: str) -> bool:
    return caller.token_id == owner or caller.may("admin")


def _plain_name(filename: str) -> str:
    """A name for lists; it never names a place on this machine."""
    name = os.path.basename(filename.replace("\\", "/"))  # noqa: PTH119  a name, no path of ours
    return name.encode(errors="replace").decode()[:_MAX_NAME] or "batch.jsonl"
