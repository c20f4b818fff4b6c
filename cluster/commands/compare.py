"""The command compare: runs and stages side by side."""

import argparse
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command, price, write_json_file


def _compare(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cluster.study.compare import compare_runs
    from cluster.study.compare_table import print_comparison

    comparison = compare_runs(
        options.runs, stages=options.stage, against=options.against, only_shared=options.shared
    )
    print_comparison(comparison, options.price_per_hour)
    if options.json:
        write_json_file(options.json, asdict(comparison))


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    compare = add_command(commands, "compare", "runs and stages side by side, with tests", _compare)
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run directory")
    compare.add_argument(
        "--stage",
        action="append",
        default=[],
        metavar="NAME",
        help="only this stage, or other name in predictions/; may be given again",
    )
    compare.add_argument(
        "--against", metavar="NAME", help="test all of a run with this, not stage with stage"
    )
    compare.add_argument("--shared", action="store_true", help="only the clips that all share")
    compare.add_argument(
        "--price-per-hour",
        type=price,
        metavar="X",
        help="of the machines that a run had: what 1,000 answers cost",
    )
    compare.add_argument("--json", type=Path, metavar="FILE", help="write all figures here, too")
