"""Shares the calls of one user function out to nodes, each of which runs it in processes of its
own.

    score(group) -> the least busy node -> PluginRunner there -> values and failures
                    lost meanwhile      -> once more on another; none left: on the driver's node

A function that raises, hangs or dies is the node's PluginRunner's matter, and gives the same
failures as on the driver's node. A lost node is the run's matter, and costs no trace.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from reward.config import RewardTerm
from reward.plugins.call_figures import CallFigures
from reward.plugins.question import Question
from reward.plugins.runner import PluginRunner, Value
from reward.plugins.shipped import ShippedFunction
from reward.plugins.signature import Signature
from wire.types import Failure, FailureKind

log = logging.getLogger(__name__)

_TRIES = 2
_PATIENCE_S = 60.0


class NodeLost(Exception):
    """A node answers no more, or the process on it that ran user functions."""


class FunctionNode(Protocol):
    """Node that runs user functions. Every method raises NodeLost."""

    @property
    def name(self) -> str:
        """Its name, for people."""

    async def load(self, function: ShippedFunction) -> Signature:
        """Load a function. Raises ConfigError that names the node if it cannot be loaded there."""

    async def score(
        self, part: str, question: Question
    ) -> tuple[list[Value | Failure], CallFigures]:
        """Ask the function of that reward part about a group; figures since the last answer."""

    async def ping(self) -> None:
        """Return at once, however busy the functions are."""


@dataclass(slots=True)
class _Lane:
    """Calls to one node."""

    node: FunctionNode
    num_waiting: int = 0
    num_sent: int = 0
    is_lost: bool = False


class SpreadRunner:
    """Asks one user function on several nodes, a group at a time."""

    def __init__(
        self,
        term: RewardTerm,
        columns: Collection[str] | None,
        nodes: Sequence[FunctionNode],
        *,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """``columns``: the manifest's further ones, if known; ``patience_s``: after so long a
        node's answer is waited for only while the node responds within as long again. Raises
        ConfigError if there is no such file."""
        self._part, self._patience_s = term.part, patience_s
        self._on_driver = PluginRunner(term, columns)
        known = None if columns is None else tuple(sorted(columns))
        self._function = ShippedFunction.of(term, known)
        self._lanes = [_Lane(node) for node in nodes]
        self._most_waiting = term.concurrency + 1  # the next is there when a process is free
        self._freed = asyncio.Condition()
        self._figures = CallFigures()
        self.signature: Signature | None = None
        """What the function takes; None before :meth:`start`."""

    async def start(self) -> None:
        """Load the function on every node. Raises ConfigError if one cannot."""
        loaded = await asyncio.gather(*[self._load(lane) for lane in self._lanes])
        signatures = [signature for signature in loaded if signature is not None]
        if not signatures:
            await self._on_driver.start()
            self.signature = self._on_driver.signature
            return
        self.signature = self._on_driver.signature = signatures[0]

    async def score(self, question: Question) -> list[Value | Failure]:
        """The function's value of each trace of the group, in their order; or the failure."""
        lost = []
        for _ in range(_TRIES):
            if (lane := await self._take_lane()) is None:
                break
            try:
                outcomes, figures = await self._ask(lane.node, question)
            except NodeLost as error:
                self._lose(lane, error)
                lost.append(lane.node.name)
            else:
                self._figures.add(figures)
                return outcomes
            finally:
                await self._free(lane)
        if not self._alive:
            return await self._on_driver.score(question)
        reason = f"nodes {' and '.join(lost)} were lost, one after the other, while they judged it"
        failure = Failure(kind=FailureKind.REWARD, culprit=self._part, reason=reason)
        return [failure] * len(question.traces)

    def take_figures(self) -> dict[str, float]:
        """Figures of all nodes since the last call, as those of one
        (reward/plugins/call_figures.py)."""
        self._figures.add(self._on_driver.figures.take())
        return self._figures.take().summary()

    async def close(self) -> None:
        """End the processes on the driver's node; those of the nodes end with their actors."""
        await self._on_driver.close()

    @property
    def _alive(self) -> list[_Lane]:
        return [lane for lane in self._lanes if not lane.is_lost]

    async def _load(self, lane: _Lane) -> Signature | None:
        try:
            return await lane.node.load(self._function)
        except NodeLost as error:
            self._lose(lane, error)
            return None

    async def _take_lane(self) -> _Lane | None:
        """The least busy node, once it has room for a call; None if none is left."""
        async with self._freed:
            while alive := self._alive:
                lane = min(alive, key=lambda lane: (lane.num_waiting, lane.num_sent))
                if lane.num_waiting < self._most_waiting:
                    lane.num_waiting += 1
                    lane.num_sent += 1
                    return lane
                await self._freed.wait()
            return None

    async def _free(self, lane: _Lane) -> None:
        async with self._freed:
            lane.num_waiting -= 1
            self._freed.notify_all()

    async def _ask(
        self, node: FunctionNode, question: Question
    ) -> tuple[list[Value | Failure], CallFigures]:
        """A node's answer, waited for as long as the node responds: the function's own deadlines
        are kept there."""
        call = asyncio.ensure_future(node.score(self._part, question))
        try:
            while True:
                done, _ = await asyncio.wait((call,), timeout=self._patience_s)
                if done:
                    return call.result()
                try:
                    await asyncio.wait_for(node.ping(), self._patience_s)
                except TimeoutError as error:
                    silence = f"it did not respond within {self._patience_s:g} s"
                    raise NodeLost(silence) from error
        finally:
            call.cancel()

    def _lose(self, lane: _Lane, error: NodeLost) -> None:
        if lane.is_lost:
            return
        lane.is_lost = True
        left = len(self._alive)
        where = f"on {left} other node(s)" if left else "on the driver's node, as none is left"
        what = "reward %s runs no more on node %s: %s; its calls are made %s"
        log.warning(what, self._part, lane.node.name, error, where)
