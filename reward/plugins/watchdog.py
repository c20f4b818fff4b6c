"""Guard process over a user function: watches it, and ends it with everything it started.

    driver -> guard (this) -> worker (user code) -> whatever that starts

The guard adopts orphans (a Linux subreaper), so that nothing below it can escape by leaving its
process group or session: when the guard has no child left, nothing is left. It ends everything
when the driver says so or is gone, when the worker ends, when all together hold more memory than
allowed, or when there are more processes than allowed. (The kernel's own limit on processes counts
per user and does not bind root, so it is no help here.) It also takes what the worker prints: the
first part goes on to the driver's stderr, the last part into the report of a crash, the rest is
dropped.

Imports little: it lives as long as the worker, once per process of a plugin.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple

_SHOWN_BYTES = 16 * 1024  # of what one process prints
_KEPT_BYTES = 2 * 1024
_CHECK_S = 0.1
_CHECK_SHARE = 0.05  # of a core at most, on a machine with thousands of processes
_KILL_S = 5.0
_GRACE_S = 0.5  # between a closed pipe and the end of its process
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PAGE = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Entry point of the guard; ``argv``: the number of the pipe's socket, that of the control
    socket, settings as JSON."""
    pipe, control = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    settings = json.loads(sys.argv[3])
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    output, printed = os.pipe()
    worker = os.fork()
    if worker == 0:
        control.close()
        os.close(output)
        _become_worker(pipe, printed, settings)
    pipe.close()
    os.close(printed)
    with contextlib.suppress(PermissionError):
        os.nice(-10)  # hundreds of runaway processes must not keep it from ending them
    _Guard(worker, output, control, settings).watch()


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def _become_worker(pipe: socket.socket, printed: int, settings: dict[str, Any]) -> None:
    """Turn the forked process into the worker: close what is the guard's, then serve. Never
    returns."""
    try:
        nice = _session_nice()
        os.setsid()  # its own group to be killed, and where Linux shares out cores by session
        _set_session_nice(nice)  # else the worker of a niced run would go before its guard
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not fill the disk
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("1000")  # out of memory, the kernel ends this one, not the driver
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        os.close(printed)
        from reward.plugins.worker import serve  # only here: the guard stays small

        serve(pipe, settings)
    except BaseException:  # noqa: BLE001  whatever it is, the forked copy must not run on
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def _session_nice() -> str:
    """Nice value of this session's autogroup (5 of "/autogroup-7 nice 5"); "" where Linux does not
    share out by session."""
    with contextlib.suppress(OSError), open("/proc/self/autogroup") as file:  # noqa: PTH123
        return file.read().rpartition(" ")[2].strip()
    return ""


def _set_session_nice(nice: str) -> None:
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:  # noqa: PTH123
        file.write(nice)


