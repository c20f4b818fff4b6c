"""Run of some checks: a process each, with a deadline, whose rows are written as they come.

Most of a check is compiling, on the CPU: several run side by side. One that measures time is alone.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import IO

from tests.gpu.catalogue import Check
from tests.gpu.child import not_installed
from tests.gpu.rows import NotRun, Row

_ROOT = Path(__file__).resolve().parents[2]
_REPORTED = ("torch", "transformers", "triton", "deepspeed", "vllm", "peft", "av")
_LEAST_S = 5.0
"""A check is not begun with less time left: importing takes it."""


class Run:
    """Takes checks; rows are printed, and appended to a file."""

    def __init__(
        self, device: str, file: Path | None, *, jobs: int = 1, peak_tflops: float = 0.0
    ) -> None:
        self._device, self._file, self._peak_tflops = device, file, peak_tflops
        self._jobs = jobs
        self.passed = self.failed = self.not_run = 0
        self.out_of_time = False
        self.device_name = _name_of(device)
        self._versions = _versions()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._writing = threading.Lock()
        self._end = 0.0

    def take_all(self, checks: Sequence[Check], seconds: float) -> None:
        """All of them, within this time."""
        self._end = time.monotonic() + seconds
        for alone, group in groupby(checks, key=lambda check: check.alone):
            with ThreadPoolExecutor(1 if alone else self._jobs) as threads:
                try:
                    list(threads.map(self.take, group))
                except BaseException:
                    threads.shutdown(wait=False, cancel_futures=True)
                    for process in list(self._processes):
                        _kill(process)
                    raise

    def take(self, check: Check) -> None:
        """One check, to its end or to the end of its time."""
        missing = [name for name in check.needs if importlib.util.find_spec(name) is None]
        left = self._end - time.monotonic()
        if missing:
            self._write(Row.of(NotRun(check.name, not_installed(missing)), 0.0))
        elif left < _LEAST_S:
            self.out_of_time = True
            self._write(Row.of(NotRun(check.name, "no time left: --only NAME runs it alone"), 0.0))
        else:
            self._in_process(check, min(left, check.seconds))

    def say(self, text: str) -> None:
        """A line for who waits."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def _in_process(self, check: Check, seconds: float) -> None:
        began = time.monotonic()
        with tempfile.TemporaryFile() as output:
            with self._process_of(check, output) as (process, pipe):
                for line in _lines(pipe, began + seconds):
                    self._write(Row(**json.loads(line)))
                why = _end(process, began + seconds, seconds)
            if why:
                output.seek(0)
                lines = output.read().decode(errors="replace").splitlines()
                self.say("\n".join(f"    {line}" for line in lines[-25:]))
                last = next((line for line in reversed(lines) if line.strip()), "")
                note = f"{why}: {last.strip()}" if last else why
                row = Row(name=check.name, ok=False, note=note, seconds=time.monotonic() - began)
                self._write(row)

    @contextlib.contextmanager
    def _process_of(
        self, check: Check, output: IO[bytes]
    ) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """The process of a check, and the pipe of its rows."""
        pipe, theirs = os.pipe()
        what = [check.name, check.module, json.dumps(check.arguments)]
        how = [self._device, str(self._peak_tflops), str(theirs)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.child", *what, *how],
            cwd=_ROOT,
            pass_fds=[theirs],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        os.close(theirs)
        self._processes.add(process)
        try:
            yield process, pipe
        finally:
            _kill(process)
            process.wait()
            os.close(pipe)
            self._processes.discard(process)

    def _write(self, row: Row) -> None:
        row = replace(row, device=self.device_name, versions=self._versions)
        with self._writing:
            if self._file is not None:
                row.append_to(self._file)
            self.passed += row.ok is True
            self.failed += row.ok is False
            self.not_run += row.ok is None
            self.say(row.line)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process, and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _lines(pipe: int, deadline: float) -> Iterator[bytes]:
    """Whole lines until the other end is closed or the time is over."""
    held = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            data = os.read(pipe, 65_536)
            if not data:
                return
            *lines, held = (held + data).split(b"\n")
            yield from lines


def _end(process: subprocess.Popen[bytes], deadline: float, seconds: float) -> str | None:
    """Wait for the end. Returns why it was none, or None."""
    try:
        status = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return f"ended after {seconds:.0f} s, which is all it gets"
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"exit status {status}" if status else None


def _name_of(device: str) -> str:
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name(0)
    return f"cpu, {len(os.sched_getaffinity(0))} cores"


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for name in _REPORTED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
