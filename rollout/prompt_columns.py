"""Checks the columns that prompts show: every row has them, and they do not tell the label.

Prompts + Samples -> faults (no engine may start) and the columns that all but tell the label
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rollout.prompt import Prompts, column_text
from rollout.prompts_config import TextName, unknown_field
from wire.errors import DataError
from wire.labels import plain
from wire.types import Sample

_SHOWN = 5
_SAME = 0.9
"""Share of rows whose value is the label itself, from which on a column is refused."""
_TOLD = 0.95
"""Share of rows whose label the other rows of the same value tell, from which on a warning."""
_FEWEST = 10
"""Fewest rows by which to judge that."""


def check_columns(prompts: Prompts, samples: Sequence[Sample]) -> None:
    """Raise DataError for the first fault of :func:`column_faults`."""
    for fault in column_faults(prompts, samples):
        raise DataError(fault)


def column_faults(prompts: Prompts, samples: Sequence[Sample]) -> Iterator[str]:
    """Faults of the columns that prompts show, each with its remedy after the last semicolon."""
    if not prompts.columns:
        return
    columns = tuple(dict.fromkeys(name for sample in samples for name in sample.extra))
    for column, names in prompts.columns.items():
        if fault := missing_values(column, names, samples):
            yield fault
        if column in columns and (reason := _gives_away(prompts, samples, column)):
            yield (
                f"column {column!r} {reason}, and {_shown_by(names)} would show it; take "
                f"{{{column}}} out of the prompt"
            )


def missing_values(column: str, names: Sequence[TextName], samples: Sequence[Sample]) -> str:
    """Fault of a column that the texts of these names show and rows do not have; empty if all
    have it."""
    without = [s.id for s in samples if column_text(s, column) is None]
    if not without:
        return ""
    columns = tuple(dict.fromkeys(name for sample in samples for name in sample.extra))
    if column not in columns:
        return unknown_field(names[0], column, columns)
    rest = f" and {len(without) - _SHOWN} more" if len(without) > _SHOWN else ""
    return (
        f"{len(without)} of {len(samples)} rows have no value in column {column!r}, which "
        f"{_shown_by(names)} shows: {', '.join(without[:_SHOWN])}{rest}; give each one, which may "
        "be an empty text"
    )


def _shown_by(names: Sequence[TextName]) -> str:
    return " and ".join(f"prompts.{name}" for name in names)


def _gives_away(prompts: Prompts, samples: Sequence[Sample], column: str) -> str:
    """Why a column is the label in other words; empty if it is not."""
    pairs = [(plain(text), s.label) for s in samples if (text := column_text(s, column))]
    if not pairs:
        return ""
    same = sum(text == plain(label) for text, label in pairs)
    if same >= _SAME * len(pairs):
        return f"holds the label itself in {same} of {len(pairs)} rows"
    values, labels = Counter(text for text, _ in pairs), Counter(label for _, label in pairs)
    one_to_one = len(set(pairs)) == len(values) == len(labels) > 1
    if one_to_one and len(pairs) >= 2 * len(labels):
        return f"is a code of the label (each of its {len(values)} values stands for one label)"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TellingColumn:
    """Column from whose value alone the label can nearly always be told.

    Example:
        TellingColumn(name="camera", told=97, of=100)
    """

    name: str
    told: int
    """Rows whose label is the one that most other rows of the same value have."""
    of: int
    """Rows that share their value with another."""


def telling_columns(prompts: Prompts, samples: Sequence[Sample]) -> list[TellingColumn]:
    """Columns in prompts that nearly always tell the label: most other rows of the same value have
    it. Rows whose value no other row has say nothing."""
    telling = []
    for column in prompts.columns:
        by_value: dict[str, Counter[str]] = defaultdict(Counter)
        for sample in samples:
            if text := column_text(sample, column):
                by_value[plain(text)][sample.label] += 1
        shared = [labels for labels in by_value.values() if labels.total() > 1]
        rows = sum(labels.total() for labels in shared)
        right = sum(_told(labels) for labels in shared)
        most = max(sum(shared, Counter()).values(), default=0)
        if rows >= _FEWEST and right >= _TOLD * rows and most < _TOLD * rows:
            telling.append(TellingColumn(name=column, told=right, of=rows))
    return telling


def _told(labels: Counter[str]) -> int:
    """Rows of one value whose label is the only most frequent one among the other rows."""
    right = 0
    for label, count in labels.items():
        others = max((n for other, n in labels.items() if other != label), default=0)
        right += count if count - 1 > others else 0
    return right
