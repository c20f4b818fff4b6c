"""Runs one user reward function in processes of its own: asks, times, kills and replaces them.

    score(group) -> worker thread -> pipe -> guard + worker process -> the user's function
                                  <- a value per trace, or what went wrong

The event loop never waits on a pipe: one thread per process does, and it alone starts, asks and
discards that process. A function that hangs, dies, raises or returns nonsense gives a Failure,
never a zero, and the next question goes to a fresh process. This isolates from faults. It is not a
security sandbox: a function may read, write and connect as the run itself may.

Who is to blame for what:

    verl, sync     the trace that was being judged; those after it are asked of a fresh process
    verl, async    late: every trace without an answer; dead: each of those is asked again, alone
    TRL, and the   raised, late or dead: each trace of the group is asked once more, alone, so that
    verl of lists  one bad trace does not fail its group. A list of the wrong length or type fails
                   the group: nobody can say which reward is whose.
"""

import asyncio
import json
import math
import queue
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from reward.config import RewardTerm
from reward.plugins.call_figures import CallFigures
from reward.plugins.child import SCRIBBLED, START_TIMEOUT_S, Broken, Child
from reward.plugins.question import Question
from reward.plugins.signature import Signature
from reward.spec import locate
from wire.errors import ConfigError
from wire.types import Failure, FailureKind

