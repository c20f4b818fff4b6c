"""What the commands share: their arguments, and how they speak."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wire.errors import ConfigError

GO_ON = ("study", "controls", "check", "import", "rescore")
"""Commands that go on by themselves when they are given again."""


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


def run_path(options: argparse.Namespace) -> Path:
    """The run directory that a command is about."""
    given: Path | None = options.run_dir
    return given or Path("runs") / options.recipe.stem


def resume_command(typed: Sequence[str], *, started: bool = True) -> str:
    """What was typed, so that it goes on with the run; ``started``: there is one to go on with."""
    words = [word for word in typed if word not in ("--overwrite", "--resume")]
    if typed and typed[0] not in GO_ON and started:
        words.append("--resume")
    program = Path(sys.argv[0])
    start = ["python", "-m", "cluster.cli"] if program.suffix == ".py" else [sys.argv[0]]
    return shlex.join([*start, *words])


def interrupted(options: argparse.Namespace) -> str:
    """What to say after an interrupt: the command that goes on."""
    if options.command in GO_ON:
        return f"interrupted; go on from what is done with: {resume_command(options.typed)}"
    if "recipe" not in options or "run_dir" not in options:
        return "interrupted"
    started = (run_path(options) / "archive").exists()
    command = resume_command(options.typed, started=started)
    if started:
        return f"interrupted; go on from the last checkpoint with: {command}"
    return f"interrupted before anything had started; start again with: {command}"


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
