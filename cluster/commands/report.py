"""The command report: one HTML file about a run."""

import argparse
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command, say
from wire.errors import ConfigError


def _report(options: argparse.Namespace) -> None:
    if options.max_clips < 0 or options.max_mb <= 0:
        raise ConfigError(
            f"--max-clips {options.max_clips} --max-mb {options.max_mb:g}: expected a number of "
            "clips from 0, and a size above 0"
        )
    from cluster.report.write import write_report

    report = write_report(
        options.run, options.out, max_clips=options.max_clips, max_mb=options.max_mb
    )
    say(
        f"wrote {report.path}: {report.size_mb:.1f} MB, {report.num_clips} evaluated clips, "
        f"{report.num_groups} groups of the training"
    )


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "one HTML file about a run, also while it goes on: results, curves, clips, traces"
    report = add_command(commands, "report", text, _report)
    report.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    report.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/report.html")
    report.add_argument(
        "--max-clips",
        type=int,
        default=400,
        metavar="N",
        help="evaluated clips to show at most, the most telling first (default: 400)",
    )
    report.add_argument(
        "--max-mb", type=float, default=20.0, metavar="MB", help="size at most (default: 20)"
    )
