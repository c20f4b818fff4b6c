"""The command scale: how many rollout workers a run is to have from now on."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.base import add_command, say
from wire.errors import ConfigError

if TYPE_CHECKING:
    from cluster.config.recipe import RunConfig


def _scale(options: argparse.Namespace) -> None:
    from cluster.pool.desired_workers import WORKERS_FILE, ask_for_workers
    from cluster.pool.worker_view import read_fleet
    from cluster.run_files import is_locked, read_run_recipe

    path, workers = options.run, options.workers
    _refuse(read_run_recipe(path), workers)
    try:
        ask_for_workers(path, workers)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path / WORKERS_FILE}: {error.strerror}; remove what is in its way, or "
            "give the command where the run directory may be written to"
        ) from error
    view = read_fleet(path)
    there = "" if view is None else f"; until now {view.desired} were wanted"
    idle = is_locked(path) is False
    when = "once it goes on (--resume)" if idle else "within seconds, as far as there is room"
    say(f"{path} is to have {workers} rollout worker(s) {when}{there}")


def _refuse(config: "RunConfig", workers: int) -> None:
    """Raise ConfigError if a run cannot have so many workers."""
    rollout = config.rollout
    if not rollout.is_elastic:
        raise ConfigError(
            f"the run has rollout.num_workers={rollout.num_workers} for good; to change their "
            "number while it goes on, end it and go on with --resume --set rollout.max_workers=N "
            "(and rollout.min_workers)"
        )
    lowest, highest = rollout.min_workers or 1, rollout.max_workers or rollout.num_workers
    if not lowest <= workers <= highest:
        raise ConfigError(
            f"--workers {workers} is not between rollout.min_workers={lowest} and "
            f"rollout.max_workers={highest}; give a number between them, or resume the run with "
            "other limits (--resume --set rollout.max_workers=N)"
        )


def add(commands: Any) -> None:
    """Add the command."""
    command = add_command(
        commands, "scale", "change the number of rollout workers of a run that goes on", _scale
    )
    command.add_argument("run", type=Path, metavar="RUN", help="its run directory, on any node")
    command.add_argument(
        "--workers", type=int, required=True, metavar="N", help="rollout workers from now on"
    )
