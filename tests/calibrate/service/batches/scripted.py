"""A classifier of lines for tests of batches, and a process of batches that may be killed.

python -m tests.calibrate.service.batches.scripted FOLDER   go on with FOLDER's batches to the end
"""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from calibrate.service.batches import files, journal
from calibrate.service.batches.batches import Batches, LineClassifier
from calibrate.service.batches.files import BatchFiles
from calibrate.service.caller import Caller
from calibrate.service.problems import Problem
from calibrate.service.state import audit
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database, Schema

DECISIONS = Schema("decided", ("CREATE TABLE decided (request_id TEXT, path TEXT);",))


class ScriptedLines:
    """Decides each line by its path, and keeps the decision in the database as the service does."""

    def __init__(self, database: Database, *, seconds: float = 0.0) -> None:
        self._database, self._seconds = database, seconds
        self.problems: dict[str, list[Problem]] = {}
        """To raise, by path, one after another."""
        self.errors: dict[str, list[Exception]] = {}
        self.asked: list[str] = []
        self.callers: set[str] = set()
        self.now = self.most = 0
        self.gate: asyncio.Event | None = None

    async def classify(
        self, body: Mapping[str, Any], caller: Caller, request_id: str
    ) -> Mapping[str, Any]:
        path = body["video"]["path"]
        self.asked.append(path)
        self.callers.add(caller.token_id)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(self._seconds)
            for scripted in (self.problems, self.errors):
                if scripted.get(path):
                    raise scripted[path].pop(0)
            await self._database.run(lambda: self._keep(request_id, path))
        finally:
            self.now -= 1
        return {"label": path}

    async def decided(self, request_id: str) -> Mapping[str, Any] | None:
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT path FROM decided WHERE request_id = ?", (request_id,)
            ).fetchone()
        return None if row is None else {"label": row["path"]}

    def _keep(self, request_id: str, path: str) -> None:
        with self._database.write() as connection:
            connection.execute("INSERT INTO decided VALUES (?, ?)", (request_id, path))


def open_database(folder: Path) -> Database:
    return Database.open(
        folder / "s.sqlite", [audit.SCHEMA, files.SCHEMA, journal.SCHEMA, DECISIONS]
    )


@asynccontextmanager
async def running(
    folder: Path, classifier: LineClassifier, database: Database, in_flight: int = 4
) -> AsyncIterator[Batches]:
    """Batches over a folder's state, started; closed at once at the end, as by a second signal."""
    kept = BatchFiles(database, Audit(database), folder / "files", max_bytes=10_000_000)
    batches = Batches(
        database, Audit(database), kept, classifier, in_flight=in_flight, retry_s=0.01
    )
    await batches.start()
    try:
        yield batches
    finally:
        await batches.close()


def num_decided(database: Database) -> tuple[int, int]:
    """Decisions, and requests that have one."""
    with database.read() as connection:
        return tuple(
            connection.execute(
                "SELECT count(*), count(DISTINCT request_id) FROM decided"
            ).fetchone()
        )


async def _go_on(folder: Path) -> None:
    database = open_database(folder)
    classifier = ScriptedLines(database, seconds=0.002)
    async with running(folder, classifier, database):
        while journal.BatchJournal(database, Audit(database)).active():
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    try:
        asyncio.run(_go_on(Path(sys.argv[1])))
    except sqlite3.Error as error:
        sys.exit(f"{error}")
