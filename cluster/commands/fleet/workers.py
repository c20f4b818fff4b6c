"""The command workers: a run's rollout workers in conditions."""

import argparse
import sys
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command
from wire.errors import ConfigError
from wire.strict_json import to_json


def _workers(options: argparse.Namespace) -> None:
    from cluster.driver.progress import console
    from cluster.pool.worker_view import FLEET_FILE
    from cluster.status.fleet_status import read_fleet_status
    from cluster.status.fleet_table import workers_view
    from cluster.status.heartbeat import State
    from cluster.status.run_status import read_status

    run = read_status(options.run, with_size=False)
    live = run.state is State.RUNNING
    fleet = read_fleet_status(options.run, live=live, num_events=max(0, options.events))
    if fleet is None:
        if (file := options.run / FLEET_FILE).exists():
            raise ConfigError(
                f"{file} is damaged, or of another version of this program; a run that goes on "
                "writes it anew at its next change, else use the version that wrote it"
            )
        raise ConfigError(
            f"{options.run} has no fleet.json: its workers have not been started yet, or an "
            "earlier version started them; `deepintuit status` says how the run stands"
        )
    if options.json:
        sys.stdout.write(to_json({"run": run.path, **fleet.to_plain()}, indent=2) + "\n")
        return
    console.print(workers_view(fleet))


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "a run's rollout workers: who is alive, has the newest weights, serves"
    workers = add_command(commands, "workers", text, _workers)
    workers.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    workers.add_argument("--json", action="store_true", help="print them as JSON")
    workers.add_argument(
        "--events", type=int, default=10, metavar="N", help="the last N events; default: 10"
    )
