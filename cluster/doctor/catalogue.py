"""The doctor's checks: which trial each one runs, with which remedy."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wire.errors import ConfigError
from wire.nearest import nearest

ROOT = Path(__file__).resolve().parents[2]


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


_LIGHT, _ENGINES = "cluster.doctor.machine_trials", "cluster.doctor.engine_trials"

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
