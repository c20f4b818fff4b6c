"""The commands of the demo: write the embedded clips and base model."""

import argparse
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command, say
from wire.errors import ConfigError

_SIZES = {
    "train": "clips to train on",
    "traces": "train clips with a teacher's trace",
    "val": "clips to choose settings on",
    "cal": "clips to calibrate on",
    "test": "clips to measure on",
}


def _make_demo_data(options: argparse.Namespace) -> None:
    from cluster.demo.clips import make_demo_data

    if (options.out / "manifest.jsonl").exists():
        raise ConfigError(f"{options.out} holds a data set already; give another directory")
    sizes = {name: size for name in _SIZES if (size := getattr(options, name)) is not None}
    say(f"wrote {make_demo_data(options.out, seed=options.seed, **sizes)}")


def _make_demo_pairs(options: argparse.Namespace) -> None:
    from cluster.demo.pairs import write_pairs

    say(f"wrote {write_pairs(options.data, options.out)}")


def _make_demo_model(options: argparse.Namespace) -> None:
    from cluster.demo.make_model import make_demo_model

    _refuse_existing(options.out)
    say(f"wrote {make_demo_model(options.out, retrain=options.retrain)}")


def _refuse_existing(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} is there already; give a new directory")


def _size(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of clips")
    return int(text)


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    data = add_command(commands, "make-demo-data", "write the embedded clips", _make_demo_data)
    data.add_argument("out", type=Path)
    data.add_argument("--seed", type=int, default=0)
    for name, text in _SIZES.items():
        data.add_argument(f"--{name}", type=_size, metavar="N", help=text)
    text = "write manifests over the embedded clips for category splitting"
    pairs = add_command(commands, "make-demo-pairs", text, _make_demo_pairs)
    pairs.add_argument("data", type=Path, metavar="DATA", help="what make-demo-data wrote")
    pairs.add_argument("out", type=Path, metavar="OUT", help="the folder to write them to")
    text = "write the embedded base model"
    model = add_command(commands, "make-demo-model", text, _make_demo_model)
    model.add_argument("out", type=Path)
    model.add_argument("--retrain", action="store_true", help="train it anew (minutes)")
