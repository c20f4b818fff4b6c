"""Runs the doctor's checks of this machine: each a small real trial in a process of its own.

    Check -> child process (cluster/doctor_child.py) -> Outcome -> Result, with a remedy

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from wire.errors import ConfigError
from wire.nearest import nearest

Status = Literal["ok", "warning", "failed", "skipped"]

ROOT = Path(__file__).resolve().parent.parent
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
class Check:
    """Check of the doctor: a trial, its deadline, its remedy."""

    name: str
    trial: str
    """``module:function``; the function returns an Outcome, or raises."""
    deadline_s: float
    remedy: str
    """Remedy where the trial fails without one of its own, or gives no answer."""
    starts_engines: bool = False
    """Left out by ``--quick``."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the trial; plain values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Result of a check that has ended."""

    name: str
    status: Status
    found: str
    remedy: str
    seconds: float


_LIGHT, _ENGINES = "cluster.doctor_trials", "cluster.doctor_engines"

CHECKS = (
    Check(
        name="python",
        trial=f"{_LIGHT}:try_python",
        deadline_s=20,
        remedy="run make setup with Python 3.11 on Linux x86-64",
    ),
    Check(
        name="packages",
        trial=f"{_LIGHT}:try_packages",
        deadline_s=60,
        remedy="run make setup: it builds .venv anew from the lock",
        settings={"requirements": str(ROOT / "requirements")},
    ),
    Check(
        name="devices",
        trial=f"{_LIGHT}:try_devices",
        deadline_s=120,
        remedy="run nvidia-smi, and python -c 'import torch; torch.cuda.init()', by hand",
    ),
    Check(
        name="shared-memory",
        trial=f"{_LIGHT}:try_shared_memory",
        deadline_s=30,
        remedy="give /dev/shm memory: docker run --shm-size=8g, or in Kubernetes an emptyDir "
        "with medium: Memory mounted there",
    ),
    Check(
        name="disk",
        trial=f"{_LIGHT}:try_disk",
        deadline_s=120,
        remedy="free space, or name another disk by --run-dir, XDG_CACHE_HOME or TMPDIR",
    ),
    Check(
        name="open-files",
        trial=f"{_LIGHT}:try_open_files",
        deadline_s=20,
        remedy="raise it: ulimit -n 65536, or docker run --ulimit nofile=65536:65536",
    ),
    Check(
        name="ports",
        trial=f"{_LIGHT}:try_ports",
        deadline_s=40,
        remedy="let this host reach its own address: mend /etc/hosts or the firewall",
    ),
    Check(
        name="decoder",
        trial=f"{_LIGHT}:try_decoder",
        deadline_s=120,
        remedy="run make setup: av comes with all four codecs",
    ),
    Check(
        name="ray",
        trial=f"{_ENGINES}:try_ray",
        deadline_s=150,
        remedy="read the newest /tmp/ray/session_latest/logs, and check ports, shared memory "
        "and disk above",
        starts_engines=True,
    ),
    Check(
        name="deepspeed",
        trial=f"{_ENGINES}:try_deepspeed",
        deadline_s=180,
        remedy="run make setup, and with GPUs check that driver and torch agree (devices)",
        starts_engines=True,
    ),
    Check(
        name="vllm",
        trial=f"{_ENGINES}:try_vllm",
        deadline_s=300,
        remedy="run make setup, and check devices and shared memory above",
        starts_engines=True,
    ),
    Check(
        name="nccl",
        trial=f"{_ENGINES}:try_nccl",
        deadline_s=180,
        remedy="run with NCCL_DEBUG=INFO; NCCL_P2P_DISABLE=1 or NCCL_SHM_DISABLE=1 tell which "
        "path between the GPUs is broken",
        starts_engines=True,
    ),
)
"""All checks, the cheap ones first. ``all_checks`` gives the check ``disk`` its folders."""


def all_checks(run_dir: Path) -> tuple[Check, ...]:
    """``CHECKS`` for this machine. ``run_dir``: where runs will be written; it need not exist."""
    folders = {
        "runs": str(run_dir.resolve()),
        "cache": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
        "tmp": tempfile.gettempdir(),
    }
    return tuple(
        replace(check, settings={"folders": folders}) if check.name == "disk" else check
        for check in CHECKS
    )


def choose(checks: Sequence[Check], only: Sequence[str]) -> tuple[Check, ...]:
    """The checks named in ``only``; all if it is empty. Raises ConfigError on an unknown name."""
    names = [check.name for check in checks]
    if unknown := [name for name in only if name not in names]:
        advice = nearest(unknown[0], names, "there are")
        raise ConfigError(f"--only got {unknown[0]!r}, which is no check; {advice}")
    return tuple(check for check in checks if not only or check.name in only)


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
    words = [sys.executable, "-m", "cluster.doctor_child"]
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
