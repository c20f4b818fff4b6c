"""The command classify: labels and decisions about clips, by a published classifier."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.base import add_command, say
from wire.errors import ConfigError

if TYPE_CHECKING:
    from calibrate.classifier import Classifier
    from cluster.classify.inputs import ClipInputs
    from cluster.classify.machine import Machine
    from cluster.classify.output import RowWriter
    from cluster.classify.rows import Summary
    from cluster.classify.shift_observer import ShiftObserver

_VIEWS = ("shuffled", "blank", "reversed")


def _classify(options: argparse.Namespace) -> int:
    from calibrate.classifier import load_classifier
    from cluster.classify.inputs import ClipInputs
    from cluster.classify.machine import machine_of
    from cluster.classify.output import Format, RowWriter, result_file, rows_to_stdout
    from cluster.classify.rows import Summary
    from cluster.driver.interrupts import run_interruptibly
    from cluster.inputs.classifier_settings import shown_columns

    if options.k is not None and options.k < 1:
        raise ConfigError(f"--k {options.k}: expected 1 or more traces")
    if options.no_monitor and options.acknowledge_shift:
        raise ConfigError("--acknowledge-shift is of the monitor, and --no-monitor leaves it out")
    classifier = load_classifier(options.classifier)
    description = classifier.description
    clips = ClipInputs(options.clips, description.label_set, shown_columns(description))
    machine = machine_of(
        device=options.device,
        num_gpus=options.gpus,
        gpu_memory=options.gpu_memory,
        in_flight=options.in_flight,
        cache_dir=options.cache_dir,
    )
    table = options.out is None and sys.stdout.isatty()
    form: Format = options.format or ("table" if table else "jsonl")
    target = (
        rows_to_stdout()
        if options.out is None
        else result_file(options.out, overwrite=options.overwrite)
    )
    summary = Summary()
    try:
        with target as stream, _shift_observer(options, classifier) as observer:
            writer = RowWriter(stream, form, with_traces=options.traces != "none")
            work = _write_rows(options, classifier, machine, clips, writer, summary, observer)
            run_interruptibly(work, say, lambda: None)
    except BrokenPipeError:  # whoever reads the rows has enough
        return 1
    finally:
        for line in summary.lines():
            say(line)
    return int(summary.num_failed > 0)


async def _write_rows(
    options: argparse.Namespace,
    classifier: "Classifier",
    machine: "Machine",
    clips: "ClipInputs",
    writer: "RowWriter",
    summary: "Summary",
    observer: "ShiftObserver | None",
) -> None:
    from cluster.classify.engine_log import EngineLog
    from cluster.classify.open import open_pipeline
    from cluster.driver.progress import error_console, progress_bar
    from video.address import View

    say(f"starting the classifier {classifier.description.name} ({machine})")
    control = View(options.control) if options.control else None
    log = None if options.debug else EngineLog()
    async with (
        open_pipeline(
            classifier, machine, num_votes=options.k, observer=observer, log=log
        ) as pipeline,
        aclosing(pipeline.classify_all(clips, control)) as rows,
    ):
        summary.begin()
        with progress_bar("classify", clips.total, error_console) as bar:
            async for row in rows:
                writer.write(row)
                summary.add(row)
                bar.advance()


@contextmanager
def _shift_observer(
    options: argparse.Namespace, classifier: "Classifier"
) -> Iterator["ShiftObserver | None"]:
    """The observer of shift, and its last words; None where there is nothing to compare with, or it
    is not wanted."""
    from cluster.classify.shift_observer import default_place, watch_for_shift

    place = options.monitor or default_place(classifier.path)
    reason = ""
    if not classifier.has_reference:
        reason = "the classifier has no reference.json of archived traces"
    elif options.monitor is None and not os.access(place.parent, os.W_OK):
        reason = f"{place.parent} cannot be written; give --monitor DIR"
    if reason or options.no_monitor:
        if not options.no_monitor:
            say(f"shift is not watched: {reason}")
        yield None
        return
    acknowledge = options.acknowledge_shift
    with watch_for_shift(classifier, place, acknowledge=acknowledge, say=say) as observer:
        try:
            yield observer
        finally:
            for line in observer.lines():
                say(line)


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "label clips with a classifier: probabilities, prediction set, auto or review"
    command = add_command(commands, "classify", text, _classify)
    command.add_argument(
        "classifier",
        type=Path,
        metavar="CLASSIFIER_OR_RUN",
        help="a classifier's directory, or a run whose calibration published one",
    )
    command.add_argument(
        "clips",
        nargs="+",
        metavar="FILE_OR_FOLDER_OR_MANIFEST",
        help="videos (clip.mp4#t=3,9: a part), folders of them, or manifests (.jsonl, .parquet, "
        ".csv; labels are optional)",
    )
    command.add_argument(
        "--format",
        choices=("table", "jsonl"),
        help="default: a table on a terminal, else JSON lines",
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="write the rows there")
    command.add_argument("--overwrite", action="store_true", help="write FILE anew")
    command.add_argument(
        "--traces", choices=("all", "none"), default="all", help="none: leave the texts out"
    )
    command.add_argument(
        "--control",
        choices=_VIEWS,
        help="decide again about frames in another order, grey frames, or frames backwards, and "
        "compare",
    )
    command.add_argument("--k", type=int, metavar="N", help="traces of a vote")
    command.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: GPUs if any"
    )
    command.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs of an engine")
    command.add_argument(
        "--gpu-memory",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="of each GPU's memory, for all engines; default: 0.9",
    )
    command.add_argument(
        "--in-flight",
        type=int,
        metavar="N",
        help="clips decoded or answered at a time, fewer where they take 4 GB; default: 256 on "
        "GPUs, 64 on a CPU",
    )
    command.add_argument("--cache-dir", type=Path, metavar="DIR", help="keep processed clips there")
    _add_shift(command)


def _add_shift(command: Any) -> None:
    """Options of the monitor of shift."""
    command.add_argument(
        "--monitor",
        type=Path,
        metavar="DIR",
        help="keep the state of the shift monitor there; default: CLASSIFIER.monitor beside it",
    )
    command.add_argument("--no-monitor", action="store_true", help="do not watch for shift")
    command.add_argument(
        "--acknowledge-shift",
        action="store_true",
        help="someone has looked at the alarm that stands: end it, and begin a new test",
    )
