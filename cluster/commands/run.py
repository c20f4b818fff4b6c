"""The command run, and a command for each stage."""

import argparse
from functools import partial
from typing import Any

from cluster.commands.base import (
    Run,
    add_from,
    add_run_command,
    run_in_directory,
    run_path,
    say,
    settings,
)

_HELP = {
    "run": "all stages: base, cold start, GRPO, calibration",
    "rationales": "write rationales of labelled clips, and keep what passes the filters",
    "coldstart": "stage 1: supervised fine-tuning on teacher traces",
    "grpo": "stage 2: GRPO, from the run directory's cold start or else from the recipe's model",
    "calibrate": "stage 3: verdict and head, on traces of the run directory's policy",
    "evaluate": "measure the recipe's model",
}
_RESUME = (
    "go on with the run in --run-dir; more steps or epochs, learning rates and save intervals may "
    "be others than before (docs/resume.md)"
)
_AUTO_RESUME = (
    "go on with the run in --run-dir if there is one, else start it: for schedulers, which give "
    "the same command again"
)
COMMANDS = tuple(_HELP)
"""`run`, and one command for each kind of stage (``Stage.command``)."""


def _run(options: argparse.Namespace) -> None:
    from cluster.config.recipe import read_recipe

    config = read_recipe(options.recipe, settings(options))
    from cluster.commands.tables.resume import summarise_resume
    from cluster.run import run_stages
    from cluster.run_dir import RunDir
    from cluster.run_files import holds_run

    path, stages = run_path(options), config.stages_of(options.command)
    resume = options.resume or (options.auto_resume and holds_run(path))
    run_dir = RunDir.open(path, config, resume=resume, overwrite=options.overwrite)

    def prepare() -> Run:
        archived = None
        if resume:
            summary = summarise_resume(config, run_dir, stages)
            archived = summary.archived
            for line in summary.lines:
                say(line)
        return partial(run_stages, config, run_dir, stages, debug=options.debug, archived=archived)

    run_in_directory(options, run_dir, stages, prepare)


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    for name, text in _HELP.items():
        command = add_run_command(commands, name, text, _run)
        add_from(command)
        again = command.add_mutually_exclusive_group()
        again.add_argument("--resume", action="store_true", help=_RESUME)
        again.add_argument("--auto-resume", action="store_true", help=_AUTO_RESUME)
        again.add_argument("--overwrite", action="store_true", help="replace the run in --run-dir")
