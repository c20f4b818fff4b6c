"""What the commands share: their arguments, and how they speak."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wire.errors import ConfigError


def add_command(commands: Any, name: str, text: str, act: Callable[..., None]) -> Any:
    """A command that calls ``act`` with what was typed."""
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("--debug", action="store_true", help="tracebacks and worker logs")
    command.set_defaults(act=act)
    return command


def add_run_command(commands: Any, name: str, text: str, act: Callable[..., None]) -> Any:
    """A command about a recipe and a run directory."""
    command = add_command(commands, name, text, act)
    add_recipe(command)
    command.add_argument("--run-dir", type=Path, help="default: runs/NAME-OF-RECIPE")
    return command


def add_recipe(command: Any) -> None:
    """A recipe, and ``--set`` over it."""
    command.add_argument("recipe", type=Path, help="a recipe, such as recipes/demo.toml")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        help="override a setting of the recipe; may be given again",
    )


def run_dir_of(options: argparse.Namespace) -> Path | None:
    """The run directory that was typed, or the default of the recipe; None: it is about no run."""
    recipe = getattr(options, "recipe", None)
    path: Path | None = getattr(options, "run_dir", None)
    return path or (recipe and Path("runs") / recipe.stem)


def say(text: str) -> None:
    """A line for the person, apart from what a program may read."""
    sys.stderr.write(text + "\n")


def write_json_file(path: Path, value: Any) -> None:
    """What ``--json`` asked for. Raises ConfigError if the file cannot be written."""
    from cluster.run_dir import write_json

    try:
        write_json(path, value)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}; give --json the path of a file"
        ) from error
