"""What a benchmark says: rows of name, value, unit, limit and goal, printed and written."""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from wire.strict_json import to_json


@dataclass(frozen=True)
class Figure:
    """One row; without a limit it tells what others are made of."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    goal: Literal["above", "below"] = "above"

    @property
    def holds(self) -> bool:
        """Whether the limit is kept."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.goal == "above" else self.value <= self.limit

    @property
    def line(self) -> str:
        """As it is printed."""
        text = f"{self.name:42} {self.value:12.3f} {self.unit:8}"
        if self.limit is None:
            return text.rstrip()
        sign = ">=" if self.goal == "above" else "<="
        return f"{text} {sign} {self.limit:g}  {'ok' if self.holds else 'MISSED'}"


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def report(figures: Iterable[Figure], target: Path | None) -> int:
    """Print each figure as it comes, write all to ``target``. Returns the exit status: 1 if a limit
    is missed."""
    found: list[Figure] = []
    for figure in figures:
        found.append(figure)
        say(figure.line)
    if target is not None:
        target.write_text(to_json([asdict(figure) for figure in found], indent=1) + "\n")
    return int(not all(figure.holds for figure in found))
