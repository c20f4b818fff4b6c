"""The command line. Heavy imports come after parsing, so that ``--help`` answers at once."""

import argparse
import asyncio
import dataclasses
import logging
import signal
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wire.errors import ConfigError, DeepIntuitError, UserError
from wire.types import Split

if TYPE_CHECKING:
    from cluster.plan import Plan

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
_IMPORT_FLAGS = {
    "convert-frames": "make mp4 files of zips of frames, beside the manifest",
    "with-side-text": "import texts that came with the clips, but for test clips; they tell much",
    "drop-hinted-traces": "leave out traces that mention a label or text they were given",
    "skip-missing": "leave out clips without a readable video",
    "overwrite": "replace the manifest and --labels-out",
}


_SIZES = {
    "train": "clips to train on",
    "traces": "train clips with a teacher's trace",
    "val": "clips to choose settings on",
    "cal": "clips to calibrate on",
    "test": "clips to measure on",
}
_CONTROLS = "control arms beside the stages of a finished run; those that have finished are skipped"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 the user can mend it, 1 it failed, 130 interrupted."""
    typed = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(typed, argparse.Namespace(typed=typed))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        options.act(options)
    except UserError as error:
        return _fail(error, options.debug, 2)
    except KeyboardInterrupt:
        again = "the same command" if options.command in ("study", "controls") else "--resume"
        _say(f"interrupted; {again} goes on from the last checkpoint")
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


def _plan(options: argparse.Namespace) -> None:
    from cluster.config import read_recipe
    from cluster.plan import make_plan

    plan = make_plan(read_recipe(options.recipe, options.set), _STAGES["run"])
    from cluster.plan_table import print_plan

    print_plan(plan, options.recipe.stem)
    if options.json is not None:
        _write_plan(options.json, plan)


def _write_plan(path: Path, plan: "Plan") -> None:
    from dataclasses import asdict

    from cluster.run_dir import write_json

    try:
        write_json(path, asdict(plan))
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}; give --json the path of a file"
        ) from error


def _compare(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cluster.compare import compare_runs
    from cluster.run_dir import write_json
    from cluster.table import print_comparison

    found = compare_runs(
        options.runs, stages=options.stage, against=options.against, only_shared=options.shared
    )
    print_comparison(found)
    if options.json:
        try:
            write_json(options.json, asdict(found))
        except OSError as error:
            raise ConfigError(
                f"cannot write {options.json}: {error.strerror}; give another --json"
            ) from error


def _study(options: argparse.Namespace) -> None:
    import shlex

    from cluster.study import Study, run_study

    page = run_study(
        Study(
            recipe=options.recipe,
            directory=options.run_dir or Path("runs") / f"{options.recipe.stem}-study",
            seeds=tuple(options.seeds),
            settings=tuple(options.set),
            arms=tuple(options.arms),
            group_by=options.group_by,
            results=options.results,
            command=shlex.join(["deepintuit", *options.typed]),
            debug=options.debug,
        )
    )
    _say(f"wrote {page}")


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
    sizes = {name: size for name in _SIZES if (size := getattr(options, name)) is not None}
    _say(f"wrote {make_demo_data(options.out, seed=options.seed, **sizes)}")


def _make_demo_model(options: argparse.Namespace) -> None:
    from cluster.demo.tiny_model import make_demo_model

    _refuse_existing(options.out)
    _say(f"wrote {make_demo_model(options.out, retrain=options.retrain)}")


def _import(options: argparse.Namespace) -> None:
    from rollout.importers.formats import FORMATS
    from rollout.importers.importer import ImportOptions, import_records
    from rollout.importers.split import parse_ratio

    if options.format not in FORMATS:
        raise ConfigError(f"unknown --format {options.format!r}; known: {', '.join(FORMATS)}")
    names = (field.name for field in dataclasses.fields(ImportOptions))
    values = {name: getattr(options, name) for name in names}
    values["sources"] = tuple(options.sources)
    values["split"] = Split(options.split) if options.split else None
    values["ratio"] = parse_ratio(options.ratio) if options.ratio else None
    sys.stdout.write(f"{import_records(ImportOptions(**values))}\n")


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
    text = "what a run would do: batches, workers, memory; starts nothing"
    plan = _command(commands, "plan", text, _plan)
    _add_recipe(plan)
    plan.add_argument("--json", type=Path, metavar="FILE", help="write the plan there, too")
    _add_compare(commands)
    _add_study(commands)
    controls = _run_command(commands, "controls", _CONTROLS, _controls)
    controls.add_argument(
        "--only", nargs="+", metavar="ARM", help="only these arms; default: the recipe's"
    )
    data = _command(commands, "make-demo-data", "write the embedded clips", _make_demo_data)
    data.add_argument("out", type=Path)
    data.add_argument("--seed", type=int, default=0)
    for name, text in _SIZES.items():
        data.add_argument(f"--{name}", type=_size, metavar="N", help=text)
    model = _command(commands, "make-demo-model", "write the embedded base model", _make_demo_model)
    model.add_argument("out", type=Path)
    model.add_argument("--retrain", action="store_true", help="train it anew (minutes)")
    _add_import(commands)
    return parser


def _add_recipe(command: Any) -> None:
    command.add_argument("recipe", type=Path, help="a recipe, such as recipes/demo.toml")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        help="override a setting of the recipe; may be given again",
    )


def _size(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of clips")
    return int(text)


def _add_study(commands: Any) -> None:
    text = "all stages and controls under several seeds, and a page of results; goes on if repeated"
    study = _command(commands, "study", text, _study)
    _add_recipe(study)
    study.add_argument("--seeds", type=int, nargs="+", required=True, metavar="K")
    study.add_argument("--run-dir", type=Path, help="default: runs/NAME-OF-RECIPE-study")
    study.add_argument("--arms", nargs="+", default=[], metavar="ARM", help="default: all")
    study.add_argument("--group-by", metavar="COLUMN", help="manifest column to report apart")
    study.add_argument("--results", type=Path, metavar="FILE", help="default: RUN-DIR/results.md")


def _add_compare(commands: Any) -> None:
    compare = _command(commands, "compare", "runs and stages side by side, with tests", _compare)
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run directory")
    compare.add_argument(
        "--stage",
        action="append",
        default=[],
        metavar="NAME",
        help="only this stage, or other name in predictions/; may be given again",
    )
    compare.add_argument(
        "--against", metavar="NAME", help="test all of a run with this, not stage with stage"
    )
    compare.add_argument("--shared", action="store_true", help="only the clips that all share")
    compare.add_argument("--json", type=Path, metavar="FILE", help="write all figures here, too")


def _add_import(commands: Any) -> None:
    command = _command(commands, "import", "make a manifest of a paper's JSON records", _import)
    command.add_argument("sources", nargs="+", metavar="SOURCE", help="a file, or SPLIT=FILE")
    command.add_argument("manifest", type=Path, metavar="MANIFEST", help="the .jsonl to write")
    command.add_argument("--format", required=True, help="deepintuit or rbft")
    command.add_argument("--media-root", type=Path, help="where the videos are; default: beside it")
    which = command.add_mutually_exclusive_group()
    names = [split.value for split in Split]
    which.add_argument("--split", choices=names, help="of the sources that name none")
    which.add_argument("--ratio", help="divide them instead: train=0.8,val=0.1,cal=0.1")
    command.add_argument("--seed", type=int, default=0, help="of the division")
    command.add_argument(
        "--on-conflict",
        choices=("error", "skip", "keep"),
        default="error",
        help="a contradicted label: end (default), leave the clip out, believe what is said first",
    )
    command.add_argument("--labels-out", type=Path, metavar="FILE.toml", help="[[labels]] to paste")
    command.add_argument("--fps", type=_fps, default=Fraction(1), help="of --convert-frames (1)")
    for name, text in _IMPORT_FLAGS.items():
        command.add_argument(f"--{name}", action="store_true", help=text)


def _fps(text: str) -> Fraction:
    try:
        fps = Fraction(text)
    except (ValueError, ZeroDivisionError):
        fps = Fraction(0)
    if not 0 < fps <= 240:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected above 0 and at most 240")
    return fps


def _run_command(commands: Any, name: str, text: str, act: Callable[..., None]) -> Any:
    """A command about a recipe and a run directory."""
    command = _command(commands, name, text, act)
    _add_recipe(command)
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