_MAX_REASON_CHARS = 500
_MAX_SETTINGS_BYTES = 100_000  # Linux starts no process with an argument of 128 kB


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A function's result for one trace.

    Example:
        Value(value=0.5, extras={"num_words": 40.0})
    """

    value: float | None
    """None: the function does not apply to this trace."""
    extras: Mapping[str, float] = field(default_factory=dict)
    """Further numbers that it returned, to be archived and logged."""


@dataclass(slots=True)
class _Slot:
    """Place of one process, used by one thread at a time."""

    child: Child | None = None


class PluginRunner:
    """Asks one user function, a group at a time."""

    def __init__(self, term: RewardTerm, columns: Collection[str] | None = None) -> None:
        """``term`` names a function, and is the culprit of its failures; ``columns``: the
        manifest's further ones, if known. Raises ConfigError if there is no such file."""
        self._part, self._timeout_s = term.part, term.timeout_s
        self._settings = {
            "spec": locate(term.function),
            "params": term.params,
            "style": term.style,
            "as_messages": term.completion_format == "messages",
            "columns": None if columns is None else sorted(columns),
            "memory_mb": term.memory_mb,
            "max_processes": term.max_processes,
        }
        size = len(json.dumps(self._settings, default=str))
        if size > _MAX_SETTINGS_BYTES:
            raise ConfigError(
                f"reward {term.function!r}: its params are {size // 1000} kB as JSON, expected at "
                f"most {_MAX_SETTINGS_BYTES // 1000}; put them in a file and give its path in "
                "params"
            )
        self._slots = [_Slot() for _ in range(term.concurrency)]
        self._idle: queue.LifoQueue[_Slot] = queue.LifoQueue()
        for slot in self._slots:
            self._idle.put(slot)
        self._threads = ThreadPoolExecutor(
            max_workers=term.concurrency, thread_name_prefix=f"reward-{term.part}"
        )
        self._lock = threading.Lock()
        self._is_closed = False
        self.signature: Signature | None = None
        """What the function takes; None before :meth:`start`."""
        self.figures = CallFigures()
        """Of the calls, until they are taken."""

    async def start(self) -> None:
        """Start a process and load the function. Raises ConfigError if it cannot be loaded."""
        await self._in_thread(self._start_one)

    async def score(self, question: Question) -> list[Value | Failure]:
        """The function's value of each trace of the group, in their order; or the failure."""
        count = len(question.traces)
        is_batched = self.signature is not None and self.signature.is_batched
        size = count if is_batched else math.ceil(count / len(self._slots))
        parts = [range(k, min(k + size, count)) for k in range(0, count, max(size, 1))]
        answers = await asyncio.gather(*[self._in_thread(self._ask, question, p) for p in parts])
        return [
            answer[index] for part, answer in zip(parts, answers, strict=True) for index in part
        ]

    def take_figures(self) -> dict[str, float]:
        """Figures since the last call (reward/plugins/call_figures.py)."""
        return self.figures.take().summary()

    async def close(self) -> None:
        """End the processes, also in the middle of a call. The runner cannot be used afterwards."""
        with self._lock:
            self._is_closed = True
            running = [slot.child for slot in self._slots if slot.child]
        for child in running:
            child.hang_up()  # only the word: a thread may be reading from the pipe
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        for slot in self._slots:
            await asyncio.to_thread(_discard, slot)

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._with_slot, function, arguments)

    def _with_slot(self, function: Any, arguments: Sequence[Any]) -> Any:
        slot = self._idle.get()  # never waits: as many threads as slots
        try:
            return function(slot, *arguments)
        finally:
            self._idle.put(slot)

    def _start_one(self, slot: _Slot) -> Child:
        """The slot's process, ready. Raises ConfigError if the function cannot be loaded."""
        if slot.child is not None and slot.child.is_waiting():
            return slot.child
        if slot.child is not None:  # it ended, or went wild, between two questions
            self._lose(slot)
        with self._lock:
            if self._is_closed:
                raise ConfigError("the scorer was closed")
            child = slot.child = Child(self._settings)
            self.figures.num_started += 1
        try:
            child.ready(START_TIMEOUT_S)
        except Broken as broken:
            _discard(slot)
            output = f": {broken.output.strip()}" if broken.output.strip() else ""
            raise ConfigError(
                f"reward {self._settings['spec']!r} could not be imported: {broken}; "
                f"mend what it does on import{output}"
            ) from broken
        except ConfigError:
            _discard(slot)
            raise
        self.signature = child.signature
        return child

    def _ask(
        self, slot: _Slot, question: Question, indices: Sequence[int]
    ) -> dict[int, Value | Failure]:
        """Values of all traces. Each round settles a trace, or leaves smaller rounds."""
        settled: dict[int, Value | Failure] = {}
        rounds = deque([list(indices)])
        while rounds:
            part = rounds.popleft()
            try:
                child = self._start_one(slot)
            except (ConfigError, OSError) as error:  # broken since it was loaded first
                settled |= dict.fromkeys(part, self._failure(str(error)))
                continue
            rounds.extendleft(reversed(self._ask_child(slot, child, question, part, settled)))
        return settled

    def _ask_child(
        self,
        slot: _Slot,
        child: Child,
        question: Question,
        part: list[int],
        settled: dict[int, Value | Failure],
    ) -> list[list[int]]:
        """Ask a process, which is discarded if it breaks; returns what has to be asked again."""
        is_batched, is_async = child.signature.is_batched, child.signature.is_async
        ask = self._ask_batch if is_batched else self._ask_each
        try:
            return ask(child, question, part, settled)
        except Broken as broken:
            self._lose(slot)
            if is_batched:
                return self._settle_batch(part, settled, self._broken(broken), is_retried=True)
            return self._settle_rest(part, settled, broken, is_async=is_async)

    def _lose(self, slot: _Slot) -> None:
        self.figures.num_lost += 1
        _discard(slot)

    def _ask_each(
        self,
        child: Child,
        question: Question,
        part: list[int],
        settled: dict[int, Value | Failure],
    ) -> list[list[int]]:
        """verl's way; returns what has to be asked again. Raises Broken."""
        limit, is_async = self._timeout_s, child.signature.is_async
        begin = since = monotonic()
        waiting = dict.fromkeys(part)
        try:
            child.send(question.to_json(part, with_ids=child.signature.wants_ids), limit)
            while waiting:
                left = limit - (monotonic() - begin) if is_async else limit
                reply = child.receive(max(left, 0.0), num_traces=1)
                index = reply.pop("index", None)
                if not isinstance(index, int) or index not in waiting:
                    raise Broken(SCRIBBLED)
                settled[index] = self._read(reply)
                del waiting[index]
                now = monotonic()
                self.figures.latencies.append(now - since)
                since = begin if is_async else now
        except Broken:
            self.figures.latencies.append(monotonic() - since)
            raise
        return []

    def _ask_batch(
        self,
        child: Child,
        question: Question,
        part: list[int],
        settled: dict[int, Value | Failure],
    ) -> list[list[int]]:
        """The way of lists; returns what has to be asked again. Raises Broken."""
        begin, limit = monotonic(), self._timeout_s
        try:
            child.send(question.to_json(part, with_ids=child.signature.wants_ids), limit)
            reply = child.receive(limit, num_traces=len(part))
            values = self._read_batch(reply, len(part))
        finally:
            self.figures.latencies.append(monotonic() - begin)
        return self._settle_batch(part, settled, values, is_retried=bool(reply.get("retry")))

    def _settle_rest(
        self,
        part: list[int],
        settled: dict[int, Value | Failure],
        broken: Broken,
        *,
        is_async: bool,
    ) -> list[list[int]]:
        """Blame traces of verl's way that have no answer; returns what has to be asked again."""
        alone = [index for index in part if index not in settled]
        if is_async and not broken.is_late and len(alone) > 1:
            return [[index] for index in alone]
        culprits, rest = (alone, []) if is_async else (alone[:1], alone[1:])
        settled |= dict.fromkeys(culprits, self._broken(broken))
        return [rest] if rest else []

    def _settle_batch(
        self,
        part: list[int],
        settled: dict[int, Value | Failure],
        values: list[Value | Failure] | Failure,
        *,
        is_retried: bool,
    ) -> list[list[int]]:
        """Keep the values of a list, or blame the group; returns what has to be asked again."""
        if isinstance(values, list):
            settled |= dict(zip(part, values, strict=True))
        elif is_retried and len(part) > 1:
            self.figures.num_split += 1
            return [[index] for index in part]
        else:
            settled |= dict.fromkeys(part, values)
        return []

    def _read_batch(self, reply: Mapping[str, Any], count: int) -> list[Value | Failure] | Failure:
        if "error" in reply:
            return self._failure_of(reply)
        batch = reply.get("batch")
        if not isinstance(batch, list) or len(batch) != count:
            raise Broken(SCRIBBLED)
        return [self._read(value) for value in batch]

    def _read(self, reply: Any) -> Value | Failure:
        """Value in a reply about one trace; a malformed reply was written by user code."""
        if not isinstance(reply, dict):
            raise Broken(SCRIBBLED)
        if "error" in reply:
            return self._failure_of(reply)
        value, extras = reply.get("value"), reply.get("extras", {})
        if "value" not in reply or not isinstance(extras, dict):
            raise Broken(SCRIBBLED)
        numbers = [*([] if value is None else [value]), *extras.values()]
        if not all(isinstance(number, float) and math.isfinite(number) for number in numbers):
            raise Broken(SCRIBBLED)
        return Value(value=value, extras={_as_utf8(name): one for name, one in extras.items()})

    def _failure_of(self, reply: Mapping[str, Any]) -> Failure:
        return self._failure(str(reply["error"]), str(reply.get("traceback", "")))

    def _broken(self, broken: Broken) -> Failure:
        return self._failure(str(broken), broken.output.strip())

    def _failure(self, reason: str, traceback: str = "") -> Failure:
        return Failure(
            kind=FailureKind.REWARD,
            culprit=self._part,
            reason=_as_utf8(reason[:_MAX_REASON_CHARS]),
            traceback=traceback,
        )


def _as_utf8(text: str) -> str:
    """User code may name half a character, which no archive takes."""
    return text.encode(errors="replace").decode()


def _discard(slot: _Slot) -> None:
    child, slot.child = slot.child, None
    if child is not None:
        child.end()
