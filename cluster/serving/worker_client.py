"""Worker client: a loaded classifier as the service sees it; its engines are in another process.

WorkerClient.start -> process, socket -> evidence, many at a time -> answers by number
process ended -> every call that waits raises WorkerDied with the last lines of its log
"""

import asyncio
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from calibrate.decision import Evidence
from calibrate.service.protocols import ClipToClassify
from cluster.serving.messages import answer_of, clip_values, packed, read_message
from wire.errors import ClipError, ConfigError, DeadlineExceeded, GenerationError, WorkerDied
from wire.types import Failure

_STARTER = """
import sys
sys.path.insert(0, sys.argv[2])
from cluster.serving.worker import main
main()
"""
_ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-c", _STARTER)
_END_S = 15.0
_LOG_BYTES = 10 * 2**20
_TAIL_BYTES = 64 * 1024


class WorkerClient:
    """A loaded classifier in a process of its own; an OpenClassifier."""

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        log: Path,
    ) -> None:
        self._name, self._process, self._log = name, process, log
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._death = ""
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        name: str,
        order: Mapping[str, Any],
        log: Path,
        *,
        timeout_s: float,
        command: Sequence[str] = COMMAND,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Start a process with the message ``order``. What it prints goes to the file ``log``.

        Raises ConfigError if the classifier cannot be used, GenerationError if its engines do not
        start, WorkerDied if the process ends, DeadlineExceeded after ``timeout_s``."""
        client = await cls._launch(name, log, command, environment)
        try:
            async with asyncio.timeout(timeout_s):
                client._writer.write(packed(order))
                reply = await read_message(client._reader)
        except (EOFError, ConnectionError, ValueError) as error:
            await client._kill()
            raise WorkerDied(f"the process of {name} ended as it started{client._why()}") from error
        except TimeoutError as error:
            await client._kill()
            raise DeadlineExceeded(
                f"{name} was not ready after {timeout_s:.0f} s; its log is {log}"
            ) from error
        except BaseException:
            await client._kill()
            raise
        if "refused" in reply:
            why = "" if reply["refused"] == "config" else client._why()
            await client._kill()
            kind = ConfigError if reply["refused"] == "config" else GenerationError
            raise kind(f"{reply['reason']}{why}")
        client._reading = asyncio.create_task(client._read(), name=f"answers-of-{name}")
        return client

    @classmethod
    async def _launch(
        cls, name: str, log: Path, command: Sequence[str], environment: Mapping[str, str] | None
    ) -> Self:
        log.parent.mkdir(parents=True, exist_ok=True)
        fresh = log.exists() and log.stat().st_size > _LOG_BYTES
        ours, theirs = socket.socketpair()
        with theirs, log.open("wb" if fresh else "ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                str(_ROOT),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return cls(name, process, reader, writer, log)

    @property
    def pid(self) -> int:
        """Number of its process, which leads a session of its own."""
        return self._process.pid

    async def evidence(self, clip: ClipToClassify, view: str | None = None) -> Evidence | Failure:
        """Evidence about a clip or a view of it. Raises WorkerDied."""
        return answer_of(await self._ask("evidence", clip, view=view))

    async def close(self) -> None:
        """End the process and its engines; if it has died, what is left below it."""
        if not self._death:
            self._lost(f"{self._name} was closed")
            self._writer.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    await self._process.wait()
        await self._kill()

    async def _ask(self, ask: str, clip: ClipToClassify, **more: Any) -> dict[str, Any]:
        if self._death:
            raise WorkerDied(self._death)
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        message = {"id": number, "ask": ask, "clip": clip_values(clip), **more}
        try:
            self._writer.write(packed(message))
            await self._writer.drain()
            reply = await future
        except ConnectionError as error:
            raise WorkerDied(f"the process of {self._name} ended: {error}") from error
        except asyncio.CancelledError:
            if not self._death:
                self._writer.write(packed({"id": number, "ask": "cancel"}))
            raise
        finally:
            self._waiting.pop(number, None)
            future.cancel()
            if not future.cancelled():
                future.exception()  # seen, also where the write failed before
        if "error" in reply:
            raise ClipError(reply["error"])
        return reply

    async def _read(self) -> None:
        try:
            while True:
                reply = await read_message(self._reader)
                future = self._waiting.get(reply["id"])
                if future is not None and not future.done():
                    future.set_result(reply)
        except (EOFError, ConnectionError):
            pass
        except (ValueError, KeyError, json.JSONDecodeError) as error:
            self._lost(f"the process of {self._name} sent nonsense: {error}")
            return
        self._lost(f"the process of {self._name} ended{self._why()}")

    def _lost(self, why: str) -> None:
        """All that wait, and all that come, raise WorkerDied."""
        self._death = self._death or why
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(WorkerDied(self._death))

    async def _kill(self) -> None:
        """Kill the process and all below it, which are in its session."""
        if self._reading is not None:
            self._reading.cancel()
        self._writer.close()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()

    def _why(self) -> str:
        """The last line of its log that names an error."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - _TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        errors = [line.strip() for line in lines if "rror" in line]
        cause = f": {errors[-1][:500]}" if errors else ""
        return f"{cause}; its log is {self._log}"
