"""Runs the doctor's checks of this machine: each a small real trial in a process of its own.

    Check -> child process (cluster/doctor/trial_process.py) -> Outcome -> Result, with a remedy

A trial that fails, crashes or hangs costs its own deadline at most and stops no other trial; the
processes that it started end with it. To add a check: a function that returns an Outcome, and an
entry in ``CHECKS``.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from cluster.doctor.catalogue import ROOT, Check

Status = Literal["ok", "warning", "failed", "skipped"]

_LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of a trial: its status, a sentence with the evidence, a remedy.

    Example:
        Outcome(status="warning", found="/dev/shm holds 0.1 GB", remedy="give it more")
    """

    status: Status
    found: str
    remedy: str = ""
    """Remedy for this outcome; empty: the check's own remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Result of a check that has ended."""

    name: str
    status: Status
    found: str
    remedy: str
    seconds: float


def run_checks(
    checks: Sequence[Check],
    *,
    quick: bool = False,
    on_start: Callable[[Check], None] = lambda check: None,
    on_end: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Run checks one after another, each to its end or its deadline."""
    results = []
    for check in checks:
        on_start(check)
        result = _skipped(check) if quick and check.starts_engines else run_check(check)
        on_end(result)
        results.append(result)
    return results


def run_check(check: Check) -> Result:
    """Run a check's trial in a process of its own, and end every process that the trial started."""
    before = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="deepintuit-doctor-", ignore_cleanup_errors=True) as d:
        outcome = _in_child(check, Path(d))
    bad = outcome.status in ("failed", "warning")
    return Result(
        name=check.name,
        status=outcome.status,
        found=outcome.found,
        remedy=(outcome.remedy or check.remedy) if bad else "",
        seconds=time.monotonic() - before,
    )


def _skipped(check: Check) -> Result:
    return Result(
        name=check.name, status="skipped", found="--quick starts no engine", remedy="", seconds=0.0
    )


def _in_child(check: Check, folder: Path) -> Outcome:
    answer, log = folder / "outcome.json", folder / "log.txt"
    work = folder / "work"
    work.mkdir()
    words = [sys.executable, "-m", "cluster.doctor.trial_process"]
    words += [check.trial, str(answer), json.dumps(dict(check.settings))]
    paths = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    with log.open("wb") as out:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=work,
            env={**os.environ, "PYTHONPATH": paths},
        )
    family = _Family(child.pid)
    try:
        late = not family.wait(child, check.deadline_s)
    finally:  # also at Ctrl-C
        family.end()
        status = child.wait()
    if answer.is_file():
        return Outcome(**json.loads(answer.read_text(encoding="utf-8")))
    why = f"no answer within {check.deadline_s:.0f} s" if late else _ending(status)
    line = _last_line(log)
    return Outcome(status="failed", found=f"{why}; its last line: {line}" if line else why)


def _ending(status: int) -> str:
    if status < 0:
        return f"the trial's process was ended by {signal.Signals(-status).name}"
    return f"the trial's process ended with status {status} and no answer"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


class _Family:
    """A process and all its descendants, orphans included: Ray's and vLLM's processes outlive a
    parent that is killed."""

    def __init__(self, pid: int) -> None:
        self._members: dict[int, psutil.Process] = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            self._members[pid] = psutil.Process(pid)

    def wait(self, child: subprocess.Popen[bytes], deadline_s: float) -> bool:
        """Wait until the child has ended; False if it is still running at the deadline."""
        deadline = time.monotonic() + deadline_s
        while child.poll() is None:
            if time.monotonic() > deadline:
                return False
            self._look()
            time.sleep(_LOOK_EVERY_S)
        return True

    def end(self) -> None:
        """Kill the processes that are left."""
        self._look()
        for member in self._members.values():
            with contextlib.suppress(psutil.Error):  # gone, or its number is another's by now
                member.kill()
        psutil.wait_procs([*self._members.values()], timeout=5)

    def _look(self) -> None:
        others = {p.pid: p for p in psutil.process_iter(["ppid"])}
        while new := {
            pid: process
            for pid, process in others.items()
            if pid not in self._members and process.info["ppid"] in self._members
        }:
            self._members |= new
