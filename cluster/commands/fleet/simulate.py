"""The command simulate: a recipe's training loop and pool in virtual time, at any size."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.base import add_command, add_recipe, price, write_json_file
from wire.errors import ConfigError

if TYPE_CHECKING:
    from cluster.config.recipe import RunConfig
    from cluster.simulation.estimate import ModelSizes
    from cluster.simulation.scenario import Scenario
    from cluster.simulation.timings import Timings

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_MOST_WORKERS = 20_000
_MOST_TRACES = 5_000_000


def _simulate(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cluster.config.recipe import read_recipe
    from cluster.simulation.run import simulate, what_would_help
    from cluster.simulation.table import limit_in_words, print_simulation

    config = read_recipe(options.recipe, [*options.set, *_workers(options)])
    scenario, notes = _scenario(options, config)
    _refuse_too_much(scenario)
    _make_folder(options.timeline)
    run = simulate(scenario, options.timeline)
    changes = what_would_help(scenario) if options.limits else []
    print_simulation(options.recipe.stem, run, changes, notes)
    if options.json is not None:
        written = {
            "run": asdict(run),
            "limit": limit_in_words(changes) if changes else None,
            "changes": [asdict(change) for change in changes],
            "timings": scenario.timings.model_dump(),
            "faults": asdict(scenario.faults),
            "notes": notes,
        }
        write_json_file(options.json, written)


def _workers(options: argparse.Namespace) -> list[str]:
    """Settings of the number of workers that ``--workers`` and ``--room`` ask for."""
    if options.workers is None:
        return []
    most = max([options.workers, *(change.workers for change in options.room)])
    return [f"rollout.num_workers={options.workers}", f"rollout.max_workers={most}"]


def _scenario(options: argparse.Namespace, config: "RunConfig") -> tuple["Scenario", list[str]]:
    """The scenario that the options describe, and what its timings rest on."""
    from cluster.config.kinds.grpo import GrpoStage
    from cluster.simulation.faults import FaultRates
    from cluster.simulation.scenario import Scenario

    if not any(isinstance(stage, GrpoStage) for stage in config.chain):
        raise ConfigError(
            f"{options.recipe} has no stage that trains by GRPO, and only its loop is simulated; "
            "give a recipe with one"
        )
    timings, notes = _timings(options, config)
    faults = FaultRates(
        worker_mtbf_s=options.worker_mtbf,
        hang_frac=options.hang_frac,
        node_mtbf_s=options.node_mtbf,
        rank_mtbf_s=options.rank_mtbf,
        changes=tuple(options.room),
    )
    scenario = Scenario.of(
        config,
        timings,
        faults=faults,
        num_steps=options.steps,
        workers_per_node=options.workers_per_node,
        seed=options.seed,
    )
    return scenario, notes


def _timings(options: argparse.Namespace, config: "RunConfig") -> tuple["Timings", list[str]]:
    from cluster.simulation.timings import Timings
    from wire.config import validate

    given = dict(options.time)
    if options.from_run is not None:
        from cluster.simulation.measured import read_measured, with_engine_speed
        from cluster.simulation.run import mean_step_s

        measured = read_measured(options.from_run)
        values = with_engine_speed(measured, mean_step_s).model_dump()
        notes = [
            f"timings are those of {options.from_run}: {measured.num_steps} steps of "
            f"{measured.step_s:.3g} s with {measured.config.rollout.num_workers} worker(s)"
        ]
    elif {"decode_step_s", "response_length"} <= given.keys():
        values, notes = {}, ["timings are those of --time alone"]
    else:
        from cluster.simulation.estimate import GpuSpeed, estimated

        gpu = GpuSpeed(tflops=options.gpu_tflops, gb_per_s=options.gpu_gb_per_s)
        values = estimated(config, _sizes(config), gpu).model_dump()
        notes = [
            "timings are estimated from the model's sizes and a GPU of "
            f"{gpu.tflops:g} TFLOP/s and {gpu.gb_per_s:g} GB/s, not measured; --from RUN takes "
            "those of a run"
        ]
    timings = validate(Timings, {**values, **given}, "--time")
    if given:
        notes.append("given: " + ", ".join(f"{name} = {value}" for name, value in given.items()))
    longest = config.rollout.max_response_length
    if timings.response_length > longest:
        raise ConfigError(
            f"answers of {timings.response_length:g} tokens on average are longer than "
            f"rollout.max_response_length={longest}; lower --time response_length, or raise the "
            "other"
        )
    return timings, notes


def _sizes(config: "RunConfig") -> "ModelSizes | None":
    """Sizes of the recipe's model; None if they are not known here."""
    from cluster.plan.model_size import BYTES
    from cluster.plan.run_plan import plan_of
    from cluster.simulation.estimate import ModelSizes

    plan = plan_of(config, config.chain.names, None)
    if plan.memory is None or plan.disk is None:
        return None
    memory, learner = plan.memory, config.learner
    sent = memory.trained_parameters if learner.hands_off_adapters else memory.parameters
    return ModelSizes(
        parameters=memory.parameters,
        engine_bytes=memory.engine.weight_bytes,
        kv_bytes_per_token=memory.engine.kv_bytes_per_token,
        sent_bytes=BYTES[learner.dtype] * sent,
        checkpoint_bytes=plan.disk.checkpoint,
        prompt_tokens=plan.clip_tokens.tokens if plan.clip_tokens else 0,
    )


