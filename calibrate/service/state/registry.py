"""Registry of classifiers: immutable integer versions, and the aliases that move between them.

    register DIRECTORY -> version N           (the same classifier again -> the same N)
    champion    answers, unless a request names another version
    challenger  is proposed in its place
    previous    was champion before; roll_back exchanges the two

Every change is one transaction with its row in the audit log. A kill at any moment leaves the state
before a change or after it; ``Registry(...)`` removes half-made folders. One process at a time may
have the registry of a state directory open.
"""

import asyncio
import json
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibrate.classifier import Classifier, load_classifier
from calibrate.service.problems import Problem
from calibrate.service.state.audit import Audit, utc_now
from calibrate.service.state.classifier_folders import remove_unregistered, take_up
from calibrate.service.state.database import Database, Schema
from calibrate.service.state.registered import RegisteredClassifier, registered_values

SCHEMA = Schema(
    "registry",
    (
        """
        CREATE TABLE classifiers (
            version INTEGER PRIMARY KEY,
            hash TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL,
            method TEXT NOT NULL,
            policy_version TEXT NOT NULL,
            label_names TEXT NOT NULL,
            figures TEXT NOT NULL,
            source TEXT NOT NULL,
            created_at TEXT NOT NULL,
            created_by TEXT NOT NULL
        );
        CREATE TRIGGER classifiers_keep_rows BEFORE DELETE ON classifiers
        BEGIN SELECT RAISE(ABORT, 'versions of classifiers are immutable'); END;
        CREATE TRIGGER classifiers_keep_values BEFORE UPDATE ON classifiers
        BEGIN SELECT RAISE(ABORT, 'versions of classifiers are immutable'); END;
        CREATE TABLE aliases (
            name TEXT PRIMARY KEY CHECK (name IN ('champion', 'challenger', 'previous')),
            version INTEGER NOT NULL REFERENCES classifiers (version)
        );
        """,
    ),
)

