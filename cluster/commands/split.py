"""The command split: one label of a published classifier becomes several, or becomes one again."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.base import (
    add_command,
    add_engine_options,
    engine_machine,
    say,
    write_json_file,
)
from wire.errors import ConfigError

if TYPE_CHECKING:
    from calibrate.splitting.label_texts import LabelTexts
    from cluster.splitting.split import FinishedSplit, PreparedSplit

_METHODS = ("alignment", "retrieval", "argmax", "vlm")


def _split(options: argparse.Namespace) -> None:
    if options.undo is not None:
        _undo(options)
        return
    prepared = _prepared(options)
    texts = prepared.texts
    _show(prepared)
    if options.save_texts is not None:
        _save(texts, options.save_texts)
        say(f"groups and phrases are in {options.save_texts}; edit it, and give it as --groups")
        return
    _confirm(texts, yes=options.yes)
    from cluster.splitting.split import run_split

    split = run_split(prepared, say)
    _tell(split, options.out)
    if options.json:
        write_json_file(options.json, _as_json(split))


def _save(texts: "LabelTexts", path: Path) -> None:
    """Write texts down. Raises ConfigError if the file is there, as it may have been edited, or
    cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(texts.to_toml())
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists already; give --save-texts another file, or remove it first"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}; give --save-texts the path of a file"
        ) from error


def _prepared(options: argparse.Namespace) -> "PreparedSplit":
    for name in ("out", "label", "into"):
        if not getattr(options, name):
            shown = {"out": "OUT, the classifier directory to make"}.get(name, f"--{name}")
            raise ConfigError(f"split needs {shown}; or give --undo OUT alone")
    if options.method == "vlm":
        raise ConfigError(
            "--method vlm edits no head: it asks about clips that the classifier gives the label, "
            "and is a baseline; --measure MANIFEST shows its figures beside every method's"
        )
    from cluster.splitting.split import SplitOrder, prepare_split

    return prepare_split(
        SplitOrder(
            classifier=options.classifier,
            out=options.out,
            label=options.label,
            into=tuple(options.into),
            texts=_given_texts(options),
            method=options.method,
            bias=options.bias,
            encoder=options.encoder,
            seed=options.seed,
            shots=options.shots,
            measure=options.measure,
            machine=engine_machine(options),
        )
    )


def _given_texts(options: argparse.Namespace) -> "LabelTexts":
    from calibrate.splitting.label_texts import LabelTexts, read_label_texts

    texts = LabelTexts()
    for file in (options.groups, options.modifiers):
        if file is not None:
            texts = texts.over(read_label_texts(file))
    return texts


def _show(prepared: "PreparedSplit") -> None:
    """Groups and phrases, with a mark at what was proposed."""
    texts = prepared.texts
    for group, labels in texts.groups.items():
        if len(labels) > 1:
            say(f"{group}:")
            for label in labels:
                mark = " (proposed)" if label in texts.proposed else ""
                say(f"    {label} -> {texts.modifiers[label]!r}{mark}")


def _confirm(texts: "LabelTexts", *, yes: bool) -> None:
    """Ask whether proposed phrases are right. Raises ConfigError where nobody can be asked, or if
    they are not."""
    if yes or not texts.proposed:
        return
    if not sys.stdin.isatty():
        raise ConfigError(
            f"{len(texts.proposed)} phrases above are proposed from the labels' names, and nobody "
            "is here to confirm them; give --yes, or write them down: --save-texts FILE, then "
            "--groups FILE"
        )
    say("Do these phrases tell the labels of each group apart? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError(
            "not confirmed, nothing was made; write the phrases to a file with --save-texts FILE, "
            "mend them there, and give it as --groups FILE"
        )


def _undo(options: argparse.Namespace) -> None:
    from calibrate.classifier import load_classifier
    from calibrate.splitting.classifier_edit import read_record, undo_split

    if options.out or options.label or options.into:
        raise ConfigError(
            "--undo OUT makes the classifier from before and splits nothing; give it alone, or "
            "without it OUT, --label and --into"
        )
    edited = load_classifier(options.classifier)
    label = read_record(edited).label
    before = undo_split(edited, options.undo)
    say(f"{label!r} is one label again: {options.undo} is version {before.version[:12]}")


def _tell(split: "FinishedSplit", out: Path) -> None:
    from calibrate.choice import lacks

    if split.measured is not None:
        from cluster.splitting.table import print_measured

        print_measured(split.measured)
    for line in lacks(split.classifier.calibration):
        if not line.startswith("no val clips"):
            say(line)
    record = split.record
    say(
        f"{record.label!r} is split into {len(record.into)} labels by {record.method}, texts by "
        f"{record.encoder}: {out} is version {split.classifier.version[:12]}"
    )


def _as_json(split: "FinishedSplit") -> dict[str, Any]:
    measured = split.measured
    return {
        "version": split.classifier.version,
        "split": split.record.model_dump(mode="json"),
        "measured": None if measured is None else measured.as_json(),
    }


def _seed(text: str) -> int:
    """A seed on a command line: what random generators take."""
    if not text.isascii() or not text.isdigit() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 0 to {2**31 - 1}")
    return int(text)


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "split one label of a published classifier into several, without training the model"
    command = add_command(commands, "split", text, _split)
    command.add_argument(
        "classifier", type=Path, metavar="CLASSIFIER", help="a classifier's directory, or a run"
    )
    command.add_argument(
        "out", type=Path, nargs="?", metavar="OUT", help="the classifier directory to make"
    )
    command.add_argument("--label", metavar="L", help="the label to split")
    command.add_argument("--into", nargs="+", metavar="NAME", help="its parts, two or more")
    command.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help="groups of the other labels, and phrases (TOML or JSON); default: proposed from names",
    )
    command.add_argument(
        "--modifiers", type=Path, metavar="FILE", help="phrases of labels alone; default: proposed"
    )
    command.add_argument(
        "--save-texts", type=Path, metavar="FILE", help="write groups and phrases there, and end"
    )
    command.add_argument(
        "--method", choices=_METHODS, default="alignment", help="how rows of the parts are made"
    )
    command.add_argument(
        "--bias",
        choices=("copied", "fine"),
        default="copied",
        help="of the parts: the label's (the paper's), or the mean of labels that stayed fine, "
        "where parts draw in clips of others",
    )
    command.add_argument(
        "--shots", type=Path, metavar="MANIFEST", help="clips of the parts to learn from"
    )
    command.add_argument(
        "--encoder",
        default="policy",
        metavar="policy|minilm|DIR",
        help="what makes vectors of texts; default: the policy's own embeddings",
    )
    command.add_argument("--seed", type=_seed, default=0, help="of alignment and low-shot training")
    command.add_argument(
        "--measure", type=Path, metavar="MANIFEST", help="clips with fine labels to measure on"
    )
    command.add_argument("--yes", action="store_true", help="take proposed phrases as they are")
    command.add_argument(
        "--undo", type=Path, metavar="OUT", help="make the classifier from before its split"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write record and figures there")
    add_engine_options(command)
