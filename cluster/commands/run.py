"""The stages, all or one at a time."""

import argparse
from functools import partial
from typing import Any

from cluster.commands.base import add_run_command, resume_command, run_path, say

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
    from cluster.at_work import State, at_work
    from cluster.interrupts import run_interruptibly
    from cluster.report.write import report_at_end
    from cluster.resume import resume_lines
    from cluster.run import run_stages
    from cluster.run_dir import RunDir
    from cluster.table import print_summary

    path, stages = run_path(options), STAGES.get(options.command, config.stages)
    run_dir = RunDir.open(path, config, resume=options.resume, overwrite=options.overwrite)
    try:
        if options.resume:
            for line in resume_lines(config, run_dir, stages):
                say(line)
        with (
            report_at_end(run_dir.path),
            at_work(run_dir, stages, resume_command(options.typed)) as signs,
        ):
            work = run_stages(config, run_dir, stages, debug=options.debug)
            last = partial(signs.end, State.STOPPED, "it was interrupted twice")
            print_summary(run_interruptibly(work, say, last), run_dir.path)
    finally:
        run_dir.close()


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    for name, text in _HELP.items():
        command = add_run_command(commands, name, text, _run)
        again = command.add_mutually_exclusive_group()
        again.add_argument("--resume", action="store_true", help="go on with the run in --run-dir")
        again.add_argument("--overwrite", action="store_true", help="replace the run in --run-dir")
