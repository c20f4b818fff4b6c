"""Watchdog of a training: when no step ends for long, the stacks of all processes go to the run
directory, and the run waits on or ends.

    steps so far, every interval_s -> unchanged for stall_timeout_s -> stalls/TIME-STAGE.txt
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cluster.actors.deadlines import open_waits
from cluster.actors.stack_dumps import stacks_of_run
from cluster.config.fleet import WatchdogConfig
from cluster.metrics.events import Events
from wire.errors import DeadlineExceeded
from wire.whole_file import whole_file

T = TypeVar("T")

FOLDER = "stalls"
_MOST_FILES = 20

log = logging.getLogger(__name__)


class Watchdog:
    """Watches one stage at a time."""

    def __init__(
        self,
        config: WatchdogConfig,
        run_dir: Path,
        events: Events,
        *,
        dump: Callable[[], Awaitable[str]] = stacks_of_run,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``dump``: the stacks of all processes, as text."""
        self._config, self._folder, self._events = config, run_dir / FOLDER, events
        self._dump, self._clock, self._sleep = dump, clock, sleep

    async def guard(self, stage: str, work: Awaitable[T], progress: Callable[[], int]) -> T:
        """Do a stage's work. ``progress``: changes with every step. Raises DeadlineExceeded where
        the recipe ends a run that stalls."""
        working = asyncio.ensure_future(work)
        watching = asyncio.create_task(self._watch(stage, progress), name="watchdog")
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            watching.result()  # raises
            raise AssertionError("a watchdog ends with an error alone")
        finally:
            for task in (watching, working):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def _watch(self, stage: str, progress: Callable[[], int]) -> None:
        last, since = progress(), self._clock()
        while True:
            await self._sleep(self._config.interval_s)
            if (now := progress()) != last:
                last, since = now, self._clock()
            elif self._clock() - since >= self._config.stall_timeout_s:
                await self._stalled(stage)
                since = self._clock()

    async def _stalled(self, stage: str) -> None:
        after, waits = self._config.stall_timeout_s, open_waits()
        who = (
            "; ".join(f"{what} ({seconds:.0f} s)" for what, seconds in waits[:5]) or "nobody named"
        )
        path = self._folder / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{stage}.txt"
        stacks = await self._dump()
        text = f"no step of {stage} ended for {after:g} s; waiting for: {who}"
        with suppress(OSError):  # a full disk must not end what may go on
            self._folder.mkdir(exist_ok=True)
            with whole_file(path) as file:
                file.write_text(f"{text}\n\n{stacks}\n")
            for old in sorted(self._folder.glob("*.txt"))[:-_MOST_FILES]:
                old.unlink()
        self._events.note("stalled", stage, who=[what for what, _ in waits[:5]], file=path.name)
        log.warning("%s; stacks of all processes: %s", text, path)
        if self._config.stall_action == "end":
            raise DeadlineExceeded(
                f"{text}; stacks of all processes are in {path}; --resume goes on from the last "
                "checkpoint (watchdog.stall_action = 'end')"
            )
