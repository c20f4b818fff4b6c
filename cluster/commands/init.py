"""The command init: writes a first recipe."""

import argparse
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command, say
from wire.errors import ConfigError


def _init(options: argparse.Namespace) -> None:
    from cluster.driver.gpus import count_gpus
    from cluster.inputs.preflight import read_context
    from cluster.plan.first_recipe import count_manifest, starter_recipe

    recipe: Path = options.recipe
    if recipe.suffix != ".toml":
        raise ConfigError(
            f"got {recipe} as the recipe to write, expected a name that ends in .toml"
        )
    if recipe.exists() and not options.overwrite:
        raise ConfigError(f"{recipe} is there already; give --overwrite to replace it")
    counts = count_manifest(options.manifest)
    num_gpus = count_gpus() if options.num_gpus is None else options.num_gpus
    folder = Path(options.model)
    has_model = (folder / "config.json").is_file()
    if folder.is_dir() and not has_model:
        raise ConfigError(
            f"--model {folder} is a folder without config.json, so no model in Hugging Face "
            "format; give the folder of one, or a hub id such as Qwen/Qwen2.5-VL-3B-Instruct"
        )
    context = read_context(folder) if has_model else None
    text = starter_recipe(counts, options.manifest, recipe, options.model, num_gpus, context)
    try:
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {recipe}: {error.strerror}; give a place that you may write to"
        ) from error
    say(f"wrote {recipe}; define its labels, then: deepintuit check {recipe}")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of GPUs from 0")
    return int(text)


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "write a first recipe for a manifest, with settings that fit it and this machine"
    command = add_command(commands, "init", text, _init)
    command.add_argument("manifest", type=Path, help="as `import` writes it")
    command.add_argument("recipe", type=Path, help="the .toml to write")
    command.add_argument(
        "--model", required=True, help="a directory in Hugging Face format, or a hub id"
    )
    command.add_argument(
        "--num-gpus", type=_count, metavar="N", help="default: those of this machine"
    )
    command.add_argument("--overwrite", action="store_true", help="replace the recipe")
