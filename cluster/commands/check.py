"""The command check: faults of a recipe, before a run."""

import argparse
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command, add_from, add_recipe, settings, write_json_file
from cluster.commands.run import COMMANDS
from wire.errors import ConfigError


def _check(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cluster.check.recipe_check import CheckRequest, check_recipe
    from cluster.check.table import print_report
    from wire.finding import Level

    request = CheckRequest(
        recipe=options.recipe,
        settings=settings(options),
        run_dir=options.run_dir or Path("runs") / options.recipe.stem,
        command=options.command_to_run,
        group_by=options.group_by,
    )
    report = check_recipe(request)
    print_report(report)
    errors, warnings = len(report.of(Level.ERROR)), len(report.of(Level.WARNING))
    passed = not errors and not (options.strict and warnings)
    if options.json is not None:
        counts = {"passed": passed, "num_errors": errors, "num_warnings": warnings}
        write_json_file(options.json, {**counts, **asdict(report), "recipe": str(report.recipe)})
    if errors:
        raise ConfigError(
            f"{_counted(errors, 'error')} would stop this run ({_counted(warnings, 'warning')}); "
            "do what is said beside each, and check again"
        )
    if not passed:
        raise ConfigError(
            f"{_counted(warnings, 'warning')}, and --strict allows none; do what is said beside "
            "each"
        )


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "recipe, data, model and machine, all findings at once; starts nothing"
    check = add_command(commands, "check", text, _check)
    add_recipe(check)
    add_from(check)
    check.add_argument(
        "--run-dir", type=Path, help="of the run to be; default: runs/NAME-OF-RECIPE"
    )
    check.add_argument(
        "--for",
        dest="command_to_run",
        choices=COMMANDS,
        default="run",
        help="the command that is to run; default: run",
    )
    check.add_argument(
        "--group-by",
        action="append",
        default=[],
        metavar="COLUMN",
        help="no value of this column may be in two splits; may be given again",
    )
    check.add_argument("--strict", action="store_true", help="warnings fail, too")
    check.add_argument("--json", type=Path, metavar="FILE", help="write all findings there, too")
