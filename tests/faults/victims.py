"""Processes of a run by their role: whom a fault hits. (No test file.)

Found from outside, by title and parent, so that the product needs no hook for it.
"""

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

_DECODER, _REWARD = "video.pool_child", "reward.plugins.watchdog"
_ENGINE, _ROLLOUT, _RANK = "VLLM::", "ray::RolloutActor", "ray::LearnerActor"


@dataclass(frozen=True)
class Victims:
    """Processes that one fault hits at once.

    Example:
        Victims(role="engine", processes=[EngineCore, its workers])
    """

    role: str
    processes: Sequence[psutil.Process]

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [process.pid for process in self.processes]

    def send(self, number: signal.Signals) -> None:
        """Send all of them a signal, one right after the other."""
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def title_of(process: psutil.Process) -> str:
    """Command line of a process; empty if it ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def runs(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def below(roots: Iterable[int]) -> list[psutil.Process]:
    """All processes below these, the oldest first."""
    processes: dict[int, psutil.Process] = {}
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            processes |= {p.pid: p for p in psutil.Process(root).children(recursive=True)}
    return sorted(processes.values(), key=_age)


def _age(process: psutil.Process) -> tuple[float, int]:
    with suppress(psutil.Error):
        return process.create_time(), process.pid
    return 0.0, process.pid


def rollout_actors(roots: Iterable[int]) -> list[psutil.Process]:
    """Actors of the rollout workers, the oldest first."""
    return _titled(roots, _ROLLOUT)


def learner_ranks(roots: Iterable[int]) -> list[psutil.Process]:
    """Actors of the learner ranks, the oldest first."""
    return _titled(roots, _RANK)


def engine_of(actor: psutil.Process) -> list[psutil.Process]:
    """Processes of one worker's engine: its core, and the core's own workers."""
    return [process for process in below([actor.pid]) if _ENGINE in title_of(process)]


def _titled(roots: Iterable[int], *parts: str) -> list[psutil.Process]:
    return [process for process in below(roots) if any(part in title_of(process) for part in parts)]


def _nth(processes: Sequence[psutil.Process], index: int) -> list[psutil.Process]:
    return [processes[index]] if -len(processes) <= index < len(processes) else []


def _actor(roots: Sequence[int], index: int) -> list[psutil.Process]:
    return _nth(rollout_actors(roots), index)


def _engine(roots: Sequence[int], index: int) -> list[psutil.Process]:
    return [engine for actor in _actor(roots, index) for engine in engine_of(actor)]


def _engine_group(roots: Sequence[int], index: int) -> list[psutil.Process]:
    """The process group in which a worker's engine is, with all that is in it."""
    groups = {os.getpgid(engine.pid) for engine in _engine(roots, index)}
    return [process for process in below(roots) if os.getpgid(process.pid) in groups]


def _reward_worker(roots: Sequence[int], index: int) -> list[psutil.Process]:
    """The process that runs the user's function: the child that its guard has forked."""
    return _nth([p for p in _titled(roots, _REWARD) if _is_reward(p.parent())], index)


def _reward_guard(roots: Sequence[int], index: int) -> list[psutil.Process]:
    return _nth([p for p in _titled(roots, _REWARD) if not _is_reward(p.parent())], index)


def _is_reward(process: psutil.Process | None) -> bool:
    return process is not None and _REWARD in title_of(process)


def _decode_helpers(roots: Sequence[int], index: int) -> list[psutil.Process]:
    return _titled(roots, _DECODER)


def _raylet(roots: Sequence[int], index: int) -> list[psutil.Process]:
    """Raylet of a node that has a rollout worker: its processes end with it, as with a machine."""
    raylets = [psutil.Process(root) for root in roots if runs(root) and rollout_actors([root])]
    return _nth(raylets, index)


_ROLES: dict[str, Callable[[Sequence[int], int], list[psutil.Process]]] = {
    "rollout actor": _actor,
    "engine": _engine,
    "engine group": _engine_group,
    "rank": lambda roots, index: _nth(learner_ranks(roots), index),
    "reward worker": _reward_worker,
    "reward guard": _reward_guard,
    "decode helpers": _decode_helpers,
    "node": _raylet,
    "driver": lambda _roots, _index: [psutil.Process()],
}
ROLES = tuple(_ROLES)


def find(role: str, roots: Sequence[int], index: int = -1) -> Victims:
    """The victims of a role below these processes; ``index``: which of several, the oldest first.
    None are there: an empty Victims, which no fault takes for a hit."""
    return Victims(role, _ROLES[role](roots, index))
