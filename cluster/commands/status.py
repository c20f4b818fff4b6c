"""The commands status and ls: one run, live, or all runs below a folder."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command
from wire.strict_json import to_json

_EVERY_S = 2.0
_SIZE_EVERY_S = 30.0  # counting a large cache on a shared disk is slow


def _status(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from cluster.driver.progress import console
    from cluster.status.heartbeat import State
    from cluster.status.run_status import read_status
    from cluster.status.table import status_view

    status = read_status(options.run)
    if options.json:
        sys.stdout.write(to_json(status.to_plain(), indent=2) + "\n")
        return
    if options.once or not console.is_terminal or status.state is not State.RUNNING:
        console.print(status_view(status))
        return
    from rich.live import Live

    with Live(status_view(status), console=console, auto_refresh=False) as live:
        try:
            counted = time.monotonic()
            while status.state is State.RUNNING:
                time.sleep(_EVERY_S)
                again = time.monotonic() - counted > _SIZE_EVERY_S
                counted = time.monotonic() if again else counted
                new = read_status(options.run, with_size=again)
                status = new if again else replace(new, size_gb=status.size_gb)
                live.update(status_view(status), refresh=True)
        except KeyboardInterrupt:
            return  # only the looking ends


def _ls(options: argparse.Namespace) -> None:
    from cluster.driver.progress import console
    from cluster.status.run_status import find_runs, read_status
    from cluster.status.table import runs_view
    from wire.errors import ConfigError

    if not options.folder.is_dir():
        raise ConfigError(f"there is no folder {options.folder}; give one that holds runs")
    runs = [read_status(path) for path in find_runs(options.folder)]
    if options.json:
        sys.stdout.write(to_json([run.to_plain() for run in runs], indent=2) + "\n")
    elif runs:
        console.print(runs_view(runs, options.folder))
    else:
        console.print(f"no runs below {options.folder}")


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "how a run stands, live; reads files only, so from any machine that sees them"
    status = add_command(commands, "status", text, _status)
    status.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    status.add_argument("--once", action="store_true", help="print it and end")
    status.add_argument("--json", action="store_true", help="print it as JSON and end")
    ls = add_command(commands, "ls", "runs below a folder, and how each stands", _ls)
    ls.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), metavar="DIR", help="default: runs"
    )
    ls.add_argument("--json", action="store_true", help="print them as JSON")
