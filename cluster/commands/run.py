"""The stages, all or one at a time."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

from cluster.commands.base import add_run_command

STAGES = {
    "coldstart": ("coldstart",),
    "grpo": ("grpo",),
    "calibrate": ("calibrated",),
    "evaluate": ("base",),
}
"""Of the commands for one; `run` takes those of the recipe."""
_HELP = {
    "run": "all stages: base, cold start, GRPO, calibration",
    "coldstart": "stage 1: supervised fine-tuning on teacher traces",
    "grpo": "stage 2: GRPO, from the run directory's cold start or else from the recipe's model",
    "calibrate": "stage 3: verdict and head, on traces of the run directory's policy",
    "evaluate": "measure the recipe's model",
}


def _run(options: argparse.Namespace) -> None:
    from cluster.config import read_recipe

    config = read_recipe(options.recipe, options.set)
    from cluster.run import run_stages
    from cluster.run_dir import RunDir
    from cluster.table import print_summary

    path = options.run_dir or Path("runs") / options.recipe.stem
    run_dir = RunDir.open(path, config, resume=options.resume, overwrite=options.overwrite)
    try:
        stages = STAGES.get(options.command, config.stages)
        summary = asyncio.run(run_stages(config, run_dir, stages, debug=options.debug))
    finally:
        run_dir.close()
    print_summary(summary, run_dir.path)


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    for name, text in _HELP.items():
        command = add_run_command(commands, name, text, _run)
        again = command.add_mutually_exclusive_group()
        again.add_argument("--resume", action="store_true", help="go on with the run in --run-dir")
        again.add_argument("--overwrite", action="store_true", help="replace the run in --run-dir")