ALIASES = ("champion", "challenger", "previous")
_LARGEST = 2**63 - 1  # of SQLite's integers


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Promotion or roll-back: the aliases after it."""

    champion: int
    previous: int | None
    challenger: int | None
    at: str
    by: str
    reason: str
    audit_id: int | None
    """Row of the audit log; None: the version was champion already, so nothing was changed."""

    def as_json(self) -> dict[str, Any]:
        """Its fields by name."""
        return asdict(self)


class Registry:
    """Registry of a database and of a folder of classifiers."""

    def __init__(self, database: Database, audit: Audit, folder: Path) -> None:
        self._database, self._audit, self._folder = database, audit, folder
        self._registering = threading.Lock()
        self.turn = asyncio.Lock()
        """For coroutines that register in a thread: who waits for another holds none."""
        self._loaded: dict[int, RegisteredClassifier] = {}
        folder.mkdir(parents=True, exist_ok=True)
        remove_unregistered(folder, {one.version for one in self.list()})

    def register(self, directory: Path, *, source: str, by: str) -> RegisteredClassifier:
        """Register a published classifier, or the one that a run published: all its bytes are
        checked, and those of small files copied. Takes as long as reading its weights does.

        Raises DataError if it is none, or is damaged, DiskFull; then nothing is registered.
        """
        with self._registering:
            published = load_classifier(directory, check_weights=False)
            known = self.list()
            same = next((one for one in known if one.hash == published.version), None)
            if same is not None:
                return same
            version = 1 + max((one.version for one in known), default=0)
            taken = take_up(published, self._folder / str(version))
            try:
                self._insert(version, taken, source, by)
            except BaseException:
                shutil.rmtree(taken.path)
                raise
        return self.get(version)

    def register_made(
        self, make: Callable[[Path], object], *, source: str, by: str
    ) -> RegisteredClassifier:
        """Register a classifier that ``make`` publishes as the folder that it is given, which goes
        afterwards. Raises what it raises, and as ``register``."""
        with tempfile.TemporaryDirectory(dir=self._folder.parent, prefix="made-") as made:
            out = Path(made) / "classifier"
            make(out)
            return self.register(out, source=source, by=by)

    def get(self, ref: str | int) -> RegisteredClassifier:
        """Classifier of a version's number or an alias. Raises Problem 404."""
        text = str(ref)
        if text in ALIASES:
            version = self.aliases().get(text)
            if version is None:
                raise Problem(
                    404,
                    "no-such-classifier",
                    f"no classifier is {text}; register one (POST /v1/classifiers) and "
                    f"{'propose' if text == 'challenger' else 'promote'} it",
                )
        else:
            version = _number(text)
        if version in self._loaded:
            return self._loaded[version]
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT * FROM classifiers WHERE version = ?", (version,)
            ).fetchone()
        if row is None:
            raise _no_such(text)
        return self._known(row)

    def list(self) -> tuple[RegisteredClassifier, ...]:
        """All versions, from the first on."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT * FROM classifiers ORDER BY version").fetchall()
        return tuple(self._known(row) for row in rows)

    def aliases(self) -> dict[str, int]:
        """Version of each alias that is set."""
        with self._database.read() as connection:
            return _aliases(connection)

    def promote(
        self, version: int, *, by: str, expected_champion: int | None, reason: str
    ) -> Promotion:
        """Make a version champion; the champion becomes previous. ``expected_champion``: refuse
        unless this one is champion now; None: whichever it is. Raises Problem 404 for an unknown
        version, 409 for another champion."""
        self.get(version)
        with self._database.write() as connection:
            before = _aliases(connection)
            champion = before.get("champion")
            if champion == version:
                return _promotion(before, by, reason, audit_id=None)
            _refuse_other(champion, expected_champion)
            after = {**before, "champion": version}
            if champion is not None:
                after["previous"] = champion
            if before.get("challenger") == version:
                del after["challenger"]
            return self._move(connection, before, after, by, reason, "classifier.promoted")

    def roll_back(self, *, by: str, reason: str, expected_champion: int | None = None) -> Promotion:
        """Exchange champion and previous; a second time takes it back, unless ``expected_champion``
        names who is champion before the first. Raises Problem 409 for another champion, or without
        a previous one."""
        with self._database.write() as connection:
            before = _aliases(connection)
            if "previous" not in before:
                raise Problem(
                    409,
                    "no-previous-champion",
                    "there is no champion from before to roll back to; promote a version",
                )
            _refuse_other(before["champion"], expected_champion)
            after = {
                **before,
                "champion": before["previous"],
                "previous": before["champion"],
            }
            if before.get("challenger") == after["champion"]:
                del after["challenger"]
            return self._move(connection, before, after, by, reason, "classifier.rolled_back")

    def set_challenger(self, version: int | None, *, by: str) -> dict[str, int]:
        """Propose a version as challenger, or none. Returns the aliases after it. Raises Problem
        404 for an unknown version, 409 for the champion."""
        if version is not None:
            self.get(version)
        with self._database.write() as connection:
            before = _aliases(connection)
            if version is not None and before.get("champion") == version:
                raise Problem(
                    409, "already-champion", f"version {version} is champion; propose another"
                )
            after = {name: value for name, value in before.items() if name != "challenger"}
            if version is not None:
                after["challenger"] = version
            if after != before:
                action = "challenger.removed" if version is None else "challenger.proposed"
                self._write(connection, before, after, by, action, {})
        return after

    def _insert(self, version: int, taken: Classifier, source: str, by: str) -> None:
        row = {
            "version": version,
            **registered_values(taken),
            "source": source,
            "created_at": utc_now(),
            "created_by": by,
        }
        places = ", ".join(f":{name}" for name in row)
        with self._database.write() as connection:
            connection.execute(f"INSERT INTO classifiers ({', '.join(row)}) VALUES ({places})", row)
            detail = {name: row[name] for name in ("hash", "name", "method", "source")}
            self._audit.append(
                connection, by, "classifier.registered", f"classifiers/{version}", detail
            )

    def _move(
        self,
        connection: sqlite3.Connection,
        before: dict[str, int],
        after: dict[str, int],
        by: str,
        reason: str,
        action: str,
    ) -> Promotion:
        audit_id = self._write(connection, before, after, by, action, {"reason": reason})
        return _promotion(after, by, reason, audit_id)

    def _write(
        self,
        connection: sqlite3.Connection,
        before: dict[str, int],
        after: dict[str, int],
        by: str,
        action: str,
        detail: dict[str, Any],
    ) -> int:
        """Write the aliases and their row of the audit log."""
        connection.execute("DELETE FROM aliases")
        connection.executemany("INSERT INTO aliases VALUES (?, ?)", after.items())
        subject = after.get("challenger" if action.startswith("challenger") else "champion")
        return self._audit.append(
            connection,
            by,
            action,
            f"classifiers/{subject or before.get('challenger')}",
            {**detail, "before": before, "after": after},
        )

    def _known(self, row: sqlite3.Row) -> RegisteredClassifier:
        """The one object of a version, so that its calibration is read once."""
        version = row["version"]
        if version not in self._loaded:
            values = {
                **dict(row),
                "path": self._folder / str(version),
                "label_names": tuple(json.loads(row["label_names"])),
                "figures": json.loads(row["figures"]),
            }
            self._loaded.setdefault(version, RegisteredClassifier(**values))
        return self._loaded[version]


def _aliases(connection: sqlite3.Connection) -> dict[str, int]:
    rows = connection.execute("SELECT name, version FROM aliases").fetchall()
    return {row["name"]: row["version"] for row in rows}


def _refuse_other(champion: int | None, expected: int | None) -> None:
    """Raise Problem unless the champion is the expected one, or any will do."""
    if expected is not None and champion != expected:
        raise Problem(
            409,
            "champion-changed",
            f"the champion is {champion}, expected {expected}: another change came first; look at "
            "the champion of now, and send it again with that",
            extra={"champion": champion},
        )


def _promotion(aliases: dict[str, int], by: str, reason: str, audit_id: int | None) -> Promotion:
    return Promotion(
        champion=aliases["champion"],
        previous=aliases.get("previous"),
        challenger=aliases.get("challenger"),
        at=utc_now(),
        by=by,
        reason=reason,
        audit_id=audit_id,
    )


def _number(text: str) -> int:
    """Version of a text. Raises Problem 404 for anything that can be none."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) <= _LARGEST):
        raise _no_such(text)
    return int(text)


def _no_such(ref: str) -> Problem:
    return Problem(
        404,
        "no-such-classifier",
        f"there is no classifier {ref[:80]!r}; give a version's number, or one of "
        f"{', '.join(ALIASES)} (GET /v1/classifiers lists them)",
    )
