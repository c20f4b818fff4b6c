"""Effective training time ratio (ETTR): the share of a training's wall clock that moved it forward.

    seconds of the steps that count, less heals
    -------------------------------------------------------------
    now - begin of the training's first step, over all attempts

Lost are: steps that a resume trains again, the time between attempts and their starts, heals of
learner ranks, all time in which no rollout worker served because of a failure, and tries of a
weight update in which an engine failed. The name and the idea are ByteDance's (ByteRobust,
arXiv:2509.16293: productive training time over wall clock).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.metrics.metrics_file import Row, is_validation


@dataclass
class EffectiveTime:
    """Time of one training, counted over its attempts."""

    began: float
    """Unix time at which its first step began."""
    effective_s: float
    """Seconds that moved it forward."""

    @classmethod
    def resumed(cls, rows: Iterable[Row], stage: str, step: int, now: float) -> "EffectiveTime":
        """Time of a training that goes on after ``step``; ``rows``: of its metrics.jsonl."""
        began, kept = now, dict[int, float]()
        for row in rows:
            if row["stage"] != stage or is_validation(row):
                continue
            seconds = float(row.get("timing_s/step") or 0.0)
            began = min(began, float(row.get("time", now)) - seconds)
            at = int(row["step"])
            kept = {before: spent for before, spent in kept.items() if before < at}
            kept[at] = seconds - float(row.get("fleet/lost_s") or 0.0)
        return cls(began, sum(spent for at, spent in kept.items() if at <= step))

    def ratio(self, step_s: float, lost_s: float, now: float) -> float:
        """Ratio up to ``now``, when a step of ``step_s`` ends of which ``lost_s`` are lost."""
        self.effective_s += max(0.0, step_s - lost_s)
        return min(1.0, self.effective_s / max(now - self.began, 1e-9))
