"""Audit log of the service: append-only rows, each with the hash of the one before it.

    with database.write() as connection:
        ... the change itself ...
        audit.append(connection, "ada", "classifier.promoted", "classifiers/3", {...})
    audit.verify() -> None, or the first row that was changed, removed or put in

The table's triggers refuse every UPDATE, DELETE and row out of turn. Who can write the file can
drop the triggers: then the chain shows it, unless all hashes after the change were computed anew or
the last rows were cut off. Against both, note ``head`` elsewhere from time to time and give it to
``verify``.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from calibrate.service.state.database import Database, Schema
from wire.strict_json import finite

SCHEMA = Schema(
    "audit",
    (
        """
        CREATE TABLE audit (
            id INTEGER PRIMARY KEY,
            at TEXT NOT NULL,
            actor TEXT NOT NULL,
            action TEXT NOT NULL,
            subject TEXT NOT NULL,
            detail TEXT NOT NULL,
            previous TEXT NOT NULL,
            hash TEXT NOT NULL
        );
        CREATE INDEX audit_by_subject ON audit (subject, id);
        CREATE TRIGGER audit_keeps_rows BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
        CREATE TRIGGER audit_keeps_values BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
        CREATE TRIGGER audit_keeps_order BEFORE INSERT ON audit
        WHEN NEW.id IS NOT (SELECT COALESCE(MAX(id), 0) + 1 FROM audit)
            OR NEW.previous IS NOT COALESCE((SELECT hash FROM audit ORDER BY id DESC LIMIT 1), '')
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only: not the next row'); END;
        """,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """Row of the audit log."""

    id: int
    """1, 2, 3, ... without a gap."""
    at: str
    """UTC."""
    actor: str
    """Name of the token, or of the part of the service, that acted."""
    action: str
    """What was done, such as ``classifier.promoted``."""
    subject: str
    """What it was done to, such as ``classifiers/3``."""
    detail: dict[str, Any]
    previous: str
    """Hash of the row before; empty for the first."""
    hash: str

    def as_json(self) -> dict[str, Any]:
        """Its fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenRow:
    """First row of a log that is not as it was written."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Last row's number and hash: who notes it can later tell that no row up to it was changed."""

    id: int
    """0: the log is empty."""
    hash: str


class Audit:
    """Audit log of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(
        self,
        connection: sqlite3.Connection,
        actor: str,
        action: str,
        subject: str,
        detail: Mapping[str, Any],
    ) -> int:
        """Append a row inside the caller's transaction: it stands if and only if what it tells of
        does. ``detail``: plain values for JSON. Returns the row's number."""
        head = _head(connection)
        row = (
            head.id + 1,
            utc_now(),
            _text(actor),
            action,
            _text(subject),
            json.dumps(finite(dict(detail)), sort_keys=True, allow_nan=False),
            head.hash,
        )
        connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, _hash(row)))
        return row[0]

    def page(
        self,
        *,
        limit: int,
        before: int | None = None,
        actor: str | None = None,
        action: str | None = None,
        subject: str | None = None,
    ) -> list[AuditRow]:
        """Rows from the newest on, those with numbers below ``before``, that meet all
        conditions."""
        wanted = {"actor = ?": actor, "action = ?": action, "subject = ?": subject}
        conditions = {text: value for text, value in wanted.items() if value is not None}
        where = " AND ".join(["id < ?", *conditions])
        first = min(before, _LARGEST) if before is not None else _LARGEST
        with self._database.read() as connection:
            rows = connection.execute(
                f"SELECT * FROM audit WHERE {where} ORDER BY id DESC LIMIT ?",
                (first, *map(_text, conditions.values()), limit),
            ).fetchall()
        return [AuditRow(**{**dict(row), "detail": json.loads(row["detail"])}) for row in rows]

    def head(self) -> Head:
        """Number and hash of the last row."""
        with self._database.read() as connection:
            return _head(connection)

    def verify(self, noted: Head | None = None) -> BrokenRow | None:
        """First row that is not as it was written, or None; reads all rows. ``noted``: a head from
        before, which must still be in the log."""
        previous, place = "", 0
        with self._database.read() as connection:
            for row in connection.execute("SELECT * FROM audit ORDER BY id"):
                place += 1
                reason = _fault(tuple(row), place, previous, noted)
                if reason is not None:
                    return BrokenRow(id=place, reason=reason)
                previous = row["hash"]
        if noted is not None and noted.id > place:
            return BrokenRow(
                id=place + 1, reason=f"the log ends at row {place}; row {noted.id} was noted"
            )
        return None


def utc_now() -> str:
    """The time in UTC, to the millisecond: 2026-11-30T10:30:00.123Z."""
    return utc_text(datetime.now(UTC))


def utc_text(at: datetime) -> str:
    """A time as :func:`utc_now` writes it, so that texts compare as times do."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_LARGEST = 2**63 - 1  # of SQLite's integers


def _head(connection: sqlite3.Connection) -> Head:
    row = connection.execute("SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1").fetchone()
    return Head(id=row["id"], hash=row["hash"]) if row else Head(id=0, hash="")


def _hash(values: Sequence[Any]) -> str:
    """Of all columns but the hash itself."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _fault(row: tuple[Any, ...], place: int, previous: str, noted: Head | None) -> str | None:
    *values, written = row
    for fault in _faults(values, written, place, previous):
        return fault
    if noted is not None and place == noted.id and written != noted.hash:
        return f"its hash is {written[:12]}..., {noted.hash[:12]}... was noted"
    return None


def _faults(values: list[Any], written: str, place: int, previous: str) -> Iterator[str]:
    if values[0] != place:
        yield f"the row is missing; the next one has the number {values[0]}"
    if values[6] != previous:
        yield "it does not follow from the row before it"
    if _hash(values) != written:
        yield "its values are not those that were hashed"


def _text(value: str) -> str:
    """Text that SQLite takes: names of files may hold bytes that are no UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
