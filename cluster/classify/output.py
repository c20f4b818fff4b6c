"""Output of a classification: rows as JSON lines or as lines of a table, each whole at once.

Row -> line -> stream, flushed: what was written before an interrupt is whole
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TextIO

from cluster.classify.rows import Row
from wire.errors import ConfigError
from wire.printable import printable
from wire.strict_json import to_json

Format = Literal["table", "jsonl"]
_NAME_WIDTH = 40
_SHOWN = 3


class RowWriter:
    """Writes rows to a stream in a format."""

    def __init__(self, stream: TextIO, form: Format, *, with_traces: bool) -> None:
        self._stream, self._with_traces = stream, with_traces
        self._line: Callable[[Row], str] = self._json if form == "jsonl" else self._table
        if form == "table":
            self._write(f"{'decision':<8}  {'label':<16} {'p':>5}  {'clip':<{_NAME_WIDTH}}  why")

    def write(self, row: Row) -> None:
        """Write a row. Raises OSError."""
        self._write(self._line(row))

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def _json(self, row: Row) -> str:
        return to_json(row.as_json(with_trace=self._with_traces))

    def _table(self, row: Row) -> str:
        name = printable(row.id)
        shown = name if len(name) <= _NAME_WIDTH else "..." + name[3 - _NAME_WIDTH :]
        if row.failure is not None or row.probabilities is None or row.label is None:
            reason = row.failure.reason if row.failure else ""
            kind = row.failure.kind if row.failure else "failed"
            why = printable(" ".join(reason.split()))
            return f"{'failed':<8}  {kind:<16} {'':>5}  {shown:<{_NAME_WIDTH}}  {why}"
        why = "; ".join(_notes(row))
        confidence = row.probabilities[row.label]
        label = printable(row.label)
        line = (
            f"{row.decision:<8}  {label:<16} {confidence:5.3f}  {shown:<{_NAME_WIDTH}}  "
            f"{printable(why)}"
        )
        if self._with_traces and row.trace:
            line += f"\n          {printable(' '.join(row.trace.split()))}"
        return line.rstrip()


def _notes(row: Row) -> Iterator[str]:
    """What else a line of the table says."""
    if row.truth is not None and row.truth != row.label:
        yield f"true label {row.truth}"
    if len(row.prediction_set) > 1:
        more = "..." * (len(row.prediction_set) > _SHOWN)
        yield f"may be {', '.join(row.prediction_set[:_SHOWN])}{more}"
    if (control := row.control) is not None:
        if control.total_variation is None:
            yield f"{control.view}: failed"
        else:
            label = f"-> {control.label}" if control.label_changed else "same label"
            yield f"{control.view}: {label}, {control.total_variation:.2f} moved"
    yield from (reason.text for reason in row.reasons)


@contextmanager
def rows_to_stdout() -> Iterator[TextIO]:
    """Standard output for rows alone, for the block: whatever engines and libraries print goes to
    standard error. A terminal stays as it is, and so does a stream that is no file."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        number = -1
    if number < 0 or sys.stdout.isatty():
        yield sys.stdout
        return
    sys.stdout.flush()
    rows = os.fdopen(os.dup(number), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), number)
    try:
        yield rows
    finally:
        os.dup2(rows.fileno(), number)
        with suppress(BrokenPipeError):
            rows.close()


@contextmanager
def result_file(path: Path, *, overwrite: bool) -> Iterator[TextIO]:
    """The file of ``--out``, for the block; a block that fails before its first row leaves none.
    Raises ConfigError if it cannot be written, or is there already."""
    try:
        file = path.open("w" if overwrite else "x", encoding="utf-8")
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists already; give another file, or --overwrite to write it anew"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}; give --out the path of a file"
        ) from error
    try:
        with file:
            yield file
    except BaseException:  # an interrupt too
        if path.is_file() and not path.stat().st_size:
            path.unlink()  # the next try is not refused because of it
        raise
