"""The driver's end of one plugin process: start it, ask it with a deadline, end it for certain.

Child -> guard (reward/plugins/watchdog.py) -> worker (reward/plugins/worker.py) -> user code
"""

import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reward.plugins.signature import Signature
from wire.errors import ConfigError

log = logging.getLogger(__name__)

# A cold import of torch or transformers by a user's file takes tens of seconds on a network disk.
START_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 30.0
_MAX_LINE_BYTES = 64 * 1024  # of a reply about one trace
SCRIBBLED = "it wrote on the runner's pipe; its processes were ended"
_MARK = "DEEPINTUIT_REWARD_PROCESS"
_GUARD = "import sys; sys.path[:] = {paths!r}; from reward.plugins.watchdog import main; main()"


def module_paths() -> list[str]:
    """Module search path of the process: first the folder of this package, last the working folder,
    so that a module there is found, but stands in for none of ours."""
    own = str(Path(__file__).parents[2])
    paths = [path for path in sys.path if path]
    return [*([] if own in paths else [own]), *paths, os.getcwd()]  # noqa: PTH109


def _end_marked(mark: str) -> None:
    """Kill the processes of a guard that was itself killed, by the mark in their environment, which
    a process inherits wherever it goes."""
    marked = f"{_MARK}={mark}".encode()
    deadline = time.monotonic() + _END_TIMEOUT_S
    while (left := _having(marked)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _having(marked: bytes) -> list[int]:
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            if marked in (folder / "environ").read_bytes().split(b"\0"):
                processes.append(int(folder.name))
    return processes


class Broken(Exception):
    """The process gave no usable reply; it has to be ended. The message is the reason."""

    def __init__(self, reason: str, *, output: str = "", is_late: bool = False) -> None:
        super().__init__(reason)
        self.output = output
        """The last of what the process printed: the place of a crash, often."""
        self.is_late = is_late
        """Whether it just did not answer in time."""


class Child:
    """A running process of a user function.

    Example:
        child = Child(settings)
        child.ready(120.0)
        child.send(question, 10.0)
        reply = child.receive(10.0, num_traces=1)
        child.end()
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Starts guard and worker; ``settings``: spec, params, style, as_messages, columns,
        memory_mb, max_processes."""
        self._pipe, theirs = socket.socketpair()
        self._control, guards = socket.socketpair()
        self._mark = uuid.uuid4().hex
        numbers = (theirs.fileno(), guards.fileno())
        with theirs, guards:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _GUARD.format(paths=module_paths())),
                    *(*map(str, numbers), json.dumps(dict(settings), default=str)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=numbers,
                process_group=0,  # Ctrl-C is the driver's
                env=os.environ | {_MARK: self._mark},
            )
        self._buffer = bytearray()
        self.signature: Signature
        """What the function takes; :meth:`ready` sets it."""

    def ready(self, timeout_s: float) -> None:
        """Wait until the function is loaded. Raises ConfigError if it was refused, Broken if the
        process did not get that far."""
        reply = self.receive(timeout_s, num_traces=1)
        if "refused" in reply:
            raise ConfigError(str(reply["refused"]))
        try:
            self.signature = Signature(
                style=str(reply["style"]),
                is_async=bool(reply["is_async"]),
                takes_any=bool(reply["takes_any"]),
                names=tuple(map(str, reply["names"])),
                required=tuple(map(str, reply["required"])),
            )
        except (KeyError, TypeError) as error:
            raise Broken(SCRIBBLED) from error

    def is_waiting(self) -> bool:
        """Whether the process can be asked: alive, and nothing unasked was written to the pipe."""
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        return not poll.poll(0) and not self._buffer

    def send(self, line: bytes, timeout_s: float) -> None:
        """Send a question. Raises Broken if the process does not take it in time."""
        self._pipe.settimeout(timeout_s)
        try:
            self._pipe.sendall(line)
        except TimeoutError as error:
            raise Broken(f"took no question within {timeout_s:g} s", is_late=True) from error
        except OSError as error:
            raise self._ended() from error

    def receive(self, timeout_s: float, *, num_traces: int) -> dict[str, Any]:
        """The next reply. Raises Broken if it is late or malformed, or the process has ended."""
        deadline = time.monotonic() + timeout_s
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > _MAX_LINE_BYTES * num_traces:
                raise Broken(SCRIBBLED)
            left = deadline - time.monotonic()
            if not self._wait(left):
                late = f"no answer within {timeout_s:g} s; its processes were ended"
                raise Broken(late, is_late=True)
            self._buffer += self._read()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Broken(SCRIBBLED) from error
        if not isinstance(reply, dict):
            raise Broken(SCRIBBLED)
        return reply

    def _wait(self, seconds: float) -> bool:
        """Wait until there is something to read, or the guard has ended: a process that it left may
        hold the pipe open."""
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        ready = [number for number, _ in poll.poll(max(seconds, 0.0) * 1000)]
        if ready == [self._control.fileno()]:
            raise self._ended()
        return bool(ready)

    def _read(self) -> bytes:
        try:
            chunk = self._pipe.recv(256 * 1024)
        except OSError as error:
            raise self._ended() from error
        if not chunk:
            raise self._ended()
        return chunk

    def hang_up(self) -> None:
        """Tell the guard to end everything; may be called from any thread, also in the middle of a
        call."""
        with contextlib.suppress(OSError):  # ended, or told already
            self._control.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """End the worker and all that it started, and wait until they are gone."""
        self.hang_up()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.warning("a reward process's guard (pid %d) had to be killed", self._process.pid)
            self._process.kill()
            self._process.wait()
        if self._process.returncode != 0:  # it could not do its work
            _end_marked(self._mark)
        self._pipe.close()
        self._control.close()

    def _ended(self) -> Broken:
        """Reason why the pipe is closed, which the guard gives before it ends."""
        written = bytearray()
        self._control.settimeout(_END_TIMEOUT_S)
        with contextlib.suppress(OSError):  # it is ending already
            self._control.sendall(b"?")
        try:
            while chunk := self._control.recv(64 * 1024):
                written += chunk
            report = json.loads(written)
            return Broken(report["ended"], output=report["output"])
        except TimeoutError:
            return Broken("it ended, and its guard did not say why in time")
        except (OSError, ValueError):
            return Broken("its guard was ended by somebody")
