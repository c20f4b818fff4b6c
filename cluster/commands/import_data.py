"""The command import: manifests from other data formats."""

import argparse
import dataclasses
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command, say
from wire.errors import ConfigError
from wire.printable import printable
from wire.types import Split

_IMPORT_FLAGS = {
    "windows": "the videos are untrimmed: the source's times become start_s and end_s",
    "convert-frames": "make mp4 files of zips of frames, beside the manifest",
    "with-side-text": "import texts that came with the clips, but for test clips; they tell much",
    "drop-hinted-traces": "leave out traces that mention a label, text or option they were given",
    "skip-missing": "leave out clips without a readable video",
    "overwrite": "replace the manifest and --labels-out",
}
_STEPS = 10


def _import(options: argparse.Namespace) -> None:
    from rollout.importers.formats import FORMATS
    from rollout.importers.importer import import_records
    from rollout.importers.options import ImportOptions
    from rollout.importers.split import parse_ratio

    if options.format and options.format not in FORMATS:
        raise ConfigError(f"unknown --format {options.format!r}; known: {', '.join(FORMATS)}")
    names = (field.name for field in dataclasses.fields(ImportOptions))
    values = {name: getattr(options, name) for name in names}
    values["sources"] = tuple(options.sources)
    values["split"] = Split(options.split) if options.split else None
    values["divide"] = Split(options.divide) if options.divide else None
    values["ratio"] = parse_ratio(options.ratio) if options.ratio is not None else None
    values["columns"] = _columns(options.columns)
    _refuse_lone(options)
    report = import_records(ImportOptions(**values), _progress)
    sys.stdout.write(printable(f"{report}\n"))


def _refuse_lone(options: argparse.Namespace) -> None:
    for name in ("divide", "group_by"):
        if getattr(options, name) is not None and options.ratio is None:
            flag = name.replace("_", "-")
            raise ConfigError(
                f"--{flag} says how --ratio divides, and none is given; give --ratio "
                "train=0.8,val=0.1,cal=0.1"
            )


def _columns(text: str | None) -> dict[str, str]:
    """Parse ``video=clip,label=action`` into our column -> column of the source."""
    columns: dict[str, str] = {}
    for part in text.split(",") if text else []:
        name, equals, column = (piece.strip() for piece in part.partition("="))
        if not name or not equals or not column or name in columns or column in columns.values():
            raise ConfigError(
                f"--columns got {text!r}, expected such as video=clip,label=action, each name once"
            )
        columns[name] = column
    return columns


def _progress(done: int, wanted: int) -> None:
    if done == wanted or done % max(1, wanted // _STEPS) == 0:
        say(f"fetched {done} of {wanted} videos")


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "make a manifest of a folder per class, of lists, or of rows for other systems"
    command = add_command(commands, "import", text, _import)
    command.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="a file, folder or URL, or SPLIT=SOURCE"
    )
    command.add_argument(
        "manifest", type=Path, metavar="MANIFEST", help="the .jsonl or .parquet to write"
    )
    command.add_argument("--format", help="default: recognised; docs/data.md lists them")
    command.add_argument(
        "--columns", metavar="NAME=COLUMN,...", help="such as video=clip,label=action,split=fold"
    )
    command.add_argument("--label-names", type=Path, metavar="FILE", help="names of number labels")
    command.add_argument(
        "--on-conflict",
        choices=("error", "skip", "keep"),
        default="error",
        help="a contradicted label: end (default), leave the clip out, believe what is said first",
    )
    command.add_argument("--labels-out", type=Path, metavar="FILE.toml", help="[[labels]] to paste")
    _add_videos(command)
    _add_splits(command)
    for name, words in _IMPORT_FLAGS.items():
        command.add_argument(f"--{name}", action="store_true", help=words)


def _add_videos(command: Any) -> None:
    command.add_argument(
        "--media-root", metavar="FOLDER", help="where the videos are, here or at a URL"
    )
    command.add_argument(
        "--download", type=Path, metavar="DIR", help="for what is fetched; default: MANIFEST-media"
    )
    command.add_argument(
        "--timeout",
        dest="timeout_s",
        type=_seconds,
        default=60.0,
        help="seconds that a place elsewhere may be silent (60)",
    )
    command.add_argument("--fps", type=_fps, default=Fraction(1), help="of --convert-frames (1)")


def _add_splits(command: Any) -> None:
    which = command.add_mutually_exclusive_group()
    names = [split.value for split in Split]
    which.add_argument("--split", choices=names, help="of the sources that name none")
    which.add_argument("--ratio", help="divide them instead: train=0.8,val=0.1,cal=0.1")
    command.add_argument("--seed", type=int, default=0, help="of the division")
    command.add_argument("--divide", choices=names, help="a split of the source to divide further")
    command.add_argument("--group-by", metavar="COLUMN", help="no value of it in two splits")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected seconds above 0")
    return seconds


def _fps(text: str) -> Fraction:
    try:
        fps = Fraction(text)
    except (ValueError, ZeroDivisionError):
        fps = Fraction(0)
    if not 0 < fps <= 240:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected above 0 and at most 240")
    return fps
