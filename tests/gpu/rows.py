"""Rows that the checks of a card give: one JSON object a line, whole or not there.

    Figure | NotRun -> Row -> a line, appended by one write

``ok`` is true, false, or null for what did not run; ``note`` then says why. A name that occurs
again supersedes the earlier row.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.benchmarks.figures import Figure
from wire.strict_json import to_json


@dataclass(frozen=True, slots=True)
class NotRun:
    """A figure that this machine or environment cannot give."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the file."""

    name: str
    value: float | None = None
    unit: str = ""
    limit: float | None = None
    goal: str = "above"
    ok: bool | None = None
    seconds: float = 0.0
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def of(cls, result: Figure | NotRun, seconds: float) -> "Row":
        """Row of what a check gave; device and versions are the run's."""
        if isinstance(result, NotRun):
            return cls(name=result.name, note=result.reason, seconds=seconds)
        return cls(**asdict(result), ok=result.holds, seconds=seconds)

    @property
    def line(self) -> str:
        """The row as it is printed."""
        state = {True: "ok", False: "FAILED", None: "not run"}[self.ok]
        value = "" if self.value is None else f"{self.value:.4g} {self.unit}"
        sign = {"above": ">=", "below": "<="}[self.goal]
        limit = "" if self.limit is None else f"{sign} {self.limit:g}"
        text = f"{self.name:52} {value:>20} {limit:>12} {self.seconds:6.1f} s  {state}"
        return f"{text}: {self.note}" if self.note else text

    def append_to(self, path: Path) -> None:
        """Append the row to a file, on the disk before this returns."""
        data = (to_json(asdict(self)) + "\n").encode()
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            written = os.write(opened, data)
            assert written == len(data), f"{path}: the disk took {written} of {len(data)} bytes"
            os.fsync(opened)
        finally:
            os.close(opened)
