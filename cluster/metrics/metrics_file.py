"""Reader of metrics.jsonl, also while it is being written, and of files of earlier versions.

lines -> rows (stage, step, attempt, time, figures; null: the figure was not finite)
      -> the last row of each stage -> warnings of a training that learns nothing
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.metrics.learning_guards import learning_warnings
from wire.strict_json import from_json

NOT_FIGURES = ("stage", "step", "attempt", "time")
"""Keys of a row that are no figures."""

Row = Mapping[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a metrics.jsonl, in its order; none without a file."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        yield from parse_rows(lines)


def parse_rows(lines: Iterable[bytes]) -> Iterator[Row]:
    """Rows of lines of a metrics.jsonl, without a line that a crash cut or that is being
    written."""
    for line in lines:
        try:
            row = from_json(line.decode(errors="replace"))
        except ValueError:
            continue
        if isinstance(row, dict) and row.keys() >= {"stage", "step", "attempt"}:
            yield row


def current_rows(rows: Iterable[Row], beginnings: Mapping[str, int]) -> Iterator[Row]:
    """Rows without those of a training that a resume has replaced; ``beginnings``: stage -> attempt
    with which it began anew."""
    return (row for row in rows if row["attempt"] >= beginnings.get(str(row["stage"]), 0))


def figures_of(row: Row) -> dict[str, float | None]:
    """Figures of a row; None: it was not finite."""
    return {
        name: None if value is None else float(value)
        for name, value in row.items()
        if name not in NOT_FIGURES and isinstance(value, int | float | None)
    }


def is_validation(row: Row) -> bool:
    """Whether a row has the figures of a validation, not those of a step."""
    return any(name.startswith("val/") for name in row)


def warnings_of(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Warnings of each stage that learned nothing, or did so at times, from its last row."""
    last = {str(row["stage"]): row for row in rows if not is_validation(row)}
    warnings = {stage: list(learning_warnings(figures_of(row))) for stage, row in last.items()}
    return {stage: lines for stage, lines in warnings.items() if lines}
