"""Kills at random times: exponential gaps, roles and victims drawn from one seed. (No test file.)

Outside of the run: reads its events, and sends signals to its processes.
"""

import math
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.metrics.events import read_events
from tests.faults.victims import find

KILLED = {
    "rollout actor": 3,
    "engine": 3,
    "engine group": 1,
    "rank": 2,
    "reward worker": 1,
    "decode helpers": 1,
}
"""Roles, and how often each is drawn relative to the others."""
_OF_WORKERS = ("rollout actor", "engine", "engine group")
_MIN_SERVING = 2
"""Before a worker is killed: one for it, and a spare."""
_HANG = 0.2


@dataclass(frozen=True)
class Kill:
    """Kill that is due."""

    at_s: float
    """Since the start of the soak."""
    role: str
    index: int
    number: signal.Signals


def drawn_kills(seed: int, mean_s: float, roles: Sequence[str] = tuple(KILLED)) -> Iterator[Kill]:
    """All kills of a seed, without end. An engine is stopped, not killed, one time in five."""
    draw, at = random.Random(seed), 0.0
    weights = [KILLED[role] for role in roles]
    while True:
        at += draw.expovariate(1 / mean_s)
        role = draw.choices(roles, weights)[0]
        hangs = role == "engine" and draw.random() < _HANG
        number = signal.SIGSTOP if hangs else signal.SIGKILL
        yield Kill(at, role, draw.randrange(1_000_000), number)


@dataclass
class Killer:
    """Carries out the kills of a seed on a run, and writes down what it hit."""

    run_dir: Path
    kills: Iterator[Kill]
    say: Callable[[str], None]
    num_hit: int = 0
    num_spared: int = 0
    """Kills that were left out: no spare served, or no such process was there."""

    def __post_init__(self) -> None:
        self._start, self._next = time.monotonic(), next(self.kills)

    def tick(self, driver: int) -> None:
        """Carry out what is due by now, on the processes below the driver's."""
        while time.monotonic() - self._start >= self._next.at_s:
            kill, self._next = self._next, next(self.kills)
            self._carry_out(kill, driver)

    def _carry_out(self, kill: Kill, root: int) -> None:
        if kill.role in _OF_WORKERS and num_serving(self.run_dir) < _MIN_SERVING:
            self._spare(kill, "no spare worker serves")
            return
        hit = find(kill.role, [root], kill.index % _count(kill.role, root))
        if not hit.pids:
            self._spare(kill, "no such process")
            return
        hit.send(kill.number)
        self.num_hit += 1
        self.say(f"{kill.at_s:7.1f} s: {kill.number.name} to {kill.role} {hit.pids}")

    def _spare(self, kill: Kill, why: str) -> None:
        self.num_spared += 1
        self.say(f"{kill.at_s:7.1f} s: {kill.role} is spared: {why}")


def _count(role: str, root: int) -> int:
    """Victims of a role that there are; at least 1."""
    return max(1, next(n for n in range(64) if not find(role, [root], n).pids))


def num_serving(run_dir: Path) -> int:
    """Workers that serve, by the last event of each."""
    kinds = ("worker_joined", "worker_state")
    states = {e.subject: e.fields["state"] for e in read_events(run_dir) if e.kind in kinds}
    return sum(state == "healthy" for state in states.values())


def recovery_times(run_dir: Path) -> list[float]:
    """Seconds from each loss of a worker to its service, and those of each heal of the learner."""
    lost: dict[str, float] = {}
    seconds = []
    for event in read_events(run_dir):
        state = event.fields.get("state")
        if event.kind == "learner_healed":
            seconds.append(float(event.fields.get("seconds", math.nan)))
        elif state in ("suspect", "dead"):
            lost.setdefault(event.subject, event.time)
        elif state == "healthy" and event.subject in lost:
            seconds.append(event.time - lost.pop(event.subject))
    return seconds
