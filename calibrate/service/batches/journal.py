"""Journal of batches: each batch's state and each line's answer, on disk before anything is said.

    insert -> answered, many lines in one transaction -> ended, with the rows of its files

A line has one answer: the table's key refuses a second one.
"""

import json
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from calibrate.service.batches.files import FileRecord, insert_file
from calibrate.service.batches.lines import ENDPOINT
from calibrate.service.caller import Caller, Scope
from calibrate.service.problems import Problem
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database, Schema

SCHEMA = Schema(
    "batches",
    (
        """
        CREATE TABLE batches (
            place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
            input_file_id TEXT NOT NULL, total INTEGER NOT NULL, status TEXT NOT NULL,
            owner TEXT NOT NULL, owner_name TEXT NOT NULL, scopes TEXT NOT NULL,
            metadata TEXT, times TEXT NOT NULL, expires_at INTEGER NOT NULL,
            output_file_id TEXT NOT NULL, error_file_id TEXT NOT NULL,
            has_output INTEGER NOT NULL DEFAULT 0, has_errors INTEGER NOT NULL DEFAULT 0,
            completed INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
            errors TEXT);
        CREATE INDEX batches_by_owner ON batches (owner, place);
        CREATE INDEX batches_by_status ON batches (status);
        CREATE TABLE batch_answers (
            batch_id TEXT NOT NULL, line INTEGER NOT NULL, custom_id TEXT NOT NULL,
            status_code INTEGER NOT NULL, request_id TEXT NOT NULL, body TEXT NOT NULL,
            PRIMARY KEY (batch_id, line)) WITHOUT ROWID;
        """,
    ),
)
Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
ACTIVE: tuple[Status, ...] = ("validating", "in_progress", "finalizing", "cancelling")
_WINDOW_S = 24 * 3600
_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class LineAnswer:
    """Answer to one line: a decision, or the problem in its place."""

    line: int
    custom_id: str
    status_code: int
    request_id: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """Batch as the journal has it."""

    id: str
    input_file_id: str
    output_file_id: str
    error_file_id: str
    has_output: bool
    has_errors: bool
    total: int
    completed: int
    failed: int
    status: Status
    caller: Caller
    """Who asked for it: its lines are asked in this token's name."""
    metadata: dict[str, str] | None
    times: dict[str, int]
    """When it reached which status, such as ``in_progress_at``."""
    expires_at: int
    errors: list[dict[str, Any]] | None

    def as_json(self) -> dict[str, Any]:
        """OpenAI's batch object."""
        names = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling")
        times = {f"{name}_at": self.times.get(f"{name}_at") for name in (*names, "cancelled")}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "errors": self.errors and {"object": "list", "data": self.errors},
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output_file_id if self.has_output else None,
            "error_file_id": self.error_file_id if self.has_errors else None,
            "created_at": self.times["created_at"],
            "expires_at": self.expires_at,
            **times,
            "request_counts": {
                "total": self.total,
                "completed": self.completed,
                "failed": self.failed,
            },
            "metadata": self.metadata,
        }


