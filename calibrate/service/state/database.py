"""Database of the service: one SQLite file in WAL mode, with one writer at a time.

    parts declare a Schema each -> Database.open creates and migrates
    async: await database.run(call), where call uses database.write() or database.read()

What ``write`` has left is on disk (synchronous=FULL) before it returns: a kill at any moment loses
nothing that a client was told.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from wire.disk import naming_full_disk
from wire.errors import DataError

T = TypeVar("T")
_BUSY_S = 30.0


@dataclass(frozen=True, slots=True)
class Schema:
    """Tables of one part: ``versions`` are scripts, each applied once and never changed after a
    release; a change of the tables is one more script."""

    name: str
    versions: tuple[str, ...]


class Database:
    """SQLite file of the service; safe to use from threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: list[sqlite3.Connection] = []
        self._writer = self._connect()
        self._lock = threading.Lock()
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="state")

    @classmethod
    def open(cls, path: Path, schemas: Sequence[Schema]) -> Self:
        """Open or make the file, and bring all tables to their newest version. Raises DataError if
        a later version of this program wrote it, or it is no database."""
        try:
            database = cls(path)
            for schema in schemas:
                database._migrate(schema)
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path} cannot be used as the service's state: {error}") from error
        return database

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on disk after the block, or, if it raises, none. Raises
        DiskFull if there is no room for it."""
        with self._lock, naming_full_disk(self.path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # a full disk ends it
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A consistent view, beside a writer."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        connection.execute("BEGIN")
        try:
            yield connection
        finally:
            connection.execute("ROLLBACK")

    async def run(self, call: Callable[[], T]) -> T:
        """Result of a call that reads or writes, made in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """Wait for calls that go on, and close the file: in every thread that has read it."""
        self._pool.shutdown(wait=True)
        for connection in self._open:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {setting}")
        self._open.append(connection)
        return connection

    def _migrate(self, schema: Schema) -> None:
        with self.write() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_versions "
                "(name TEXT PRIMARY KEY, version INTEGER)"
            )
            row = connection.execute(
                "SELECT version FROM schema_versions WHERE name = ?", (schema.name,)
            ).fetchone()
            done = row["version"] if row else 0
            if done > len(schema.versions):
                raise DataError(
                    f"{self.path}: its table {schema.name} has version {done}, this program knows "
                    f"{len(schema.versions)}; a later version wrote it, use that one"
                )
            for script in schema.versions[done:]:
                for statement in _statements(script):
                    connection.execute(statement)
            connection.execute(
                "INSERT OR REPLACE INTO schema_versions VALUES (?, ?)",
                (schema.name, len(schema.versions)),
            )


def _statements(script: str) -> Iterator[str]:
    """Statements of a script; ``executescript`` would commit on its own."""
    part = ""
    for line in script.splitlines(keepends=True):
        part += line
        if sqlite3.complete_statement(part):
            yield part
            part = ""
    if part.strip():
        yield part
