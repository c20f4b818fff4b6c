"""Report of an import for the user: rows, traces, and what was left out and why."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wire.types import Split

_EXAMPLES = 3
_MAX_COLUMNS = 12


@dataclass(slots=True)
class Tally:
    """Counts of what was left out, ignored or warned about, with a few examples of each."""

    examples: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> ids of the clips."""

    def add(self, reason: str, clip_id: str) -> None:
        """Count one more clip for a reason."""
        self.examples.setdefault(reason, []).append(clip_id)

    def count(self, reason: str) -> int:
        """Number of clips counted for a reason."""
        return len(self.examples.get(reason, []))

    def lines(self) -> list[str]:
        """One line a reason: number, words, the first ids."""
        return [_line(reason, ids) for reason, ids in self.examples.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An import that is done.

    Example:
        Report(manifest=Path("m.jsonl"), labels=("a", "b"),
               recognised=("a.csv read as table",), rows=Counter({("train", "a"): 3}),
               traces=Counter({"train": 2}), texts=Counter(), tally=Tally(), warnings=())
    """

    manifest: Path
    labels: tuple[str, ...]
    recognised: tuple[str, ...]
    """Format that each source was read as."""
    rows: Counter[tuple[str, str]]
    """(split, label) -> rows."""
    traces: Counter[str]
    """Split -> rows with a trace."""
    texts: Counter[str]
    """Split -> rows with side text."""
    tally: Tally
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [*self.recognised, f"wrote {self.manifest}: {self.rows.total()} clips"]
        lines += _table(self)
        if left_out := self.tally.lines():
            lines += ["left out or ignored:", *left_out]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join([*lines, _next(self)])


def _line(reason: str, ids: Sequence[str]) -> str:
    more = ", ..." if len(ids) > _EXAMPLES else ""
    return f"{len(ids):>6}  {reason} ({', '.join(ids[:_EXAMPLES])}{more})"


def _next(report: Report) -> str:
    return (
        f"next: deepintuit init {report.manifest} my.toml --model MODEL\n"
        "      deepintuit check my.toml"
    )


def _table(report: Report) -> list[str]:
    """A row a split; with many labels a column for all, and how many of them occur."""
    if len(report.labels) > _MAX_COLUMNS:
        return _long_table(report)
    cells = [["split", *report.labels, "clips", "traces", "texts"]]
    for split in Split:
        counts = [report.rows[(split.value, label)] for label in report.labels]
        if sum(counts):
            extras = [report.traces[split.value], report.texts[split.value]]
            cells.append([split.value, *map(str, [*counts, sum(counts), *extras])])
    return _aligned(cells)


def _long_table(report: Report) -> list[str]:
    cells = [["split", "labels", "fewest", "most", "clips", "traces", "texts"]]
    for split in Split:
        counts = [report.rows[(split.value, label)] for label in report.labels]
        if used := sum(map(bool, counts)):
            extras = [sum(counts), report.traces[split.value], report.texts[split.value]]
            cells.append(
                [
                    split.value,
                    *map(str, [f"{used}/{len(counts)}", min(counts), max(counts), *extras]),
                ]
            )
    return _aligned(cells)


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]
