"""Reads what a run has left out, or ended with, for the report."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.status.heartbeat import State, read_heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """Quarantined clip, with the reason."""

    sample_id: str
    video: str
    reason: str


def failure_of(path: Path) -> str:
    """The error that the run in ``path`` failed with; empty if it did not."""
    last = read_heartbeat(path)
    return last.reason if last is not None and last.state is State.FAILED else ""


def read_quarantined(path: Path) -> Iterator[Quarantined]:
    """Read the clips that the run in ``path`` has left out."""
    file = path / "quarantine.jsonl"
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            yield Quarantined(
                sample_id=str(row["sample_id"]), video=str(row["video"]), reason=str(row["reason"])
            )
        except (ValueError, KeyError, TypeError):
            continue  # the line that is being written