def _refuse_too_much(scenario: "Scenario") -> None:
    traces = scenario.num_steps * scenario.grpo.groups_per_step * scenario.rollout.group_size
    if traces > _MOST_TRACES:
        raise ConfigError(
            f"{scenario.num_steps} steps of {traces // scenario.num_steps:,} traces are "
            f"{traces:,}, more than {_MOST_TRACES:,}; lower --steps"
        )


def _make_folder(path: Path | None) -> None:
    if path is None:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write to {path}: {error.strerror}; give --timeline a folder"
        ) from error


def _count(most: int) -> Any:
    def count(text: str) -> int:
        if not (text.isdecimal() and 0 < int(text) <= most):
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 1 to {most:,}")
        return int(text)

    return count


def duration(text: str) -> float:
    """A duration on a command line: ``90s``, ``15min``, ``12h``, ``30d``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h|d)", text, re.ASCII)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected a duration such as 90s, 15min, 12h or 30d"
        )
    return float(match[1]) * _UNITS[match[2]]


def _room(text: str) -> Any:
    from cluster.simulation.faults import RoomChange

    at, _, workers = text.partition("=")
    if not (workers.isdecimal() and 0 < int(workers) <= _MOST_WORKERS):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected TIME=WORKERS such as 2h=20: room for 20 from hour 2 on"
        )
    return RoomChange(at_s=duration(at), workers=int(workers))


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a share from 0 to 1")
    return share


def _speed(text: str) -> float:
    speed = price(text)
    if not speed:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected more than 0")
    return speed


def _timing(text: str) -> tuple[str, float]:
    from cluster.simulation.timings import Timings
    from wire.nearest import nearest

    name, _, value = text.partition("=")
    if name not in Timings.model_fields:
        known = nearest(name, list(Timings.model_fields), "timings")
        raise argparse.ArgumentTypeError(f"got {text!r}: {known}")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected NAME=NUMBER such as reward_s=0.5"
        ) from None


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = (
        "how fast a recipe would train with so many workers, what limits it, and what failures "
        "cost: the real loop, buffer and pool in virtual time; starts nothing"
    )
    simulate = add_command(commands, "simulate", text, _simulate)
    add_recipe(simulate)
    simulate.add_argument(
        "--workers",
        type=_count(_MOST_WORKERS),
        metavar="N",
        help="rollout workers at the start; default: the recipe's",
    )
    simulate.add_argument(
        "--steps", type=_count(100_000), default=20, metavar="N", help="steps; default: 20"
    )
    simulate.add_argument(
        "--from",
        dest="from_run",
        type=Path,
        metavar="RUN",
        help="a run directory whose timings are measured; default: estimated",
    )
    simulate.add_argument(
        "--time",
        type=_timing,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a timing of docs/simulation.md, such as reward_s=0.5; may be given again",
    )
    _add_cluster(simulate)
    _add_faults(simulate)
    simulate.add_argument(
        "--no-limits",
        dest="limits",
        action="store_false",
        help="do not simulate again with each part twice as fast",
    )
    simulate.add_argument("--seed", type=int, default=0, help="of lengths and faults; default: 0")
    simulate.add_argument(
        "--timeline",
        type=Path,
        metavar="DIR",
        help="write the steps' timelines there, which Perfetto opens, as of a real run",
    )
    simulate.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")


def _add_cluster(simulate: Any) -> None:
    simulate.add_argument(
        "--workers-per-node", type=_count(64), default=8, metavar="N", help="default: 8"
    )
    simulate.add_argument(
        "--gpu-tflops",
        type=_speed,
        default=400.0,
        metavar="X",
        help="what a GPU reaches in training, where timings are estimated (400)",
    )
    simulate.add_argument(
        "--gpu-gb-per-s",
        type=_speed,
        default=3350.0,
        metavar="X",
        help="bandwidth of a GPU's memory, where timings are estimated (3350)",
    )


def _add_faults(simulate: Any) -> None:
    for name, who in (("worker", "a worker's engine"), ("node", "a node"), ("rank", "a rank")):
        simulate.add_argument(
            f"--{name}-mtbf",
            type=duration,
            metavar="TIME",
            help=f"mean time between failures of {who}, such as 24h; default: none fails",
        )
    simulate.add_argument(
        "--hang-frac",
        type=_share,
        default=0.2,
        metavar="SHARE",
        help="of the engines that fail, those that hang instead of dying; default: 0.2",
    )
    simulate.add_argument(
        "--room",
        type=_room,
        action="append",
        default=[],
        metavar="TIME=N",
        help="from then on there is room for N workers, such as 2h=20; may be given again",
    )
