"""Manifests from other people's data."""

import argparse
import dataclasses
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command
from wire.errors import ConfigError
from wire.types import Split

_IMPORT_FLAGS = {
    "convert-frames": "make mp4 files of zips of frames, beside the manifest",
    "with-side-text": "import texts that came with the clips, but for test clips; they tell much",
    "drop-hinted-traces": "leave out traces that mention a label or text they were given",
    "skip-missing": "leave out clips without a readable video",
    "overwrite": "replace the manifest and --labels-out",
}


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


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    command = add_command(commands, "import", "make a manifest of a paper's JSON records", _import)
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
