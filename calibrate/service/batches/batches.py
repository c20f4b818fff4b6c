"""Batches: files of requests, asked beside interactive ones and answered into files.

    create -> lines, in turn with those of other batches -> a free place -> answer -> journal
           -> all answered, cancelled or expired -> output file, error file -> ended

    waits                        for
    a line                       a place among the lines that are asked at a time, then for
                                 interactive requests: those come first in the queue
    a line refused with 429, 503 as long as Retry-After says, then it is asked again
    a paused batch               the next start of the service

After a kill the lines without an answer in the journal are asked again; a decision that was on disk
already is taken from there, so that no line has two.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from typing import Any, Protocol

from calibrate.service.batches.answer_writer import AnswerWriter
from calibrate.service.batches.files import BatchFiles, FileRecord, new_file_id
from calibrate.service.batches.journal import BatchJournal, BatchRecord, LineAnswer, Status
from calibrate.service.batches.lines import BadLine, BatchLine, numbered_lines, parse_line
from calibrate.service.batches.output import request_id_of, write_answers, write_errors
from calibrate.service.caller import Caller
from calibrate.service.problems import Problem
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database
from wire.errors import root_causes

_log = logging.getLogger(__name__)
_TRY_AGAIN_S = 1.0
_DISK_S = 10.0
_CHUNK = 200


class LineClassifier(Protocol):
    """Classifies the clip of one line as ``POST /v1/classify`` does, behind those in its queue."""

    async def classify(
        self, body: Mapping[str, Any], caller: Caller, request_id: str
    ) -> Mapping[str, Any]:
        """The decision, on disk under the request's id. Raises Problem."""
        ...

    async def decided(self, request_id: str) -> Mapping[str, Any] | None:
        """The decision that an earlier process took for the request; None: there is none."""
        ...


