"""Process of a fit as the service sees it: started, listened to, and stopped with all below it.

    command SPEC.json -> FitProcess -> messages, exit status
        stdin   held open by the service, so that the process ends when the service does
        stderr  the job's log

A fit starts processes of its own (a local Ray, learner ranks). All bear a mark in their
environment, by which also those are found that an earlier service has left behind.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from calibrate.service.jobs.fit_spec import Failed, Phase, Published, read_message

MARK = "DEEPINTUIT_FIT"
"""Environment variable that holds the path of the specification."""
_LONGEST_LINE = 2**20
_KILL_S = 10.0
_LOOK_S = 0.02


class FitProcess:
    """Process of a fit, and those below it."""

    def __init__(self, process: asyncio.subprocess.Process, spec: Path) -> None:
        self._process, self._spec = process, spec

    @classmethod
    async def start(
        cls, command: Sequence[str], spec: Path, log: Path, environment: Mapping[str, str]
    ) -> "FitProcess":
        """Start ``command SPEC``; its other output is appended to ``log``."""
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(spec),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment, MARK: str(spec)},
                start_new_session=True,
                limit=_LONGEST_LINE,
            )
        return cls(process, spec)

    async def messages(self) -> AsyncIterator[Phase | Published | Failed]:
        """What it says, until it ends."""
        assert self._process.stdout is not None, "it is a pipe"
        while line := await self._process.stdout.readline():
            if (message := read_message(line)) is not None:
                yield message

    async def wait(self) -> int:
        """Its exit status, once it has ended with all that it started."""
        status = await self._process.wait()
        await asyncio.to_thread(kill_fit, self._spec)
        return status

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, and after ``grace_s`` seconds kill it; returns when it has ended with all
        that it started."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), grace_s)
        await asyncio.to_thread(kill_fit, self._spec)
        await self._process.wait()


def kill_fit(spec: Path) -> None:
    """Kill what is left of the processes of a fit; returns when they have ended."""
    end = time.monotonic() + _KILL_S
    while (processes := list(_marked(str(spec)))) and time.monotonic() < end:
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(_LOOK_S)


def _marked(mark: str) -> Iterator[psutil.Process]:
    """Processes with a mark; one that has ended, and waits for its parent to know, has none."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                yield process
