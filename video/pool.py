"""Pool of decoder processes that can be killed: a file that hangs or crashes one costs a process.

    decode() -> a free helper -> socket -> helper process (video/pool_child.py) -> video/decode.py
                                        <- numbers, and a file in memory with the pixels

A helper that is past the clip's deadline is killed with all it has started, one that died is
replaced, and the caller gets a ClipError with file and reason; if decord was at work, PyAV first
gets its own try. Time spent waiting for a free helper is not the clip's. Helpers start anew from
the Python executable (the engines' processes have threads, and must not be forked), import a
decoder and nothing of the engines, end when idle, and die with the process that they serve.
"""

import contextlib
import json
import math
import mmap
import os
import queue
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from video.address import Window
from video.config import VideoConfig
from video.decode import DecodedClip
from video.disk_faults import PAUSES_S, is_readable, may_pass, unreachable
from video.facts import VideoFacts
from video.pool_child import DECORD_BEGINS, ERRNO, ERROR, MAX_MESSAGE, READY
from wire.errors import ClipError, ClipTimedOut, ClipUnreachable, WorkerDied

_START_TIMEOUT_S = 120.0
"""A cold import of the decoder from a network disk takes tens of seconds."""
_STARTER = """
import sys
sys.path.insert(0, sys.argv[1])
from video.facts import VideoFacts
from video.pool_child import main
main()
"""
_ROOT = Path(__file__).resolve().parent.parent
_COMMAND = (sys.executable, "-c", _STARTER, str(_ROOT))
_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)
"""Signals that no decoder sends to itself: the clip gets another try."""


class DecodePool:
    """Pool of at most ``decode_workers`` helper processes. Safe to call from several threads."""

    def __init__(self, config: VideoConfig, command: Sequence[str] = _COMMAND) -> None:
        """Starts nothing yet. ``command``: command line of a helper; it gets its socket's number,
        the parent's id and the memory limit as further arguments."""
        self._config = config
        limit = str(int(config.decode_memory_gb * 2**30))
        # a helper dies with the thread that started it (PR_SET_PDEATHSIG): this one stays
        starter = ThreadPoolExecutor(1, thread_name_prefix="start-decoder")
        helpers = [
            _Helper([*command], limit, starter, config) for _ in range(config.decode_workers)
        ]
        self._helpers = helpers
        self._free: queue.LifoQueue[_Helper] = queue.LifoQueue()
        for helper in helpers:
            self._free.put(helper)
        self._end = weakref.finalize(self, _end_all, helpers, starter)

    @property
    def num_lost(self) -> int:
        """Helpers so far that died, hung or wrote nonsense, and were or will be replaced."""
        return sum(helper.num_lost for helper in self._helpers)

    def decode(self, path: Path, window: Window | None = None) -> DecodedClip:
        """Decode a clip in a helper (video.decode). Raises ClipError naming the file and the
        reason."""
        with self.helper() as helper:
            return helper.decode(path, window)

    def probe(self, path: Path, window: Window | None = None) -> None:
        """Probe a clip in a helper (video.decode). Raises ClipError naming the file and the
        reason."""
        with self.helper() as helper:
            helper.probe(path, window)

    def facts(self, path: Path, *, max_frames: int, max_pixels: int) -> VideoFacts:
        """Facts of a file (video.facts). Raises ClipError naming the file and the reason,
        ClipTimedOut after decode_timeout_s."""
        with self.helper() as helper:
            return helper.facts(path, max_frames, max_pixels)

    def frames(self, path: Path, numbers: Sequence[int]) -> DecodedClip:
        """Decode frames by number in a helper (video.decode). Raises as ``decode``."""
        with self.helper() as helper:
            return helper.frames(path, numbers)

    @contextlib.contextmanager
    def helper(self) -> "Iterator[_Helper]":
        """Borrow a started helper; waits until one is free."""
        helper = self._free.get()
        try:
            helper.start()
            yield helper
        finally:
            self._free.put(helper)

    def close(self) -> None:
        """Kill all helpers; they would also end with this object."""
        self._end()


def _end_all(helpers: "Sequence[_Helper]", starter: ThreadPoolExecutor) -> None:
    for helper in helpers:
        helper.end()
    starter.shutdown(wait=False)


class _Broken(Exception):
    """The helper gave no usable reply; the message is the reason. Never leaves this module."""


class _TimedOut(_Broken):
    """It gave no reply in time."""


class _DecordBroke(_Broken):
    """It ended, or gave no reply in half of the time, while decord was at work."""


