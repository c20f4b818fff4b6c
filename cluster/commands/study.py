"""The commands controls and study: control arms of a run, and a study of several seeds."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from cluster.commands.base import (
    add_command,
    add_from,
    add_recipe,
    add_run_command,
    run_in_directory,
    run_path,
    say,
    settings,
)
from wire.errors import ConfigError

_CONTROLS = "control arms beside the stages of a finished run; those that have finished are skipped"


def _study(options: argparse.Namespace) -> None:
    import shlex

    from cluster.study.runner import Study, run_study

    page = run_study(
        Study(
            recipe=options.recipe,
            directory=options.run_dir or Path("runs") / f"{options.recipe.stem}-study",
            seeds=tuple(options.seeds),
            settings=tuple(options.set),
            arms=tuple(options.arms),
            group_by=options.group_by,
            results=options.results,
            command=shlex.join(["deepintuit", *options.typed]),
            debug=options.debug,
        )
    )
    say(f"wrote {page}")


def _controls(options: argparse.Namespace) -> None:
    from cluster.config.recipe import read_recipe

    only = [f"controls.arms={options.only}"] if options.only else []
    config = read_recipe(options.recipe, [*settings(options), *only])
    from cluster.controls.arms import run_controls
    from cluster.run_dir import RunDir

    path = run_path(options)
    if not (path / "archive").exists():
        raise ConfigError(
            f"there is no run in {path}, and control arms stand beside one; start it with "
            "`deepintuit run`, or give its --run-dir"
        )
    run_dir = RunDir.open(path, config, resume=True, overwrite=False)
    run = partial(run_controls, config, run_dir, debug=options.debug)
    run_in_directory(options, run_dir, (*config.chain.names, *config.controls.arms), lambda: run)


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "all stages and controls under several seeds, and a page of results; goes on if repeated"
    study = add_command(commands, "study", text, _study)
    add_recipe(study)
    study.add_argument("--seeds", type=int, nargs="+", required=True, metavar="K")
    study.add_argument("--run-dir", type=Path, help="default: runs/NAME-OF-RECIPE-study")
    study.add_argument("--arms", nargs="+", default=[], metavar="ARM", help="default: all")
    study.add_argument("--group-by", metavar="COLUMN", help="manifest column to report apart")
    study.add_argument("--results", type=Path, metavar="FILE", help="default: RUN-DIR/results.md")
    controls = add_run_command(commands, "controls", _CONTROLS, _controls)
    add_from(controls)
    controls.add_argument(
        "--only", nargs="+", metavar="ARM", help="only these arms; default: the recipe's"
    )
