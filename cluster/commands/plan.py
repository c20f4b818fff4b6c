"""What a run would do."""

import argparse
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command, add_recipe, write_json_file


def _plan(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cluster.config import read_recipe
    from cluster.plan import make_plan

    config = read_recipe(options.recipe, options.set)
    plan = make_plan(config, config.stages)
    from cluster.plan_table import print_plan

    print_plan(plan, options.recipe.stem)
    if options.json is not None:
        write_json_file(options.json, asdict(plan))


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "what a run would do: batches, workers, memory; starts nothing"
    plan = add_command(commands, "plan", text, _plan)
    add_recipe(plan)
    plan.add_argument("--json", type=Path, metavar="FILE", help="write the plan there, too")
