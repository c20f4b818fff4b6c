"""The command line. Heavy imports come after parsing, so that ``--help`` answers at once."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wire.errors import ConfigError, DeepIntuitError, UserError

_STAGES = {
    "run": ("base", "coldstart", "grpo", "calibrated"),
    "coldstart": ("coldstart",),
    "grpo": ("grpo",),
    "calibrate": ("calibrated",),
    "evaluate": ("base",),
}
_HELP = {
    "run": "all stages: base, cold start, GRPO, calibration",
    "coldstart": "stage 1: supervised fine-tuning on teacher traces",
    "grpo": "stage 2: GRPO, from the run directory's cold start or else from the recipe's model",
    "calibrate": "stage 3: verdict and head, on traces of the run directory's policy",
    "evaluate": "measure the recipe's model",
}
_CONTROLS = "control arms beside the stages of a finished run; those that have finished are skipped"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 the user can mend it, 1 it failed, 130 interrupted."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        options.act(options)
    except UserError as error:
        return _fail(error, options.debug, 2)
    except KeyboardInterrupt:
        _say("interrupted; --resume goes on from the last checkpoint")
        return 130
    except DeepIntuitError as error:
        return _fail(error, options.debug, 1)
    except ExceptionGroup as group:
        if group.split(DeepIntuitError)[1] is not None:
            raise  # a bug of ours: with its traceback
        return _fail(group, options.debug, 1 if group.split(UserError)[1] else 2)
    return 0


def _run(options: argparse.Namespace) -> None:
    from cluster.config import read_recipe

    config = read_recipe(options.recipe, options.set)
    from cluster.run import run_stages
    from cluster.run_dir import RunDir
    from cluster.table import print_summary

    path = options.run_dir or Path("runs") / options.recipe.stem
    run_dir = RunDir.open(path, config, resume=options.resume, overwrite=options.overwrite)
    try:
        stages = _STAGES[options.command]
        summary = asyncio.run(run_stages(config, run_dir, stages, debug=options.debug))
    finally:
        run_dir.close()
    print_summary(summary, run_dir.path)


def _controls(options: argparse.Namespace) -> None:
    from cluster.config import read_recipe

    only = [f"controls.arms={options.only}"] if options.only else []
    config = read_recipe(options.recipe, [*options.set, *only])
    from cluster.controls import run_controls
    from cluster.run_dir import RunDir
    from cluster.table import print_summary

    path = options.run_dir or Path("runs") / options.recipe.stem
    if not (path / "archive").exists():
        raise ConfigError(
            f"there is no run in {path}, and control arms stand beside one; start it with "
            "`deepintuit run`, or give its --run-dir"
        )
    run_dir = RunDir.open(path, config, resume=True, overwrite=False)
    try:
        summary = asyncio.run(run_controls(config, run_dir, debug=options.debug))
    finally:
        run_dir.close()
    print_summary(summary, run_dir.path)


def _make_demo_data(options: argparse.Namespace) -> None:
    from cluster.demo.clips import make_demo_data

    if (options.out / "manifest.jsonl").exists():
        raise ConfigError(f"{options.out} holds a data set already; give another directory")
    _say(f"wrote {make_demo_data(options.out, seed=options.seed)}")


def _make_demo_model(options: argparse.Namespace) -> None:
    from cluster.demo.tiny_model import make_demo_model

    _refuse_existing(options.out)
    _say(f"wrote {make_demo_model(options.out, retrain=options.retrain)}")


def _refuse_existing(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} is there already; give a new directory")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deepintuit", description="Reinforcement learning that teaches video models to reason."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in _HELP.items():
        command = _run_command(commands, name, text, _run)
        again = command.add_mutually_exclusive_group()
        again.add_argument("--resume", action="store_true", help="go on with the run in --run-dir")
        again.add_argument("--overwrite", action="store_true", help="replace the run in --run-dir")
    controls = _run_command(commands, "controls", _CONTROLS, _controls)
    controls.add_argument(
        "--only", nargs="+", metavar="ARM", help="only these arms; default: the recipe's"
    )
    data = _command(commands, "make-demo-data", "write the embedded clips", _make_demo_data)
    data.add_argument("out", type=Path)
    data.add_argument("--seed", type=int, default=0)
    model = _command(commands, "make-demo-model", "write the embedded base model", _make_demo_model)
    model.add_argument("out", type=Path)
    model.add_argument("--retrain", action="store_true", help="train it anew (minutes)")
    return parser


def _run_command(commands: Any, name: str, text: str, act: Callable[..., None]) -> Any:
    """A command about a recipe and a run directory."""
    command = _command(commands, name, text, act)
    command.add_argument("recipe", type=Path, help="a recipe, such as recipes/demo.toml")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        help="override a setting of the recipe; may be given again",
    )
    command.add_argument("--run-dir", type=Path, help="default: runs/NAME-OF-RECIPE")
    return command


def _command(commands: Any, name: str, text: str, act: Callable[..., None]) -> Any:
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("--debug", action="store_true", help="tracebacks and worker logs")
    command.set_defaults(act=act)
    return command


def _fail(error: BaseException, debug: bool, status: int) -> int:
    if debug:
        raise error
    for cause in _causes(error):
        _say(f"error: {cause}")
    return status


def _causes(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [cause for inner in error.exceptions for cause in _causes(inner)]
    return [getattr(error, "cause", None) or error]  # Ray wraps what an actor raised


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
