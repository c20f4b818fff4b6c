"""The command split-benchmark: SSv2-Split or FineGym-Split counted, a head measured on it."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.base import add_command, say, write_json_file
from wire.errors import ConfigError

if TYPE_CHECKING:
    from calibrate.splitting.benchmark import Side
    from calibrate.splitting.benchmark_config import SplitBenchmarkConfig
    from calibrate.splitting.label_texts import LabelTexts


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "count a side of SSv2-Split or FineGym-Split, and measure a weights file on it"
    command = add_command(commands, "split-benchmark", text, _benchmark)
    command.add_argument(
        "dataset", type=Path, metavar="DIR", help="SSv2-Split or FineGym-Split, as published"
    )
    command.add_argument("--side", required=True, help="A or B: whose groups are split")
    command.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="head and features of clips (docs/splitting.md has the format); without it, the data "
        "set is checked and counted alone",
    )
    command.add_argument(
        "--encoder",
        default="minilm",
        help="of texts: minilm (the extra deepintuit[splitting]; the default), or the directory of "
        "a CLIP model, a sentence encoder or a language model",
    )
    command.add_argument(
        "--modifiers",
        type=Path,
        metavar="FILE",
        help="modifier phrases and their types, TOML or JSON; those that it lacks are proposed",
    )
    command.add_argument(
        "--write-modifiers",
        type=Path,
        metavar="FILE",
        help="write groups, phrases and types there, to be read and edited",
    )
    command.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="such as retrieval alignment one_shot_aligned; default: all that can run",
    )
    command.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: 0 1 3")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        help="a setting of a method, such as retrieval.beta=0 or shots=5; may be given again",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")


def _benchmark(options: argparse.Namespace) -> None:
    from calibrate.splitting.benchmark import read_side
    from calibrate.splitting.benchmark_counts import count, differences

    config = _config(options)
    side = read_side(options.dataset, options.side)
    texts = _texts(side, options)
    counts = count(side)
    _print_table(
        f"{side.dataset}, side {side.side}",
        ("count", ""),
        [(name.replace("_", " "), f"{value:,.10g}") for name, value in _rounded(asdict(counts))],
    )
    odd = differences(side, counts)
    for line in odd:
        say(f"warning: not the published data set: {line}")
    result: dict[str, Any] = {"counts": asdict(counts), "differences": odd}
    if options.weights is not None:
        result |= _measured(side, texts, config, options)
    if options.json:
        write_json_file(options.json, result)


def _config(options: argparse.Namespace) -> "SplitBenchmarkConfig":
    from calibrate.splitting.benchmark_config import SplitBenchmarkConfig
    from wire.config import apply_override, validate

    values: dict[str, Any] = {}
    for override in options.set:
        apply_override(values, override)
    for name in ("methods", "seeds"):
        if given := getattr(options, name):
            values[name] = given
    return validate(SplitBenchmarkConfig, values, source="split-benchmark")


def _texts(side: "Side", options: argparse.Namespace) -> "LabelTexts":
    from calibrate.splitting.label_texts import LabelTexts, read_label_texts

    texts = LabelTexts(groups=side.groups)
    if options.modifiers is not None:
        given = read_label_texts(options.modifiers)
        given.check(label for labels in side.groups.values() for label in labels)
        texts = LabelTexts(modifiers=given.modifiers, types=given.types).over(texts)
    texts = texts.completed()
    if options.write_modifiers is not None:
        try:
            options.write_modifiers.write_text(texts.to_toml(), encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"cannot write {options.write_modifiers}: {error.strerror}; give --write-modifiers "
                "the path of a file"
            ) from error
    return texts


def _measured(
    side: "Side",
    texts: "LabelTexts",
    config: "SplitBenchmarkConfig",
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Figures of the weights file, printed too."""
    from calibrate.splitting.benchmark_run import check_weights, chosen_methods, run_benchmark
    from calibrate.splitting.benchmark_weights import read_weights
    from calibrate.splitting.encoder_config import TextEncoderConfig
    from calibrate.splitting.text_encoders import open_text_encoder
    from cluster.driver.progress import progress_bar
    from wire.config import validate

    weights = read_weights(options.weights)
    check_weights(side, weights)
    chosen_methods(weights, config)
    encoder = open_text_encoder(
        validate(TextEncoderConfig, {"encoder": options.encoder}, "--encoder"), None
    )
    if texts.proposed:
        say(
            f"{len(texts.proposed)} modifier phrases are proposed from the labels' names, not read "
            "from a file; see them with --write-modifiers FILE"
        )
    with progress_bar("targets", len(side.targets)) as bar:
        report = run_benchmark(
            side, weights, texts, encoder, config, lambda name: bar.advance(note=name[:40])
        )
    _print_table(
        f"{100 * report.base_accuracy:.1f} % of val clips right before any edit, "
        f"{100 * report.coarse_recall:.1f} % of the targets' own; percent, texts by {encoder.name}",
        *report.table(),
    )
    _print_table("generality per modifier type", *report.type_table())
    for method, reason in report.left_out.items():
        say(f"{method} did not run: {reason}")
    return report.to_json()


def _rounded(values: dict[str, Any]) -> list[tuple[str, float]]:
    return [(name, round(value, 1)) for name, value in values.items()]


def _print_table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.table import Table

    from cluster.driver.progress import console

    table = Table(title=title, box=box.SIMPLE)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
