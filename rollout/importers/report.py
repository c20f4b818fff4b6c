"""What an import did, for the user: rows, traces, and what was left out and why."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wire.types import Split

_EXAMPLES = 3


@dataclass(slots=True)
class Tally:
    """Counts of what was left out, ignored or warned about, with a few examples of each."""

    examples: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> ids of the clips."""

    def add(self, reason: str, clip_id: str) -> None:
        """Count one more clip for a reason."""
        self.examples.setdefault(reason, []).append(clip_id)

    def count(self, reason: str) -> int:
        """How many clips were counted for a reason."""
        return len(self.examples.get(reason, []))

    def lines(self) -> list[str]:
        """One line a reason: number, words, the first ids."""
        return [_line(reason, ids) for reason, ids in self.examples.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An import that is done.

    Example:
        Report(manifest=Path("m.jsonl"), labels=("a", "b"), rows=Counter({("train", "a"): 3}),
               traces=Counter({"train": 2}), texts=Counter(), tally=Tally(), warnings=())
    """

    manifest: Path
    labels: tuple[str, ...]
    rows: Counter[tuple[str, str]]
    """(split, label) -> rows."""
    traces: Counter[str]
    """Split -> rows with a trace."""
    texts: Counter[str]
    """Split -> rows with side text."""
    tally: Tally
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"wrote {self.manifest}: {self.rows.total()} clips", *_table(self)]
        if told := self.tally.lines():
            lines += ["left out or ignored:", *told]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def _line(reason: str, ids: Sequence[str]) -> str:
    more = ", ..." if len(ids) > _EXAMPLES else ""
    return f"{len(ids):>6}  {reason} ({', '.join(ids[:_EXAMPLES])}{more})"


def _table(report: Report) -> list[str]:
    cells = [["split", *report.labels, "clips", "traces", "texts"]]
    for split in Split:
        counts = [report.rows[(split.value, label)] for label in report.labels]
        if sum(counts):
            extras = [report.traces[split.value], report.texts[split.value]]
            cells.append([split.value, *map(str, [*counts, sum(counts), *extras])])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]
