"""The command classify: labels and decisions about clips, by a classifier or a service."""

import argparse
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    aclosing,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.commands.base import add_command, add_engine_options, engine_machine, say
from wire.errors import ConfigError

if TYPE_CHECKING:
    from calibrate.classifier import Classifier
    from cluster.classify.inputs import ClipInputs
    from cluster.classify.machine import Machine
    from cluster.classify.output import RowWriter
    from cluster.classify.rows import Row, Summary
    from cluster.classify.shift_observer import ShiftObserver

T = TypeVar("T")
_VIEWS = ("shuffled", "blank", "reversed")
_LOCAL_ONLY = {
    "k": None,
    "device": "auto",
    "gpus": 1,
    "gpu_memory": 0.9,
    "cache_dir": None,
    "monitor": None,
    "no_monitor": False,
    "acknowledge_shift": False,
}
"""Options of engines of this machine, with their defaults."""


def _classify(options: argparse.Namespace) -> int:
    if options.classifier.lower().startswith(("http://", "https://")):
        return _by_service(options)
    if options.token_file or options.version:
        raise ConfigError(
            "--token-file and --version are of a service, and the first argument is none; give "
            "http://HOST:PORT"
        )
    return _by_engines(options)


def _by_engines(options: argparse.Namespace) -> int:
    """Classify with engines of this machine."""
    from calibrate.classifier import load_classifier
    from cluster.classify.inputs import ClipInputs
    from cluster.inputs.classifier_settings import shown_columns

    if options.k is not None and options.k < 1:
        raise ConfigError(f"--k {options.k}: expected 1 or more traces")
    if options.no_monitor and options.acknowledge_shift:
        raise ConfigError("--acknowledge-shift is of the monitor, and --no-monitor leaves it out")
    classifier = load_classifier(Path(options.classifier))
    description = classifier.description
    clips = ClipInputs(options.clips, description.label_set, shown_columns(description))
    machine = engine_machine(options)
    return _write_all(
        options,
        clips,
        _shift_observer(options, classifier),
        lambda observer: _rows_of_engines(options, classifier, machine, clips, observer),
    )


def _by_service(options: argparse.Namespace) -> int:
    """Classify by a service: clips are sent to it."""
    from cluster.classify.service_rows import ClassifyingService

    for name, value in _LOCAL_ONLY.items():
        if getattr(options, name) != value:
            raise ConfigError(
                f"--{name.replace('_', '-')} is of engines of this machine; {options.classifier} "
                "has its own settings (deepintuit serve)"
            )
    if options.in_flight is not None and options.in_flight < 1:
        raise ConfigError(f"--in-flight {options.in_flight}: expected 1 or more requests")
    service = ClassifyingService.at(
        options.classifier, token_file=options.token_file, version=options.version, say=say
    )
    clips = service.clips(options.clips)
    view, in_flight = options.control, options.in_flight
    return _write_all(options, clips, nullcontext(), lambda _: service.rows(clips, view, in_flight))


def _write_all(
    options: argparse.Namespace,
    clips: "ClipInputs",
    watched: AbstractContextManager[T],
    open_rows: "Callable[[T], AbstractAsyncContextManager[AsyncIterator[Row]]]",
) -> int:
    """Write all rows, then the summary; the exit status. ``open_rows``: is given what ``watched``
    gives."""
    from cluster.classify.output import Format, RowWriter, result_file, rows_to_stdout
    from cluster.classify.rows import Summary
    from cluster.driver.interrupts import run_interruptibly

    table = options.out is None and sys.stdout.isatty()
    form: Format = options.format or ("table" if table else "jsonl")
    target = (
        rows_to_stdout()
        if options.out is None
        else result_file(options.out, overwrite=options.overwrite)
    )
    summary = Summary()
    try:
        with target as stream, watched as observer:
            writer = RowWriter(stream, form, with_traces=options.traces != "none")
            work = _write_rows(open_rows(observer), clips.total, writer, summary)
            run_interruptibly(work, say, lambda: None)
    except BrokenPipeError:  # whoever reads the rows has enough
        return 1
    finally:
        for line in summary.lines():
            say(line)
    return int(summary.num_failed > 0)


async def _write_rows(
    opened: "AbstractAsyncContextManager[AsyncIterator[Row]]",
    total: int,
    writer: "RowWriter",
    summary: "Summary",
) -> None:
    from cluster.driver.progress import error_console, progress_bar

    async with opened as rows:
        summary.begin()
        with progress_bar("classify", total, error_console) as bar:
            async for row in rows:
                writer.write(row)
                summary.add(row)
                bar.advance()


@asynccontextmanager
async def _rows_of_engines(
    options: argparse.Namespace,
    classifier: "Classifier",
    machine: "Machine",
    clips: "ClipInputs",
    observer: "ShiftObserver | None",
) -> AsyncIterator[AsyncIterator["Row"]]:
    """Rows of a pipeline whose engines are up for the block."""
    from cluster.classify.engine_log import EngineLog
    from cluster.classify.open import open_pipeline
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
        yield rows


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
        metavar="CLASSIFIER_OR_RUN_OR_URL",
        help="a classifier's directory, a run whose calibration published one, or the address of a "
        "service (http://HOST:PORT; its token in DEEPINTUIT_TOKEN, or --token-file)",
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
    add_engine_options(command)
    _add_service(command)
    _add_shift(command)


def _add_service(command: Any) -> None:
    """Options of a service that is asked in place of a classifier."""
    command.add_argument(
        "--token-file", type=Path, metavar="FILE", help="of a service: the file with its token"
    )
    command.add_argument(
        "--version",
        metavar="REF",
        help="of a service: the classifier's version, or an alias (challenger); default: champion",
    )


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
