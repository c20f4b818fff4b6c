"""Worker: the process of a loaded classifier, with its engines below it.

    socket -> start message -> open_pipeline -> ready
           -> evidence | cancel, many at a time -> answers as they come
    engine's process ended, or the service's did -> this one ends, and all below it

Started by worker_client.py, in a session of its own: a Ctrl-C in the service's terminal does not
reach it before the service has answered what it accepted.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from calibrate.decision import Evidence
from calibrate.service.protocols import ClipToClassify
from cluster.serving.messages import MAX_BYTES, answer_values, clip_of, packed, read_message
from video.address import Address, View, Window
from wire.errors import DeepIntuitError, GenerationError, UserError
from wire.types import Failure, FailureKind, Sample, Split

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_GRACE_S = 20.0
"""For engines to end after the service has; then they are killed."""


class Answerer(Protocol):
    """What a worker asks: a Pipeline."""

    @property
    def is_alive(self) -> bool:
        """False once the process of one of its engines has ended."""
        ...

    async def evidence(self, sample: Sample, view: View | None = None) -> Evidence | Failure:
        """Evidence about a clip or a view of it. Raises GenerationError if an engine has ended."""
        ...


Opener = Callable[[Mapping[str, Any]], AbstractAsyncContextManager[Answerer]]


def main(opener: Opener | None = None) -> None:
    """Serve on the socket whose number is the first argument."""
    threading.Thread(target=_end_with_service, args=(os.getppid(),), daemon=True).start()
    line = socket.socket(fileno=int(sys.argv[1]))
    asyncio.run(serve(line, opener or open_order))


async def serve(line: socket.socket, opener: Opener) -> None:
    """Open a classifier and answer until the service or an engine has ended."""
    reader, writer = await asyncio.open_unix_connection(sock=line, limit=MAX_BYTES)
    with suppress(EOFError, ConnectionError):
        order = await read_message(reader)
        try:
            async with opener(order) as pipeline:
                writer.write(packed({"ready": True}))
                await _Worker(pipeline, reader, writer).run()
        except (DeepIntuitError, OSError) as error:
            kind = "config" if isinstance(error, UserError) else "engine"
            writer.write(packed({"refused": kind, "reason": str(error)}))
            await writer.drain()
    writer.close()


def sample_of(clip: ClipToClassify) -> Sample:
    """The sample that a pipeline is asked about."""
    window = None if clip.window is None else Window(*clip.window)
    return Sample(
        id=clip.id,
        video=str(Address(path=clip.path, window=window)),
        label="",
        split=Split.TEST,
        text=clip.text,
        extra=dict(clip.columns),
    )


class _Worker:
    """Answers of one pipeline on one line."""

    def __init__(
        self, pipeline: Answerer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._pipeline, self._reader, self._writer = pipeline, reader, writer
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Answer until the other side has ended, or an engine's process."""
        reading = asyncio.create_task(self._read())
        try:
            while not self._ended.is_set() and not reading.done() and self._pipeline.is_alive:
                await asyncio.wait({reading}, timeout=_LOOK_EVERY_S)
        finally:
            tasks = [reading, *self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.close()  # the service knows at once; engines take their time to end

    async def _read(self) -> None:
        while True:
            message = await read_message(self._reader)
            number = message["id"]
            if message["ask"] == "cancel":
                if number in self._tasks:
                    self._tasks[number].cancel()
                continue
            task = self._tasks[number] = asyncio.create_task(self._answer(number, message))
            task.add_done_callback(partial(self._answered, number))

    async def _answer(self, number: int, message: Mapping[str, Any]) -> None:
        try:
            values = await self._values(message)
        except GenerationError:  # an engine's process has ended: so does this one
            self._ended.set()
            return
        except DeepIntuitError as error:
            values = {"error": str(error)}
        self._send(number, values)
        await self._writer.drain()

    def _answered(self, number: int, task: asyncio.Task[None]) -> None:
        """No call is left without an answer, whatever came up."""
        self._tasks.pop(number, None)
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.error("clip %d was not answered", number, exc_info=error)
        failed = Failure(kind=FailureKind.GENERATION, culprit="worker", reason=repr(error))
        self._send(number, answer_values(failed))

    def _send(self, number: int, values: Mapping[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(packed({"id": number, **values}))

    async def _values(self, message: Mapping[str, Any]) -> dict[str, Any]:
        clip = clip_of(message["clip"])
        try:
            sample = sample_of(clip)
        except ValueError as error:  # a window that holds no frame
            failed = Failure(kind=FailureKind.DECODE, culprit=str(clip.path), reason=str(error))
            return answer_values(failed)
        view = View(message["view"]) if message["view"] is not None else None
        return answer_values(await self._pipeline.evidence(sample, view))


def open_order(order: Mapping[str, Any]) -> AbstractAsyncContextManager[Answerer]:
    """The pipeline of a start message, with its engines. Raises UserError, GenerationError."""
    from calibrate.classifier import load_classifier
    from cluster.classify.machine import Machine
    from cluster.classify.open import open_pipeline

    values = order["machine"]
    if order["cpus"]:
        os.sched_setaffinity(0, order["cpus"])
    cache_dir = values["cache_dir"]
    machine = replace(
        Machine(**{**values, "cache_dir": None, "servers": tuple(values["servers"])}),
        cache_dir=None if cache_dir is None else Path(cache_dir),
    )
    classifier = load_classifier(Path(order["directory"]), check_weights="if_newer")
    return open_pipeline(classifier, machine)


def _end_with_service(service: int) -> None:
    """End this process and all below it some time after the service has."""
    while os.getppid() == service:
        time.sleep(1.0)
    time.sleep(_GRACE_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
