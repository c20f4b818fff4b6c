"""Writer of a batch's answers: those that wait together go to disk in one transaction.

write(answer) -> the first one writes all that wait -> returns once its own is on disk
"""

import asyncio
import sqlite3

from calibrate.service.batches.journal import BatchJournal, LineAnswer
from calibrate.service.state.database import Database


class AnswerWriter:
    """Writes answers from many tasks of one event loop."""

    def __init__(self, database: Database, journal: BatchJournal) -> None:
        self._database, self._journal = database, journal
        self._waiting: list[tuple[tuple[str, LineAnswer], asyncio.Future[None]]] = []
        self._writing = asyncio.Lock()

    async def write(self, batch_id: str, answer: LineAnswer) -> None:
        """Write an answer; it is on disk afterwards. Raises sqlite3.Error: it is not."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(((batch_id, answer), future))
        async with self._writing:
            if not future.done():
                await self._write_waiting()
        await future

    async def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        answers = [answer for answer, _ in waiting]
        failure: sqlite3.Error | None = None
        try:
            await self._database.run(lambda: self._journal.add_answers(answers))
        except sqlite3.Error as error:
            failure = error
        for _, future in waiting:
            if future.done():  # its task has been cancelled
                continue
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(failure)
