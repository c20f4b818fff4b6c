"""Clock of work: idle shares of workers and ranks, and what limits a step, counted as spans begin
and end.

    begin, end -> in work now -> at each change the time since the last one is counted
               -> per worker and rank: seconds in work
               -> per moment: learner | weights | generation | reward | other

A moment belongs to the phase of the training loop (track ``driver``). Where that waits for groups,
it belongs to generation if any worker answers, else to reward if any group is being judged, else to
other. So the five shares add up to one, and the largest says what to make faster.

Counts alone are kept: a step of any length costs two steps of arithmetic per span.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean

from cluster.metrics.timeline import ANSWER, DRIVER, REWARD
from cluster.metrics.trace_file import track_kind, track_order

LIMITS = ("generation", "reward", "learner", "weights", "other")
_OF_PHASE = {
    "old_log_prob": "learner",
    "ref": "learner",
    "update_actor": "learner",
    "heal": "learner",
    "update_weights": "weights",
    "sleep": "weights",
}
_WAITS = ("gen", "settle", "validate")
"""Phases in which the training loop waits for groups."""
WORKER, RANK = "rollout", "rank"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShares:
    """Shares of one step's time.

    Example:
        StepShares(seconds=8.0, idle={"rollout-0": 0.1, "rank-0": 0.6},
                   limits={"generation": 0.5, "reward": 0.0, "learner": 0.4, "weights": 0.1,
                           "other": 0.0})
    """

    seconds: float
    idle: Mapping[str, float]
    """Track of a worker or rank -> share of the time without work."""
    limits: Mapping[str, float]
    """Of LIMITS each -> share of the time."""

    def figures(self) -> dict[str, float]:
        """Metrics of the step."""
        workers = [idle for track, idle in self.idle.items() if track_kind(track) != RANK]
        ranks = [idle for track, idle in self.idle.items() if track_kind(track) == RANK]
        figures = {f"limit/{name}": share for name, share in self.limits.items()}
        if workers:
            figures["rollouter/idle_ratio"] = fmean(workers)
            figures["rollouter/idle_ratio_max"] = max(workers)
        if ranks:
            figures["trainer/idle_ratio"] = fmean(ranks)
            figures["trainer/idle_ratio_max"] = max(ranks)
        return figures


class WorkClock:
    """Counts the time in work of every worker and rank."""

    def __init__(self, now: float) -> None:
        self._since = self._last = now
        self._in_work = Counter[str]()
        self._phases: list[str] = []
        self._busy_workers = self._num_judged = 0
        self._busy_since: dict[str, float] = {}
        self._busy = defaultdict[str, float](float)
        self._limits = dict.fromkeys(LIMITS, 0.0)
        self.busy_s = defaultdict[str, float](float)
        """Seconds in work of each worker and rank since the start."""
        self.present_s = defaultdict[str, float](float)
        """Seconds in which each of them was there."""

    def begin(self, track: str, name: str, now: float) -> None:
        """Count work that begins."""
        self._count_until(now)
        kind = track_kind(track)
        if track == DRIVER:
            self._phases.append(name)
        elif track == REWARD:
            self._num_judged += 1
        elif _is_work(kind, name):
            self._in_work[track] += 1
            if self._in_work[track] == 1:
                self._busy_since[track] = now
                self._busy_workers += kind == WORKER

    def end(self, track: str, name: str, now: float) -> None:
        """Count work that ends."""
        self._count_until(now)
        kind = track_kind(track)
        if track == DRIVER:
            if name in self._phases:  # else of a stage that has ended
                self._phases.remove(name)
        elif track == REWARD:
            self._num_judged -= 1
        elif _is_work(kind, name):
            self._in_work[track] -= 1
            if not self._in_work[track]:
                del self._in_work[track]
                self._busy[track] += max(0.0, now - self._busy_since.pop(track))
                self._busy_workers -= kind == WORKER

    def restart(self, now: float) -> None:
        """Begin anew: work that is under way goes on, phases of the training loop do not."""
        self.take(now, ())
        self._phases.clear()
        self.busy_s.clear()
        self.present_s.clear()

    def take(self, now: float, present: Collection[str]) -> StepShares:
        """Shares since the last call. ``present``: the workers that are there, also those that got
        nothing to do."""
        self._count_until(now)
        for track, since in self._busy_since.items():
            self._busy[track] += max(0.0, now - since)
            self._busy_since[track] = now
        seconds = max(now - self._since, 1e-9)
        ranks = (track for track in self.present_s if track_kind(track) == RANK)
        idle = {
            track: min(1.0, max(0.0, 1 - self._busy[track] / seconds))
            for track in sorted({*present, *ranks, *self._busy}, key=track_order)
        }
        shares = StepShares(
            seconds=seconds,
            idle=idle,
            limits={name: spent / seconds for name, spent in self._limits.items()},
        )
        for track in idle:
            self.busy_s[track] += self._busy[track]
            self.present_s[track] += seconds
        self._busy.clear()
        self._limits = dict.fromkeys(LIMITS, 0.0)
        self._since = now
        return shares

    def _count_until(self, now: float) -> None:
        self._limits[self._limit()] += max(0.0, now - self._last)
        self._last = max(now, self._last)

    def _limit(self) -> str:
        phase = self._phases[-1] if self._phases else ""
        if phase not in _WAITS:
            return _OF_PHASE.get(phase, "other")
        if self._busy_workers:
            return "generation"
        return "reward" if self._num_judged else "other"


def _is_work(kind: str, name: str) -> bool:
    return kind == RANK or (kind == WORKER and name == ANSWER)
