"""The command plan: sizes, memory and cost of a run."""

import argparse
from pathlib import Path
from typing import Any

from cluster.commands.base import (
    add_command,
    add_from,
    add_recipe,
    price,
    settings,
    write_json_file,
)
from wire.errors import ConfigError


def _plan(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cluster.config.recipe import read_recipe
    from cluster.plan.run_plan import make_plan

    config = read_recipe(options.recipe, settings(options))
    plan = make_plan(config, config.chain.names, _fleet(options))
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


def _fleet(options: argparse.Namespace) -> Any:
    """The cluster that the options name; None without ``--nodes``."""
    from cluster.plan.fleet import Fleet

    parts = {
        "network_gbit": options.network_gbit,
        "gpu_gb": options.gpu_gb,
        "gpu_tflops": options.gpu_tflops,
    }
    given = {name: value for name, value in parts.items() if value is not None}
    if options.nodes is None:
        if given:
            flag = "--" + next(iter(given)).replace("_", "-")
            raise ConfigError(f"{flag} needs --nodes NODESxGPUS, such as --nodes 4x8")
        return None
    num_nodes, gpus_per_node = options.nodes
    return Fleet(num_nodes=num_nodes, gpus_per_node=gpus_per_node, **given)


def _nodes(text: str) -> tuple[int, int]:
    nodes, _, gpus = text.partition("x")
    numbers = nodes.isdecimal() and gpus.isdecimal()
    if not (numbers and 0 < int(nodes) <= 10_000 and 0 < int(gpus) <= 1000):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NODESxGPUS such as 4x8")
    return int(nodes), int(gpus)


def _amount(text: str) -> float:
    amount = price(text)
    if not amount:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected more than 0")
    return amount


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
        "--price-per-gpu-hour", type=price, metavar="X", help="with --measured: what it costs"
    )
    plan.add_argument(
        "--nodes",
        type=_nodes,
        metavar="NxG",
        help="on N nodes of G GPUs, such as 4x8: placement, bytes a step sends, what saturates",
    )
    plan.add_argument(
        "--network-gbit", type=_amount, metavar="X", help="with --nodes: a node's network (100)"
    )
    plan.add_argument(
        "--gpu-gb", type=_amount, metavar="X", help="with --nodes: memory of a GPU (80)"
    )
    plan.add_argument(
        "--gpu-tflops",
        type=_amount,
        metavar="X",
        help="with --nodes: what a GPU reaches in training (400)",
    )