class _Ended(Exception):
    """The helper ended, but not by the clip's fault. Never leaves this module."""


class _Stuck(Exception):
    """At the deadline the helper was waiting for its disk. Never leaves this module."""


class _Helper:
    """One process, started when it is first needed and again after its death."""

    def __init__(
        self, command: list[str], limit: str, starter: ThreadPoolExecutor, config: VideoConfig
    ) -> None:
        self._command, self._limit, self._starter = command, limit, starter
        self._timeout_s = config.decode_timeout_s
        self._decoder = config.decoder
        self._spec = config.model_dump(include={"fps", "min_frames", "max_frames"})
        self._child: _Child | None = None
        self.num_lost = 0

    def decode(self, path: Path, window: Window | None) -> DecodedClip:
        """Decode a clip in this helper; errors as of DecodePool."""
        question = {"what": "decode", "spec": self._spec, "window": _span(window)}
        return _receive(*self._ask(path, question))

    def probe(self, path: Path, window: Window | None) -> None:
        """Probe a clip in this helper; errors as of DecodePool."""
        self._ask(path, {"what": "probe", "window": _span(window)})

    def facts(self, path: Path, max_frames: int, max_pixels: int) -> VideoFacts:
        """Facts of a file; errors as of DecodePool."""
        limits = {"max_frames": max_frames, "max_pixels": max_pixels}
        reply, _ = self._ask(path, {"what": "facts", **limits})
        return VideoFacts(**reply)

    def frames(self, path: Path, numbers: Sequence[int]) -> DecodedClip:
        """Decode frames in this helper; errors as of DecodePool."""
        return _receive(*self._ask(path, {"what": "frames", "numbers": list(numbers)}))

    def start(self) -> None:
        """Start the process, once more if it is killed from outside meanwhile. Raises WorkerDied if
        it does not come up: no clip's fault."""
        if self._child is not None:
            if (code := self._child.process.poll()) is None:
                return
            self.num_lost += code != 0
        self.end()
        try:
            try:
                self._launch()
            except _Ended:
                self._lose()
                self._launch()
        except (_Broken, _Ended, TimeoutError) as error:
            self.end()
            raise WorkerDied(
                f"a decoder process did not start: {error}; "
                "is PyAV installed and is there memory for a process?"
            ) from error

    def _launch(self) -> None:
        self._child = child = self._starter.submit(_launch, self._command, self._limit).result()
        ready, _ = child.receive(_START_TIMEOUT_S)
        assert ready == READY, "pool_child says this first"

    def end(self) -> None:
        """Kill the process and all that it has started."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()

    def _lose(self) -> None:
        self.num_lost += 1
        self.end()

    def _ask(self, path: Path, question: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
        try:
            reply, files = self._patiently({**question, "path": str(path)}, path)
        except _Stuck as error:
            self._lose()
            raise ClipUnreachable(
                f"the disk of {path} gave no answer within decode_timeout_s={self._timeout_s:g}; "
                "is its server up?"
            ) from error
        except _TimedOut as error:
            self._lose()
            raise ClipTimedOut(f"cannot decode {path}: {error}") from error
        except (_Broken, _Ended) as error:
            self._lose()
            raise ClipError(f"cannot decode {path}: {error}") from error
        if ERROR in reply:
            raise ClipError(reply[ERROR])
        return reply, files

    def _patiently(
        self, question: Mapping[str, Any], path: Path
    ) -> tuple[dict[str, Any], list[int]]:
        """Ask again while the file's disk fails. A decoder's own input/output error, of a file all
        of whose bytes can be read, is the file's after one more try."""
        for pause in (*PAUSES_S, None):
            reply, files = self._with_fallback(question)
            if not may_pass(reply.get(ERRNO)):
                return reply, files
            if is_readable(path):
                return self._with_fallback(question)
            if pause is not None:
                time.sleep(pause)
        raise unreachable(path, reply[ERROR])

    def _with_fallback(self, question: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
        try:
            return self._exchange({**question, "decoder": self._decoder})
        except _DecordBroke as error:
            if self._decoder == "decord":
                raise
            self._lose()
            reply, files = self._exchange({**question, "decoder": "pyav"})
            return {**reply, "not_by_decord": str(error)}, files

    def _exchange(self, question: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
        message = json.dumps(question).encode()
        try:
            return self._answer(message)
        except _Ended:
            return self._answer(message)

    def _answer(self, message: bytes) -> tuple[dict[str, Any], list[int]]:
        self.start()
        child = self._child
        assert child is not None, "start() leaves one or raises"
        asked = time.monotonic()
        child.send(message)
        reply, files = self._receive(child, self._timeout_s)
        if reply != DECORD_BEGINS:
            return reply, files
        left = self._timeout_s - (time.monotonic() - asked)
        try:
            reply, files = self._receive(child, max(left, 0.0) / 2)
        except (_Broken, _Ended) as error:
            raise _DecordBroke(f"decord: {error}") from error
        if ERROR in reply and self._decoder == "auto":  # decord may have left too little memory
            raise _DecordBroke("decord failed, and PyAV after it")
        return reply, files

    def _receive(self, child: "_Child", timeout_s: float) -> tuple[dict[str, Any], list[int]]:
        try:
            return child.receive(timeout_s)
        except TimeoutError as error:
            if child.waits_for_disk():
                raise _Stuck from error
            raise _TimedOut(
                f"no result within decode_timeout_s={self._timeout_s:g}; its decoder was killed"
            ) from error


class _Child:
    """A running helper process and its socket."""

    def __init__(self, process: "subprocess.Popen[bytes]", line: socket.socket, log: int) -> None:
        self.process, self._line, self._log = process, line, log

    def send(self, message: bytes) -> None:
        os.ftruncate(self._log, 0)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # receive() says why
            self._line.send(message)

    def receive(self, timeout_s: float) -> tuple[dict[str, Any], list[int]]:
        """A message and the files that came with it. Raises TimeoutError, _Broken or _Ended."""
        self._line.settimeout(timeout_s)
        try:
            message, files, _, _ = socket.recv_fds(self._line, MAX_MESSAGE, 1)
            reply = json.loads(message) if message else None
        except ConnectionResetError:
            reply, files = None, []
        except ValueError as error:
            raise _Broken("its decoder wrote nonsense, and was killed") from error
        if not isinstance(reply, dict):
            raise self._ending()
        return reply, files

    def waits_for_disk(self) -> bool:
        """Whether a thread of the process sleeps in the kernel and no signal wakes it, as on a hard
        mount whose server is gone; a decoder that is slow or waits otherwise does not."""
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{self.process.pid}/task").iterdir():
                if (task / "stat").read_text().rpartition(")")[2].split()[0] == "D":
                    return True
        return False

    def kill(self) -> None:
        """Kill the process with its process group, of which it is the leader."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: a dead disk
            self.process.wait(5)
        self._line.close()
        os.close(self._log)

    def _ending(self) -> Exception:
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:
            return _Broken("its decoder closed the line, and was killed")
        if code == 0:
            return _Ended("its decoder had been idle")
        if code > 0:
            return _Broken(f"its decoder ended with exit code {code}{self._last_words()}")
        name = signal.Signals(-code).name
        if -code in _OUTSIDE:
            return _Ended(f"its decoder was ended twice by {name}; out of memory?")
        return _Broken(f"its decoder crashed with {name}{self._last_words()}")

    def _last_words(self) -> str:
        text = os.pread(self._log, 4096, max(0, os.fstat(self._log).st_size - 4096))
        lines = text.decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""


def _launch(command: Sequence[str], limit: str) -> _Child:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # appended to and emptied before each clip, so that it neither blocks nor grows
    log = os.memfd_create("decoder-log")
    with theirs:
        errors = os.open(f"/proc/self/fd/{log}", os.O_WRONLY | os.O_APPEND)
        try:
            process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid()), limit],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        finally:
            os.close(errors)
    return _Child(process, ours, log)


def _span(window: Window | None) -> list[float | None] | None:
    return None if window is None else [window.start_s, window.end_s]


def _receive(reply: dict[str, Any], files: list[int]) -> DecodedClip:
    """Pixels in the helper's memory; the pages are this process's from now on."""
    shape = tuple(reply["shape"])
    try:
        shared = mmap.mmap(files[0], 2 * 8 * shape[0] + math.prod(shape))
    finally:
        for file in files:
            os.close(file)
    times = np.frombuffer(shared, np.float64, shape[0])
    indices = np.frombuffer(shared, np.int64, shape[0], offset=times.nbytes)
    start = times.nbytes + indices.nbytes
    return DecodedClip(
        frames=np.frombuffer(shared, np.uint8, offset=start).reshape(shape),
        frame_indices=tuple(indices.tolist()),
        timestamps_s=tuple(times.tolist()),
        fps=reply["fps"],
        total_frames=reply["total_frames"],
        native_fps=reply["native_fps"],
        seconds=reply["seconds"],
        not_by_decord=reply["not_by_decord"],
    )
