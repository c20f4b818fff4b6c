"""Figures of the calls to one user function: latencies, processes started, groups split."""

import math
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class CallFigures:
    """Figures of calls since they were last taken.

    Example:
        CallFigures(latencies=[0.01, 0.02], num_started=1)
    """

    latencies: list[float] = field(default_factory=list)
    """Seconds of each call: of a trace or a group."""
    num_started: int = 0
    """Processes."""
    num_split: int = 0
    """Groups that were asked one by one."""
    num_lost: int = 0
    """Processes that died, hung or wrote nonsense; the next call starts another."""

    def add(self, other: "CallFigures") -> None:
        """Add figures of other calls, of another node's."""
        self.latencies += other.latencies
        self.num_started += other.num_started
        self.num_split += other.num_split
        self.num_lost += other.num_lost

    def take(self) -> "CallFigures":
        """The figures, which begin anew."""
        taken = CallFigures(
            latencies=self.latencies,
            num_started=self.num_started,
            num_split=self.num_split,
            num_lost=self.num_lost,
        )
        self.latencies, self.num_started, self.num_split, self.num_lost = [], 0, 0, 0
        return taken

    def summary(self) -> dict[str, float]:
        """Metrics: latency_p50_s, latency_p99_s where there were calls; num_started; num_split;
        num_lost."""
        latencies = sorted(self.latencies)
        figures = {
            "num_started": float(self.num_started),
            "num_split": float(self.num_split),
            "num_lost": float(self.num_lost),
        }
        if latencies:
            figures |= {
                f"latency_p{share}_s": latencies[math.ceil(share / 100 * len(latencies)) - 1]
                for share in (50, 99)
            }
        return figures