class Batches:
    """Runs all batches of the service."""

    def __init__(
        self,
        database: Database,
        audit: Audit,
        files: BatchFiles,
        classifier: LineClassifier,
        *,
        in_flight: int,
        retry_s: float = _TRY_AGAIN_S,
    ) -> None:
        """``in_flight``: lines of all batches that are asked at a time; ``retry_s``: wait before a
        refused line is asked again, where the refusal does not say."""
        self.files = files
        self._database, self._classifier, self._retry_s = database, classifier, retry_s
        self._journal = BatchJournal(database, audit)
        self._writer = AnswerWriter(database, self._journal)
        self._places = asyncio.Semaphore(in_flight)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopped: set[str] = set()
        self._pausing = asyncio.Event()

    async def start(self) -> None:
        """Go on with the batches that an earlier process left."""
        await self._database.run(self.files.remove_left_over)
        for batch in await self._database.run(self._journal.active):
            self._begin(batch, resumed=True)

    async def create(
        self, file_id: str, caller: Caller, metadata: dict[str, str] | None
    ) -> BatchRecord:
        """A new batch over an uploaded file. Raises Problem 404, 400, or 503 while the service
        ends."""
        if self._pausing.is_set():
            raise Problem(503, "draining", "the service ends", headers={"Retry-After": "5"})
        file = await self._database.run(lambda: self.files.get(file_id, caller))
        if file.purpose != "batch":
            raise Problem(
                400, "not-an-input", f"{file_id} is an output; upload requests with purpose=batch"
            )
        new_ids = (new_file_id(), new_file_id())
        batch = await self._database.run(
            lambda: self._journal.insert(file, caller, metadata, new_ids)
        )
        self._begin(batch, resumed=False)
        return batch

    async def get(self, batch_id: str, caller: Caller) -> BatchRecord:
        """A batch of the caller's. Raises Problem 404."""
        return await self._database.run(lambda: self._journal.get(batch_id, caller))

    async def page(
        self, caller: Caller, *, after: str | None, limit: int
    ) -> tuple[list[BatchRecord], bool]:
        """The caller's batches, the newest first, and whether there are more."""
        return await self._database.run(
            lambda: self._journal.page(caller, after=after, limit=limit)
        )

    async def cancel(self, batch_id: str, caller: Caller) -> BatchRecord:
        """Cancel a batch: lines that are being asked are still answered, into its output. Raises
        Problem 404, 409 if it has ended."""
        batch = await self.get(batch_id, caller)
        await self._database.run(lambda: self._journal.begin_cancel(batch.id, caller.name))
        self._stopped.add(batch.id)
        return await self.get(batch_id, caller)

    async def pause(self) -> None:
        """Take up no more lines, and wait for those that are being asked; the next start goes
        on."""
        self._pausing.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def close(self) -> None:
        """End at once; lines that are being asked are asked again by the next start."""
        self._pausing.set()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _begin(self, batch: BatchRecord, *, resumed: bool) -> None:
        if batch.status == "cancelling":
            self._stopped.add(batch.id)
        task = asyncio.create_task(self._run(batch, resumed), name=batch.id)
        self._tasks[batch.id] = task
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task.get_name()]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error(
                "batch %s stands still until the next start", task.get_name(), exc_info=error
            )

    async def _run(self, batch: BatchRecord, resumed: bool) -> None:
        """Run a batch to its end, or until the service pauses. A full disk is waited for."""
        while not self._pausing.is_set():
            try:
                await self._ask_lines(batch, resumed)
                if not self._pausing.is_set():
                    await self._end(batch)
                    self._stopped.discard(batch.id)
                return
            except BadLine as error:
                await self._fail(batch, asdict(error.fault))
                return
            except FileNotFoundError:
                fault = {"code": "no_input_file", "message": "the input file is gone", "line": None}
                await self._fail(batch, {**fault, "param": "input_file_id"})
                return
            except (OSError, sqlite3.Error) as error:
                _log.warning("batch %s waits %.0f s: %s", batch.id, _DISK_S, error)
                resumed = True
                await self._sleep(_DISK_S)

    def _goes_on(self, batch: BatchRecord) -> bool:
        expired = time.time() >= batch.expires_at
        return not (self._pausing.is_set() or expired or batch.id in self._stopped)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until the service pauses."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._pausing.wait()

    async def _ask_lines(self, batch: BatchRecord, resumed: bool) -> None:
        """Ask all lines that have no answer, as long as the batch goes on."""
        answered = await self._database.run(lambda: self._journal.answered_lines(batch.id))
        lines = self._lines(batch, answered)
        try:
            async with asyncio.TaskGroup() as asked:
                while chunk := await asyncio.to_thread(lambda: list(islice(lines, _CHUNK))):
                    for line in chunk:
                        await self._places.acquire()
                        if not self._goes_on(batch):
                            self._places.release()
                            return
                        asked.create_task(self._ask_in_place(batch, line, resumed))
        except BaseExceptionGroup as group:
            raise root_causes(group)[0] from group
        finally:
            lines.close()

    def _lines(self, batch: BatchRecord, answered: set[int]) -> Generator[BatchLine]:
        """Lines of a batch that have no answer. Raises BadLine, OSError."""
        for number, raw in numbered_lines(self.files.path_of(batch.input_file_id)):
            if number not in answered:
                yield parse_line(number, raw)

    async def _ask_in_place(self, batch: BatchRecord, line: BatchLine, resumed: bool) -> None:
        try:
            answer = await self._ask(batch, line, resumed)
            if answer is not None:
                await self._writer.write(batch.id, answer)
        finally:
            self._places.release()

    async def _ask(self, batch: BatchRecord, line: BatchLine, resumed: bool) -> LineAnswer | None:
        """The answer to a line; None if the batch stopped before there was one."""
        request_id = request_id_of(batch.id, line.number)
        if resumed and (body := await self._classifier.decided(request_id)) is not None:
            return _answer(line, request_id, 200, body)
        while self._goes_on(batch):
            try:
                body = await self._classifier.classify(line.body, batch.caller, request_id)
                return _answer(line, request_id, 200, body)
            except Problem as problem:
                if problem.status not in (429, 503):
                    return _answer(line, request_id, problem.status, problem.as_json())
                await self._sleep(_retry_after(problem, self._retry_s))
            except sqlite3.OperationalError:
                raise  # the disk is full, say: the batch waits
            except Exception:  # noqa: BLE001  a bug of ours ends one line, not the batch
                _log.exception("line %d of batch %s", line.number, batch.id)
                bug = Problem(500, "internal-error", "an error of the service; see its log")
                return _answer(line, request_id, 500, bug.as_json())
        return None

    async def _end(self, batch: BatchRecord) -> None:
        """Write the files of a batch that takes up no more lines, and end it."""
        answered = await self._database.run(lambda: self._journal.answered_lines(batch.id))
        status: Status = "completed"
        if len(answered) < batch.total:
            status = "cancelled" if batch.id in self._stopped else "expired"
        else:
            await self._database.run(lambda: self._journal.begin_finalizing(batch.id))
        expired = self._lines(batch, answered) if status == "expired" else iter(())
        await self._database.run(lambda: self._write_files(batch, status, expired))

    def _write_files(
        self, batch: BatchRecord, status: Status, expired: Iterator[BatchLine]
    ) -> None:
        owner = batch.caller.token_id
        output = self.files.write_output(
            batch.output_file_id,
            f"{batch.id}_output.jsonl",
            owner,
            lambda path: write_answers(self._journal, batch.id, path),
        )
        errors = self.files.write_output(
            batch.error_file_id,
            f"{batch.id}_error.jsonl",
            owner,
            lambda path: write_errors(self._journal, batch.id, path, expired),
        )
        self._journal.end(
            batch.id, status, output=_kept(self.files, output), errors=_kept(self.files, errors)
        )

    async def _fail(self, batch: BatchRecord, fault: Mapping[str, Any]) -> None:
        await self._database.run(lambda: self._journal.end(batch.id, "failed", faults=[fault]))


def _answer(
    line: BatchLine, request_id: str, status_code: int, body: Mapping[str, Any]
) -> LineAnswer:
    return LineAnswer(
        line=line.number,
        custom_id=line.custom_id,
        status_code=status_code,
        request_id=request_id,
        body=body,
    )


def _kept(files: BatchFiles, record: FileRecord) -> FileRecord | None:
    """A file with lines; one without is removed."""
    if record.lines:
        return record
    files.path_of(record.id).unlink(missing_ok=True)
    return None


def _retry_after(problem: Problem, default: float) -> float:
    with suppress(KeyError, ValueError):
        return min(60.0, max(0.0, float(problem.headers["Retry-After"])))
    return default