class _Guard:
    def __init__(
        self, worker: int, output: int, control: socket.socket, settings: dict[str, Any]
    ) -> None:
        self._worker, self._output, self._control = worker, output, control
        self._max_bytes = settings["memory_mb"] * 2**20
        self._settings = settings
        self._ending: str | None = None
        self._shown = 0
        self._kept = b""

    def watch(self) -> None:
        """Watch the worker until there is a reason to end; then end everything and report the
        reason."""
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        next_check = time.monotonic() + _CHECK_S
        reason = None
        while reason is None:
            ready = {number for number, _ in poll.poll(_CHECK_S * 1000)}
            if self._output in ready and not self._take_output():
                poll.unregister(self._output)
            if self._control.fileno() in ready:
                reason = self._reason_asked_for()
                break
            self._reap()
            reason = self._ending
            if reason is None and time.monotonic() >= next_check:
                begin = time.process_time()
                reason = self._excess()
                took = time.process_time() - begin
                next_check = time.monotonic() + max(_CHECK_S, took / _CHECK_SHARE)
        if not self._end_all():
            reason = f"{reason}; some of its processes could not be ended within {_KILL_S:g} s"
        os.set_blocking(self._output, False)
        while self._take_output():
            pass
        report = {"ended": reason, "output": self._kept.decode(errors="backslashreplace")}
        with contextlib.suppress(OSError):  # the driver may be gone
            self._control.sendall(json.dumps(report).encode())
            self._control.shutdown(socket.SHUT_WR)
            self._control.settimeout(_KILL_S)
            while self._control.recv(64):  # what is closed unread takes the report with it
                pass

    def _reason_asked_for(self) -> str:
        """Reason to end after the driver hung up, or asked why the worker's pipe is closed: the
        worker may be about to end."""
        deadline = time.monotonic() + _GRACE_S
        if self._control.recv(1):
            while self._reap() and self._ending is None and time.monotonic() < deadline:
                time.sleep(0.005)
        return self._ending or "it closed the runner's pipe; its processes were ended"

    def _take_output(self) -> bool:
        """Read some of what the worker printed; False at its end, or when nothing waits."""
        try:
            chunk = os.read(self._output, 64 * 1024)
        except BlockingIOError:
            return False
        self._kept = (self._kept + chunk)[-_KEPT_BYTES:]
        room = _SHOWN_BYTES - self._shown
        if chunk and room > 0:
            self._shown += len(chunk)
            last = b"\n[what this reward function prints from here on is dropped]\n"
            with contextlib.suppress(OSError):
                os.write(2, chunk[:room] + (last if len(chunk) >= room else b""))
        return bool(chunk)

    def _reap(self) -> bool:
        """Collect ended children; False if there is no child left."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._worker:
                    self._ending = _ending(os.waitstatus_to_exitcode(status))
        except ChildProcessError:
            return False

    def _excess(self) -> str | None:
        limit = self._settings["max_processes"]
        count = _count_below(os.getpid(), limit)
        tree = {} if count > limit else _tree(os.getpid())
        if (count := max(count, len(tree))) > limit:
            return f"it had {count} processes at once, more than max_processes={limit}"
        used = sum(process.num_bytes for process in tree.values())
        if used > self._max_bytes:
            limit = self._settings["memory_mb"]
            return f"it held {used / 2**20:.0f} MB, more than memory_mb={limit}"
        return None

    def _end_all(self) -> bool:
        """Kill every process below this one, until none is left; False if that takes too long."""
        deadline = time.monotonic() + _KILL_S
        if self._ending is None:  # not collected yet, so the number is still its own
            with contextlib.suppress(ProcessLookupError):  # its group is about to be made
                os.killpg(self._worker, signal.SIGKILL)
        while time.monotonic() < deadline:
            tree = _tree(os.getpid())
            # Whole groups first: no fork outruns that, and one process at a time can be outrun.
            for group in {process.group for process in tree.values()} & {self._worker, *tree}:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            for pid in tree:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not self._reap():
                return True
            time.sleep(0.005)
        return False


def _ending(code: int) -> str:
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"its process ended with {how}"


class _Process(NamedTuple):
    num_bytes: int
    """Resident memory; pages that processes share count in each."""
    group: int


def _count_below(root: int, limit: int) -> int:
    """Number of living processes below ``root``; stops counting one above the limit.

    Asks for children alone: thousands of runaway processes take a second to list, and double
    meanwhile. 0 where the kernel keeps no lists of children.
    """
    count, waiting = 0, [root]
    while waiting:
        for child in filter(_is_alive, _children(waiting.pop())):
            count += 1
            if count > limit:
                return count
            waiting.append(child)
    return count


def _children(pid: int) -> Iterator[int]:
    """Children of all threads of a process, ended ones included."""
    with contextlib.suppress(OSError):  # it ended meanwhile
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with open(f"/proc/{pid}/task/{thread}/children") as file:  # noqa: PTH123
                yield from map(int, file.read().split())


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except (OSError, IndexError):
        return False


def _tree(root: int) -> dict[int, _Process]:
    """Every living process below ``root``."""
    children: dict[int, list[tuple[int, _Process]]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  as quick as can be
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                fields = file.read().rpartition(b")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if fields and fields[0] != b"Z":
            process = _Process(num_bytes=int(fields[21]) * _PAGE, group=int(fields[2]))
            children.setdefault(int(fields[1]), []).append((int(name), process))
    processes: dict[int, _Process] = {}
    waiting = [root]
    while waiting:
        for pid, process in children.get(waiting.pop(), ()):
            processes[pid] = process
            waiting.append(pid)
    return processes
