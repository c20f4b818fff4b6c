"""The command rescore: scores an archive with another reward."""

import argparse
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command, say, write_json_file
from wire.types import Purpose


def _rescore(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cluster.commands.tables.reward import print_change
    from cluster.config.recipe import read_recipe
    from cluster.driver.interrupts import run_interruptibly
    from cluster.driver.progress import progress_bar
    from cluster.inputs.scorer import new_reward
    from reward.tools.rescore import rescore

    config = read_recipe(options.recipe, options.set)
    purpose = Purpose(options.purpose) if options.purpose else None
    new = new_reward(config, options.recipe.stem, options.run)
    work = rescore(options.run, new, progress_bar, purpose)
    rescored = run_interruptibly(work, say, lambda: None)
    print_change(rescored.change)
    before = f", {rescored.num_before} were judged before" if rescored.num_before else ""
    say(f"judged {rescored.num_judged} groups{before}; scores in {rescored.folder}")
    if options.json is not None:
        write_json_file(options.json, asdict(rescored.change))


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "score a run's traces again under another recipe, offline; goes on if repeated"
    command = add_command(commands, "rescore", text, _rescore)
    command.add_argument("run", type=Path, metavar="RUN", help="a run directory; only read")
    command.add_argument(
        "--recipe", type=Path, required=True, metavar="RECIPE", help="the recipe of the new reward"
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        help="override a setting of the recipe; may be given again",
    )
    command.add_argument(
        "--purpose",
        choices=[purpose.value for purpose in Purpose if purpose is not Purpose.RATIONALE],
        help="only these groups; default: all",
    )
    command.add_argument(
        "--json", type=Path, metavar="FILE", help="write the comparison there, too"
    )
