"""Fault: a row of the table of what is done to a run, and when. (No test file.)"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

Moment = Literal[
    "idle", "serving", "mid-update", "in-update", "forward", "all-reduce", "in-save", "append"
]
Act = Literal["KILL", "STOP", "fill-store", "full-disk"]

WITNESS_FILE = "faults.jsonl"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Fault of a run.

    Example:
        Fault(name="engine-serving", role="engine", moment="serving", step=3, healed_by="worker")
    """

    name: str
    role: str
    """Whose processes (victims.py)."""
    moment: Moment
    """When in the step."""
    act: Act = "KILL"
    run: str = ""
    """Rows of one name share a run, each at its own step; none: a run of its own."""
    step: int = 3
    """The first step in which it comes; the step after the next waits until it is healed."""
    index: int = -1
    """Which of several victims, the oldest first."""
    for_s: float = 0.0
    """A stopped process goes on after so long; 0: never."""
    healed_by: Literal["worker", "rank", "reward", "decoder", "itself", "resume"] = "itself"
    """Whose event says that the fault is healed, within the run; ``resume``: the run ends and is
    started again."""
    limit_s: float = 60.0
    """Longest time to recover."""
    line: str = ""
    """What one line of the run's log says of it, a regular expression."""
    settings: Sequence[str] = ()
    """More of the recipe."""
    nodes: int = 0
    """Raylets of the cluster; 0: a Ray of the run's own."""


@dataclass(frozen=True, kw_only=True)
class Witness:
    """What the injector saw of a fault: that it happened, to whom, and what was going on then."""

    name: str
    time: float
    step: int
    pids: Sequence[int]
    in_flight: int
    """Requests that the pool had not answered."""
    publishing: bool
    """Whether weights were on their way to the engines."""
    training: bool
    """Whether the ranks computed an update."""
    below: Sequence[int]
    """All processes that the driver had started, engines and ranks of its own Ray among them."""
    more: dict[str, Any] = field(default_factory=dict)

    def write(self, run_dir: Path) -> None:
        """Append it to the run's file of witnesses."""
        with (run_dir / WITNESS_FILE).open("a") as file:
            file.write(json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, run_dir: Path) -> dict[str, Self]:
        """Witnesses of a run by the names of their faults."""
        path = run_dir / WITNESS_FILE
        lines = path.read_text().splitlines() if path.exists() else []
        return {(row := json.loads(line))["name"]: cls(**row) for line in lines}
