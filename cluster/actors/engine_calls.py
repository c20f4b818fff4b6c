"""Calls to the engines of one weight update: each has a deadline, and an engine that fails leaves
the update with its reason."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from wire.engine_group import Membership
from wire.errors import DeepIntuitError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSet:
    """Engines that are to get an update together, with their actors."""

    epoch: int
    """See ``Membership.epoch``."""
    actors: Mapping[str, Any]
    ranks_per_engine: int = 1

    @property
    def membership(self) -> Membership:
        """The same without actors."""
        return Membership(
            epoch=self.epoch, members=tuple(self.actors), ranks_per_engine=self.ranks_per_engine
        )


class EngineCalls:
    """Calls to the actors of an :class:`EngineSet`. Only engines that are still in the update are
    called and awaited."""

    def __init__(self, actors: Mapping[str, Any], timeout_s: float) -> None:
        self._actors, self.timeout_s = actors, timeout_s
        self.active = list(actors)
        self.failures: dict[str, str] = {}
        """Engines that left the update, and why."""

    def start(
        self, call: Callable[[str, Any], Any], names: Iterable[str] | None = None
    ) -> dict[str, Any]:
        """Call engines, all that are left by default. Returns references to their answers."""
        names = self.active if names is None else [name for name in names if name in self.active]
        return {name: call(name, self._actors[name]) for name in names}

    def answers(self, what: str, calls: Mapping[str, Any]) -> dict[str, Any]:
        """Await answers. An engine that fails, or answers too late, leaves the update."""
        deadline, answers = time.monotonic() + self.timeout_s, {}
        for name in [name for name in calls if name in self.active]:
            try:
                answers[name] = ray.get(calls[name], timeout=max(0.0, deadline - time.monotonic()))
            except GetTimeoutError:
                self.drop(name, f"{what} did not end within {self.timeout_s:.0f} s")
            except (RayError, DeepIntuitError) as error:
                self.drop(name, f"{what}: {first_line(error)}")
        return answers

    def ask(
        self, what: str, call: Callable[[str, Any], Any], names: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Call engines and await their answers."""
        return self.answers(what, self.start(call, names))

    def drop(self, name: str, why: str) -> None:
        """Note that an engine leaves the update."""
        if name in self.active:
            self.active.remove(name)
            self.failures[name] = why


def first_failure(calls: Mapping[str, Any], timeout_s: float) -> str | None:
    """Await all calls, or the first that fails. Returns the failure, None if all have succeeded."""
    names = {ref: name for name, ref in calls.items()}
    deadline, left = time.monotonic() + timeout_s, list(names)
    while left:
        ended, left = ray.wait(left, timeout=max(0.0, deadline - time.monotonic()))
        if not ended:
            late = ", ".join(names[ref] for ref in left)
            return f"no answer of {late} within {timeout_s:.0f} s"
        try:
            ray.get(ended)
        except (RayError, DeepIntuitError) as error:
            return f"{names[ended[0]]}: {first_line(error)}"
    return None


def first_line(error: BaseException) -> str:
    """Kind and last line of an error that came through Ray."""
    cause = error
    while (inner := getattr(cause, "cause", None)) is not None:
        cause = inner
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1] if lines else ''}"[:500]