class BatchJournal:
    """Reads and writes batches in the database. Every method is a transaction of its own."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database, self._audit = database, audit

    def insert(
        self,
        file: FileRecord,
        caller: Caller,
        metadata: dict[str, str] | None,
        new_ids: tuple[str, str],
    ) -> BatchRecord:
        """A new batch, in progress. ``new_ids``: of its output and error files. Raises Problem 404
        if its file has been deleted meanwhile."""
        batch_id, now = f"batch_{secrets.token_hex(12)}", int(time.time())
        with self._database.write() as connection:
            there = connection.execute("SELECT 1 FROM batch_files WHERE id = ?", (file.id,))
            if there.fetchone() is None:
                raise Problem(404, "no-such-file", f"the file {file.id} has been deleted")
            connection.execute(
                "INSERT INTO batches (id, input_file_id, total, status, owner, owner_name, scopes,"
                " metadata, times, expires_at, output_file_id, error_file_id)"
                " VALUES (?, ?, ?, 'in_progress', ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    batch_id,
                    file.id,
                    file.lines,
                    caller.token_id,
                    caller.name,
                    ",".join(sorted(caller.scopes)),
                    None if metadata is None else json.dumps(metadata),
                    json.dumps({"created_at": now, "in_progress_at": now}),
                    now + _WINDOW_S,
                    *new_ids,
                ),
            )
            detail = {"file": file.id, "requests": file.lines}
            self._audit.append(
                connection, caller.name, "batch.created", f"batches/{batch_id}", detail
            )
        return self.get(batch_id)

    def get(self, batch_id: str, caller: Caller | None = None) -> BatchRecord:
        """A batch, as far as ``caller`` may see it. Raises Problem 404."""
        with self._database.read() as connection:
            row = connection.execute("SELECT * FROM batches WHERE id = ?", (batch_id,)).fetchone()
        if row is not None:
            record = _record(row)
            owner = record.caller.token_id
            if caller is None or caller.token_id == owner or caller.may("admin"):
                return record
        raise Problem(
            404, "no-such-batch", f"there is no batch {batch_id!r}; GET /v1/batches lists them"
        )

    def page(
        self, caller: Caller, *, after: str | None, limit: int
    ) -> tuple[list[BatchRecord], bool]:
        """The caller's batches, the newest first, and whether there are more. Raises Problem 404 if
        there is no batch ``after``."""
        place = 2**62
        with self._database.read() as connection:
            if after is not None:
                row = connection.execute(
                    "SELECT place FROM batches WHERE id = ? AND (owner = ? OR ?)",
                    (after, caller.token_id, caller.may("admin")),
                ).fetchone()
                if row is None:
                    raise Problem(404, "no-such-batch", f"after: there is no batch {after!r}")
                place = row["place"]
            rows = connection.execute(
                "SELECT * FROM batches WHERE place < ? AND (owner = ? OR ?) "
                "ORDER BY place DESC LIMIT ?",
                (place, caller.token_id, caller.may("admin"), limit + 1),
            ).fetchall()
        return [_record(row) for row in rows[:limit]], len(rows) > limit

    def active(self) -> list[BatchRecord]:
        """Batches that have not ended, the oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                f"SELECT * FROM batches WHERE status IN ({_marks(ACTIVE)}) ORDER BY place", ACTIVE
            ).fetchall()
        return [_record(row) for row in rows]

    def answered_lines(self, batch_id: str) -> set[int]:
        """Numbers of the lines that have an answer."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT line FROM batch_answers WHERE batch_id = ?", (batch_id,)
            )
            return {row["line"] for row in rows}

    def answers(self, batch_id: str, after: int, limit: int) -> list[LineAnswer]:
        """Answers in the order of their lines, from behind line ``after``."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT * FROM batch_answers WHERE batch_id = ? AND line > ? ORDER BY line LIMIT ?",
                (batch_id, after, limit),
            ).fetchall()
        return [
            LineAnswer(
                line=row["line"],
                custom_id=row["custom_id"],
                status_code=row["status_code"],
                request_id=row["request_id"],
                body=json.loads(row["body"]),
            )
            for row in rows
        ]

    def add_answers(self, answers: Sequence[tuple[str, LineAnswer]]) -> None:
        """Write answers of lines, each with the id of its batch, and count them."""
        with self._database.write() as connection:
            for batch_id, answer in answers:
                connection.execute(
                    "INSERT INTO batch_answers VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        batch_id,
                        answer.line,
                        answer.custom_id,
                        answer.status_code,
                        answer.request_id,
                        json.dumps(answer.body),
                    ),
                )
                column = "completed" if answer.status_code == _OK else "failed"
                connection.execute(
                    f"UPDATE batches SET {column} = {column} + 1 WHERE id = ?", (batch_id,)
                )

    def begin_cancel(self, batch_id: str, by: str) -> None:
        """Note that a batch is to be cancelled. Raises Problem 409 if it has ended."""
        with self._database.write() as connection:
            row = connection.execute("SELECT * FROM batches WHERE id = ?", (batch_id,)).fetchone()
            if row["status"] == "cancelling":
                return
            if row["status"] != "in_progress":
                raise Problem(
                    409,
                    "batch-ended",
                    f"the batch {batch_id} is {row['status']}; only one in progress is cancelled",
                )
            _set_status(connection, row, "cancelling")
            self._audit.append(connection, by, "batch.cancelled", f"batches/{batch_id}", {})

    def begin_finalizing(self, batch_id: str) -> None:
        """Note that all lines of a batch have answers; one being cancelled stays so."""
        with self._database.write() as connection:
            row = connection.execute("SELECT * FROM batches WHERE id = ?", (batch_id,)).fetchone()
            if row["status"] == "in_progress":
                _set_status(connection, row, "finalizing")

    def end(
        self,
        batch_id: str,
        status: Status,
        *,
        output: FileRecord | None = None,
        errors: FileRecord | None = None,
        faults: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """End a batch together with the rows of its files; its answers are in those from now on."""
        with self._database.write() as connection:
            row = connection.execute("SELECT * FROM batches WHERE id = ?", (batch_id,)).fetchone()
            for record in (output, errors):
                if record is not None:
                    insert_file(connection, record)
            connection.execute(
                "UPDATE batches SET has_output = ?, has_errors = ?, failed = ?, errors = ? "
                "WHERE id = ?",
                (
                    output is not None,
                    errors is not None,
                    errors.lines if errors else 0,  # with those that were never asked
                    json.dumps(list(faults)) if faults else None,
                    batch_id,
                ),
            )
            _set_status(connection, row, status)
            connection.execute("DELETE FROM batch_answers WHERE batch_id = ?", (batch_id,))


def _set_status(connection: sqlite3.Connection, row: sqlite3.Row, status: Status) -> None:
    times = json.loads(row["times"]) | {f"{status}_at": int(time.time())}
    connection.execute(
        "UPDATE batches SET status = ?, times = ? WHERE id = ?",
        (status, json.dumps(times), row["id"]),
    )


def _record(row: sqlite3.Row) -> BatchRecord:
    scopes: frozenset[Scope] = frozenset(row["scopes"].split(","))
    plain = ("id", "input_file_id", "output_file_id", "error_file_id", "total", "completed")
    return BatchRecord(
        **{name: row[name] for name in (*plain, "failed", "status", "expires_at")},
        has_output=bool(row["has_output"]),
        has_errors=bool(row["has_errors"]),
        caller=Caller(token_id=row["owner"], name=row["owner_name"], scopes=scopes),
        metadata=None if row["metadata"] is None else json.loads(row["metadata"]),
        times=json.loads(row["times"]),
        errors=None if row["errors"] is None else json.loads(row["errors"]),
    )


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))
