"""Shared parts of the commands: arguments, the resume command, messages to the user."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wire.errors import ConfigError
from wire.printable import printable
from wire.remote_path import place_of

if TYPE_CHECKING:
    from cluster.classify.machine import Machine
    from cluster.run_dir import RunDir

GO_ON = ("study", "controls", "check", "import", "rescore", "fit")
"""Commands that resume without ``--resume`` when they are given again."""


def add_command(commands: Any, name: str, text: str, act: Callable[..., int | None]) -> Any:
    """Add a command that calls ``act`` with its options; it may return the exit status."""
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("--debug", action="store_true", help="tracebacks and worker logs")
    command.set_defaults(act=act)
    return command


def add_run_command(commands: Any, name: str, text: str, act: Callable[..., None]) -> Any:
    """Add a command with a recipe and a run directory."""
    command = add_command(commands, name, text, act)
    add_recipe(command)
    command.add_argument("--run-dir", type=Path, help="default: runs/NAME-OF-RECIPE")
    return command


def add_archive_command(commands: Any, name: str, text: str, act: Callable[..., int | None]) -> Any:
    """Add a sub-command of ``archive`` with the argument ARCHIVE."""
    command = add_command(commands, name, text, act)
    command.add_argument(
        "archive",
        type=place_of,
        metavar="RUN_OR_ARCHIVE",
        help="a run directory, or its archive; also s3://BUCKET/NAME",
    )
    return command


def add_recipe(command: Any) -> None:
    """Add the arguments RECIPE and ``--set``."""
    command.add_argument("recipe", type=Path, help="a recipe, such as recipes/demo.toml")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        help="override a setting of the recipe; may be given again",
    )


def add_from(command: Any) -> None:
    """Add the argument ``--from``."""
    command.add_argument(
        "--from",
        dest="from_run",
        metavar="RUN_DIR[:STAGE]",
        help="start from the model that a stage of another run left, such as runs/demo:grpo, "
        "instead of the recipe's model; without STAGE from the last finished one",
    )


def settings(options: argparse.Namespace) -> list[str]:
    """Settings over the recipe: those of ``--set``, and the model that ``--from`` names. Raises
    ConfigError."""
    given: list[str] = options.set
    if options.from_run is None:
        return given
    from cluster.inputs.from_run import start_model

    if any(setting.partition("=")[0].strip() == "model" for setting in given):
        raise ConfigError("--from and --set model=... both say what to start from; give one")
    path = json.dumps(str(start_model(options.from_run)), ensure_ascii=False)  # as TOML has it
    return [*given, f"model={path}"]


def run_path(options: argparse.Namespace) -> Path:
    """Run directory of a command: ``--run-dir``, or runs/NAME-OF-RECIPE."""
    given: Path | None = options.run_dir
    return given or Path("runs") / options.recipe.stem


Run = Callable[[], Coroutine[Any, Any, dict[str, Any]]]
"""Runs stages or arms; returns the run's summary."""


def run_in_directory(
    options: argparse.Namespace,
    run_dir: "RunDir",
    names: Sequence[str],
    prepare: Callable[[], Run],
) -> None:
    """Run the stages and arms ``names`` in a run directory, with its heartbeat and its report, and
    print the summary; the directory is closed at the end.

    ``prepare`` is called first, before the heartbeat begins.
    """
    from cluster.driver.interrupts import run_interruptibly
    from cluster.report.write import report_at_end
    from cluster.status.heartbeat import State, heartbeat
    from cluster.summary import print_summary

    try:
        run = prepare()
        with (
            report_at_end(run_dir.path),
            heartbeat(run_dir, names, resume_command(options.typed)) as writer,
        ):
            last = partial(writer.end, State.STOPPED, "it was interrupted twice")
            print_summary(run_interruptibly(run(), say, last), run_dir.path)
    finally:
        run_dir.close()


def resume_command(typed: Sequence[str], *, started: bool = True) -> str:
    """Command line that resumes the run of ``typed``; ``started``: there is a run to resume."""
    words = [word for word in typed if word not in ("--overwrite", "--resume", "--auto-resume")]
    if typed and typed[0] not in GO_ON and started:
        words.append("--resume")
    program = Path(sys.argv[0])
    start = ["python", "-m", "cluster.cli"] if program.suffix == ".py" else [sys.argv[0]]
    return shlex.join([*start, *words])


def interrupted(options: argparse.Namespace) -> str:
    """Message after an interrupt: the command that resumes."""
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
    """Print a line for the user, apart from output that programs read; text of others in it may be
    any."""
    sys.stderr.write(printable(text) + "\n")


@contextmanager
def pipe_may_close() -> Iterator[None]:
    """Output in the block may end early: a reader such as ``head`` that closes the pipe is no
    error."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout again when it ends, and would complain.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def write_json_file(path: Path, value: Any) -> None:
    """What ``--json`` asked for. Raises ConfigError if the file cannot be written."""
    from wire.whole_file import write_json

    try:
        write_json(path, value)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}; give --json the path of a file"
        ) from error


def price(text: str) -> float:
    """An amount of money on a command line."""
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected an amount such as 2.5")
    return amount


def add_engine_options(command: Any) -> None:
    """Options of a classifier's engines and what they may take."""
    command.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: GPUs if any"
    )
    command.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs of an engine")
    command.add_argument(
        "--gpu-memory",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="of each GPU's memory, for all engines of a classifier; default: 0.9",
    )
    command.add_argument(
        "--in-flight",
        type=int,
        metavar="N",
        help="clips decoded or answered at a time, fewer where they take 4 GB; default: 256 on "
        "GPUs, 64 on a CPU; asking a service: requests at a time, 16",
    )
    command.add_argument(
        "--engine-url",
        action="append",
        default=[],
        metavar="URL",
        help="ask this vLLM server in place of engines in this machine (several: again); its "
        "API key: DEEPINTUIT_ENGINE_KEY",
    )
    command.add_argument("--cache-dir", type=Path, metavar="DIR", help="keep processed clips there")


def engine_machine(options: argparse.Namespace) -> "Machine":
    """The machine that these options describe. Raises ConfigError."""
    from cluster.classify.machine import machine_of

    return machine_of(
        device=options.device,
        num_gpus=options.gpus,
        gpu_memory=options.gpu_memory,
        in_flight=options.in_flight,
        cache_dir=options.cache_dir,
        servers=options.engine_url,
    )
