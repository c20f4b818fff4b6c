"""Batch script of SLURM for a run: a Ray of the job's nodes, the driver, nodes that join and leave.

recipe + nodes' sizes -> #SBATCH lines + settings + slurm_body.sh -> sbatch
"""

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from cluster.config.node_layout import ROLES, kinds_of, lay_out
from cluster.config.recipe import RunConfig
from cluster.deploy.run_command import run_command
from wire.errors import ConfigError

_MANY = 65_536.0  # CPUs, where the user gave no bound
_MAX_NODES = 10_000
_WARNING_S = 120  # between the signal and the end of the time
_START_TIMEOUT_S = 600
_DRIVER_CPUS = 2  # reward functions, the archive
_DIRECTIVES = ("job-name", "nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "time")
_UNCHECKED = "# shellcheck disable=SC1090,SC1091,SC2034"  # what --setup reads, what it uses


@dataclass(frozen=True, slots=True, kw_only=True)
class Slurm:
    """SLURM's side of a run: sizes of nodes, time, the site's own options."""

    name: str
    recipe: Path
    run_dir: Path
    overrides: tuple[str, ...] = ()
    gpus_per_node: int = 8
    cpus_per_node: int | None = None
    """None: as many as the recipe's workers ask for."""
    time: str = "24:00:00"
    options: tuple[str, ...] = ()
    """Options of sbatch, such as ``partition=gpu``."""
    setup: tuple[str, ...] = ()
    """Lines of shell before anything else, such as ``source /shared/venv/bin/activate``."""
    retries: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmNodes:
    """Nodes of a job: their number, and the CPUs and GPUs that are used of each."""

    count: int
    cpus: int
    gpus: int
    joining: int
    """Nodes that may join beside them, for the workers up to ``rollout.max_workers``."""


def slurm_nodes(config: RunConfig, where: Slurm) -> SlurmNodes:
    """The fewest nodes that hold a run's workers and ranks. Raises ConfigError."""
    kinds = kinds_of(config)
    on_gpus = any(kind.bundle.get("GPU") for kind in kinds)
    gpus = where.gpus_per_node if on_gpus else 0
    cpus = where.cpus_per_node or _MANY
    node = {"CPU": float(cpus), "GPU": float(gpus), **dict.fromkeys(ROLES, _MANY)}
    most = sum(kind.count for kind in kinds)
    for count in range(1, min(most, _MAX_NODES) + 1):
        if (layout := lay_out(kinds, [node] * count)) is not None:
            break
    else:
        raise ConfigError(
            f"no number of nodes of {gpus} GPUs and {where.cpus_per_node or 'any number of'} CPUs "
            "holds the recipe's workers and ranks; give larger nodes (--gpus-per-node, "
            "--cpus-per-node), or lower num_cpus and num_gpus of rollout and learner"
        )
    used = [0.0] * count
    for kind, of_kind in zip(kinds, layout, strict=True):
        for place in of_kind:
            used[place] += kind.bundle["CPU"]
    rollout = config.rollout
    more = (rollout.max_workers or rollout.num_workers) - rollout.num_workers
    share = max(rollout.num_gpus / gpus if gpus else 0.0, rollout.num_cpus / cpus)
    return SlurmNodes(
        count=count,
        cpus=where.cpus_per_node or math.ceil(max(used)) + _DRIVER_CPUS,
        gpus=gpus,
        joining=math.ceil(more / math.floor(1 / share)) if more else 0,
    )


def slurm_script(config: RunConfig, where: Slurm) -> str:
    """The batch script of a run. Raises ConfigError."""
    _refuse_broken_lines(where)
    for option in where.options:
        if option.lstrip("-").partition("=")[0] in _DIRECTIVES:
            raise ConfigError(
                f"--sbatch {option}: the script sets that itself, from the recipe and from --name, "
                "--time, --gpus-per-node and --cpus-per-node"
            )
    nodes = slurm_nodes(config, where)
    lines = ["#!/bin/bash", *_directives(nodes, where), "", *_usage(nodes, where), _UNCHECKED]
    settings = {
        "job_name": where.name,
        "run_dir": str(where.run_dir),
        "command": run_command(where.recipe, where.run_dir, where.overrides),
        "cpus_per_node": str(nodes.cpus),
        "gpus_per_node": str(nodes.gpus),
        "retries": str(where.retries),
        "start_timeout_s": str(_START_TIMEOUT_S),
    }
    lines += [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    body = files("cluster.deploy").joinpath("slurm_body.sh").read_text(encoding="utf-8")
    return "\n".join([*lines, *where.setup, "", body])


def _refuse_broken_lines(where: Slurm) -> None:
    """Raise ConfigError where a value would break its #SBATCH line, whose rest bash would run."""
    if not re.fullmatch(r"[\w.-]+", where.name):
        raise ConfigError(
            f"the job's name is {where.name!r}, expected letters, digits, '.', '_' and '-'; give "
            "--name"
        )
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", where.time, re.ASCII):
        raise ConfigError(
            f"--time {where.time!r}: expected a time of SLURM's such as 90 (minutes), 24:00:00 or "
            "2-12:00:00"
        )
    for option in where.options:
        if not option.strip() or not option.isprintable():
            raise ConfigError(
                f"--sbatch {option!r}: expected one option of sbatch on one line, such as "
                "partition=gpu"
            )


def _directives(nodes: SlurmNodes, where: Slurm) -> list[str]:
    options = [
        f"job-name={where.name}",
        f"nodes={nodes.count}",
        "ntasks-per-node=1",
        f"cpus-per-task={nodes.cpus}",
        *([f"gpus-per-node={nodes.gpus}"] if nodes.gpus else []),
        f"time={where.time}",
        "requeue",
        "no-kill",
        "open-mode=append",
        f"signal=B:USR1@{_WARNING_S}",
        *(option.lstrip("-") for option in where.options),
    ]
    return [f"#SBATCH --{option}" for option in options]


def _usage(nodes: SlurmNodes, where: Slurm) -> Sequence[str]:
    """How the script is submitted, as a comment in it."""
    lines = [f"# The run: sbatch {where.name}.sbatch"]
    if nodes.joining:
        lines += [
            "# Nodes that come and go beside it, for more rollout workers:",
            f"#     sbatch --nodes=1 --array=1-{nodes.joining} {where.name}.sbatch join",
        ]
    return lines
