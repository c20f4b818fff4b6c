"""The command plan: sizes, memory and cost of a run."""

import argparse
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command, add_from, add_recipe, settings, write_json_file
from wire.errors import ConfigError


def _plan(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cluster.config.recipe import read_recipe
    from cluster.plan.run_plan import make_plan

    config = read_recipe(options.recipe, settings(options))
    plan = make_plan(config, config.chain.names)
    from cluster.plan.cost import estimate
    from cluster.plan.table import print_cost, print_plan

    if options.price_per_gpu_hour is not None and options.measured is None:
        raise ConfigError("--price-per-gpu-hour needs --measured RUN: a run that tells the hours")
    cost = options.measured and estimate(plan, config, options.measured, options.price_per_gpu_hour)
    print_plan(plan, options.recipe.stem)
    written = asdict(plan)
    if cost is not None:
        print_cost(cost)
        written["cost"] = asdict(cost)
    if options.json is not None:
        write_json_file(options.json, written)


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected an amount such as 2.5")
    return price


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "what a run would do: batches, workers, memory, cost; starts nothing"
    plan = add_command(commands, "plan", text, _plan)
    add_recipe(plan)
    add_from(plan)
    plan.add_argument("--json", type=Path, metavar="FILE", help="write the plan there, too")
    plan.add_argument(
        "--measured",
        type=Path,
        metavar="RUN",
        help="a run directory: what its stages took, scaled by this plan's counts",
    )
    plan.add_argument(
        "--price-per-gpu-hour", type=_price, metavar="X", help="with --measured: what it costs"
    )
