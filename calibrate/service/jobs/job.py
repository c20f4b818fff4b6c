"""Job: a fit that was asked for, its state, and the table that keeps it.

    queued -> running -> succeeded | failed | cancelled
                 |  ^
              paused   the service stopped in order; it goes on when the service starts again

A kill of the service leaves ``running``; the next start takes it for ``paused``.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from calibrate.service.jobs.new_fit import NewFit
from calibrate.service.state.database import Schema

State = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "paused", "succeeded", "failed", "cancelled")
ENDED: tuple[State, ...] = ("succeeded", "failed", "cancelled")

SCHEMA = Schema(
    "jobs",
    (
        """
        CREATE TABLE jobs (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            state TEXT NOT NULL,
            watch INTEGER NOT NULL,
            fit TEXT NOT NULL,
            source TEXT NOT NULL,
            created_at TEXT NOT NULL,
            created_by TEXT NOT NULL,
            started_at TEXT,
            ended_at TEXT,
            starts INTEGER NOT NULL DEFAULT 0,
            cancelled_by TEXT,
            error TEXT,
            detail TEXT,
            progress TEXT
        );
        CREATE INDEX jobs_by_state ON jobs (state, number);
        CREATE TABLE job_classifiers (
            job TEXT NOT NULL REFERENCES jobs (id),
            name TEXT NOT NULL,
            version INTEGER NOT NULL,
            proposed INTEGER NOT NULL,
            PRIMARY KEY (job, name)
        );
        """,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClassifier:
    """Classifier that a job has registered."""

    name: str
    """Of the policy's version, in a watcher; else ``classifier``."""
    version: int
    proposed: bool
    """Whether it became the challenger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A fit that was asked for."""

    number: int
    id: str
    state: State
    fit: NewFit
    source: str
    """Path of the run or archive."""
    created_at: str
    created_by: str
    started_at: str | None
    ended_at: str | None
    starts: int
    """Times that its process was started; more than one: it was gone on with."""
    cancelled_by: str | None
    error: str | None
    """Class of the error that it failed with."""
    detail: str | None
    progress: dict[str, Any] | None
    classifiers: tuple[JobClassifier, ...]

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ENDED


def insert(connection: sqlite3.Connection, values: Mapping[str, Any]) -> None:
    """A new job."""
    places = ", ".join(f":{name}" for name in values)
    connection.execute(f"INSERT INTO jobs ({', '.join(values)}) VALUES ({places})", values)


def update(connection: sqlite3.Connection, job_id: str, values: Mapping[str, Any]) -> None:
    """New values of a job."""
    changes = ", ".join(f"{name} = :{name}" for name in values)
    connection.execute(f"UPDATE jobs SET {changes} WHERE id = :id", {**values, "id": job_id})


def find(connection: sqlite3.Connection, job_id: str) -> Job | None:
    """A job; None: there is none."""
    row = connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return None if row is None else _job(connection, row)


def select(
    connection: sqlite3.Connection,
    states: tuple[State, ...] = STATES,
    *,
    watch: bool | None = None,
    before: int | None = None,
    limit: int = -1,
    newest_first: bool = False,
) -> list[Job]:
    """Jobs in some states, the oldest first. ``watch``: only standing ones, or only the others;
    ``before``: only those of lower numbers."""
    where, values = [f"state IN ({', '.join('?' * len(states))})"], [*states]
    if watch is not None:
        where.append(f"watch = {int(watch)}")
    if before is not None:
        where.append(f"number < {int(before)}")
    order = "DESC" if newest_first else "ASC"
    rows = connection.execute(
        f"SELECT * FROM jobs WHERE {' AND '.join(where)} ORDER BY number {order} LIMIT {limit}",
        values,
    ).fetchall()
    return [_job(connection, row) for row in rows]


def add_classifier(connection: sqlite3.Connection, job_id: str, one: JobClassifier) -> None:
    """Note a classifier that a job has registered."""
    connection.execute(
        "INSERT OR REPLACE INTO job_classifiers VALUES (?, ?, ?, ?)",
        (job_id, one.name, one.version, one.proposed),
    )


def _job(connection: sqlite3.Connection, row: sqlite3.Row) -> Job:
    classifiers = connection.execute(
        "SELECT name, version, proposed FROM job_classifiers WHERE job = ? ORDER BY rowid",
        (row["id"],),
    ).fetchall()
    return Job(
        number=row["number"],
        id=row["id"],
        state=row["state"],
        fit=NewFit.model_validate_json(row["fit"]),
        source=row["source"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        starts=row["starts"],
        cancelled_by=row["cancelled_by"],
        error=row["error"],
        detail=row["detail"],
        progress=json.loads(row["progress"]) if row["progress"] else None,
        classifiers=tuple(
            JobClassifier(name=one["name"], version=one["version"], proposed=bool(one["proposed"]))
            for one in classifiers
        ),
    )
