"""One user reward function in a process of its own: asked, timed, killed and replaced.

    score() -> worker thread -> pipe -> child process -> the user's function
                            <- value, or what went wrong

The event loop never waits on the pipe: one thread per function does, and it alone starts, asks and
discards the child. Both ways the pipe carries JSON of plain values, so nothing that a user function
returns is unpickled here. A function that hangs, dies, raises or returns nonsense gives a Failure,
never a zero. The child is a daemon, so a user function may start threads and programs, but not
``multiprocessing`` processes; it leads its own process group, which is killed as one.
"""

import asyncio
import contextlib
import json
import math
import multiprocessing
import numbers
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from reward.plugin import ARGUMENTS, load, locate
from wire.errors import ConfigError
from wire.types import Failure, FailureKind

# A cold import of torch or transformers by a user's file takes tens of seconds on a network disk.
_START_TIMEOUT_S = 120.0
_MAX_REPLY_BYTES = 64 * 1024
_MAX_REPLY_CHARS = 4_000  # JSON writes a character in at most twelve bytes
_MAX_REASON_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a user function is asked: verl's four arguments.

    Example:
        Question(data_source="", solution_str="<think>...", ground_truth="normal",
                 extra_info={"sample_id": "train-0001"})
    """

    data_source: str
    solution_str: str
    ground_truth: str
    extra_info: Mapping[str, Any]
    """Values that JSON has not (dates, paths) arrive as text."""


@dataclass(frozen=True, slots=True)
class _Child:
    process: SpawnProcess
    connection: Connection


class _Broken(Exception):
    """The child gave no usable reply; the message is the reason. Never leaves this module."""


class PluginRunner:
    """Asks one user function, one trace after another."""

    def __init__(self, name: str, spec: str, timeout_s: float) -> None:
        """``name`` is the culprit of its failures. Raises ConfigError if there is no such file."""
        path, function = locate(spec)
        self._name = name
        self._spec = f"{path}:{function}"
        self._timeout_s = timeout_s
        self._child: _Child | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"reward-{name}")

    async def start(self) -> None:
        """Start the child and load the function. Raises ConfigError if it cannot be loaded."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._start)

    async def score(self, question: Question) -> float | Failure:
        """The function's value for one trace, a finite number; or why there is none."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, question)

    async def close(self) -> None:
        """End the child, also in the middle of a call. The runner cannot be used afterwards."""
        child = self._child
        if child is not None:
            _kill(child.process)  # only the signal: the thread may be reading from the pipe
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)
        self._discard()

    def _start(self) -> None:
        if self._child is not None and self._child.process.is_alive():
            return
        self._discard()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, self._spec), name=f"reward-{self._name}", daemon=True
        )
        process.start()
        theirs.close()  # the child's copy is then the last one, and its death is our end of file
        self._child = _Child(process, ours)
        try:
            reply = self._receive(_START_TIMEOUT_S)
        except _Broken as broken:
            self._discard()
            raise ConfigError(
                f"reward {self._spec!r} could not be imported: {broken}; "
                "mend what the file does on import"
            ) from broken
        if "refused" in reply:
            self._discard()
            raise ConfigError(reply["refused"])

    def _ask(self, question: Question) -> float | Failure:
        try:
            self._start()
            assert self._child is not None, "_start leaves a child or raises"
            arguments = {name: getattr(question, name) for name in ARGUMENTS}
            self._child.connection.send_bytes(json.dumps(arguments, default=str).encode())
            reply = self._receive(self._timeout_s)
        except (_Broken, ConfigError, OSError) as error:
            self._discard()
            return self._failure(str(error))
        if "error" in reply:
            return self._failure(reply["error"])
        return float(reply["value"])

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        child = self._child
        assert child is not None, "only asked with a child"
        ready = wait([child.connection, child.process.sentinel], timeout_s)
        if not ready:
            raise _Broken(f"no answer within {timeout_s:g} s; its process was killed")
        if child.connection not in ready:  # dead, with the pipe held open by something it started
            raise _Broken(_ending(child.process))
        try:
            reply = json.loads(child.connection.recv_bytes(_MAX_REPLY_BYTES))
        except (EOFError, OSError) as error:
            raise _Broken(_ending(child.process)) from error
        except ValueError as error:
            raise _Broken("it wrote on the runner's pipe; its process was killed") from error
        assert isinstance(reply, dict), "replies are written by _serve"
        return reply

    def _discard(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            _kill(child.process)
            child.process.join()
            child.connection.close()

    def _failure(self, reason: str) -> Failure:
        return Failure(
            kind=FailureKind.REWARD, culprit=self._name, reason=reason[:_MAX_REASON_CHARS]
        )


def _kill(process: SpawnProcess) -> None:
    assert process.pid is not None, "only started processes are kept"
    with contextlib.suppress(
        ProcessLookupError, PermissionError
    ):  # gone, or not yet its own leader
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _ending(process: SpawnProcess) -> str:
    process.join(1.0)
    code = process.exitcode
    if code is None:
        return "it closed the runner's pipe; its process was killed"
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"its process ended with {how}"


def _serve(connection: Connection, spec: str) -> None:
    """The child: load, say so, then answer until the parent is gone."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function = load(spec)
    except ConfigError as error:
        _reply(connection, {"refused": str(error)[:_MAX_REPLY_CHARS]})
        return
    _reply(connection, {"ready": True})
    while True:
        try:
            question = json.loads(connection.recv_bytes())
        except EOFError:
            return
        _reply(connection, _answer(function, question))


def _end_with_parent() -> None:
    """A function that hangs must not outlive a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a child"
    parent.join()
    os._exit(1)


def _reply(connection: Connection, message: Mapping[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _answer(function: Callable[..., Any], question: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return read_value(function(**question))
    except (Exception, SystemExit) as error:  # noqa: BLE001  other people's code; becomes a Failure
        last = traceback.extract_tb(error.__traceback__)[-1]
        return {"error": f"{repr(error)[:_MAX_REASON_CHARS]} at {last.filename}:{last.lineno}"}


def read_value(value: Any) -> dict[str, Any]:
    """What a user function returned -> ``{"value": finite float}`` or ``{"error": why not}``.

    Accepts numbers, NumPy and torch scalars, and verl's dict with one of them under ``score``.
    """
    if isinstance(value, Mapping):
        if "score" not in value:
            return {"error": f"returned a dict without 'score'; its keys: {str(list(value))[:80]}"}
        value = value["score"]
    if hasattr(value, "item"):  # a NumPy or torch scalar
        value = value.item()
    if not isinstance(value, numbers.Real):
        got = f"{repr(value)[:80]} ({type(value).__name__})"
        return {"error": f"returned {got}, expected a number or a dict with 'score'"}
    number = float(value)
    if not math.isfinite(number):
        return {"error": f"returned {number}, expected a finite number"}
    return {"value": number}
