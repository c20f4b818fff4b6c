"""Healing of a learner whose rank was lost: all ranks start anew, from the last whole checkpoint,
and the updates since are done again.

    call -> RankDied | RankHung | PeersLost -> ranks ended, ranks anew -> begin -> checkpoint
         -> updates since -> the call once more

Knows no Ray, no weights and no rows: it is given functions that do a call, and does them again.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

from cluster.driver.progress import console
from cluster.metrics.events import Events, NoEvents
from wire.errors import PeersLost, RankDied, RankHung

T = TypeVar("T")
Again = Callable[[], Awaitable[object]]
"""Does a call or an update once more."""

log = logging.getLogger(__name__)

LOST = (RankDied, RankHung, PeersLost)

_INSIDE: ContextVar[bool] = ContextVar("inside an update or a heal", default=False)


@dataclass(slots=True)
class _Standing:
    """What new ranks must do to have the weights of the lost ones."""

    begin: Again | None = None
    checkpoint: str = ""
    """Name of the last whole one; empty: the weights that the training began with."""
    load: Again | None = None
    updates: list[Again] = field(default_factory=list)
    """Since the checkpoint."""


class LearnerHealing:
    """Heals a learner: does the calls of its ranks, and when one is lost makes all ranks anew and
    does the call again."""

    def __init__(
        self,
        renew: Again,
        max_restarts: int,
        events: Events | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``renew``: ends all ranks and starts new ones, which have met; ``max_restarts``: heals in
        all, then the loss of a rank is raised."""
        self._renew, self._max_restarts, self._clock = renew, max_restarts, clock
        self._events = events or NoEvents()
        self._standing = _Standing()
        self._of_each: dict[str, Again] = {}
        self.num_heals = 0
        """Times that all ranks were started anew."""

    async def call(self, do: Callable[[], Awaitable[T]]) -> T:
        """A call that leaves the weights as they are. Raises RankDied, RankHung, PeersLost once the
        restarts are used up."""
        if _INSIDE.get():  # the update or the heal around it is done again as a whole
            return await do()
        while True:
            heals = self.num_heals
            try:
                return await do()
            except LOST as error:
                if heals == self.num_heals:  # else another call has healed meanwhile
                    await self._heal(error)

    async def of_each_rank(self, name: str, do: Callable[[], Awaitable[T]]) -> T:
        """A call whose effect lasts as long as the ranks live: new ones get it too."""
        value = await self.call(do)
        self._of_each[name] = do
        return value

    async def begin(self, do: Callable[[], Awaitable[T]]) -> T:
        """A call that gives the ranks other weights to start from."""
        self._standing = _Standing()
        value = await self.call(do)
        self._standing.begin = do
        return value

    async def load(self, name: str, do: Callable[[], Awaitable[T]]) -> T:
        """A call that loads the checkpoint of this name."""
        self._standing = _Standing(begin=self._standing.begin)
        value = await self.call(do)
        self._standing.checkpoint, self._standing.load = name, do
        return value

    async def save(self, name: str, do: Callable[[], Awaitable[T]], load: Again) -> T:
        """A call that saves the weights as a checkpoint, which ``load`` loads: from here on new
        ranks start from that."""
        value = await self.call(do)
        self._standing.checkpoint, self._standing.load = name, load
        self._standing.updates.clear()
        return value

    async def update(self, do: Callable[[], Awaitable[T]], again: Again | None = None) -> T:
        """Calls that change the weights, together one update, which is done again as a whole.
        ``again``: what a later heal does in its place, e.g. from rows on disk; else ``do``, with
        all that it holds."""
        if _INSIDE.get():
            return await do()

        async def whole() -> T:
            with not_healed():
                return await do()

        value = await self.call(whole)
        self._standing.updates.append(again or do)
        return value

    async def _heal(self, error: RankDied | RankHung | PeersLost) -> None:
        begun = self._clock()
        while True:
            self._count(error)
            try:
                with not_healed():
                    await self._restore()
            except LOST as another:
                error = another
            else:
                break
        self._note(self._clock() - begun)

    async def _restore(self) -> None:
        standing, kept = self._standing, self._of_each
        await self._renew()
        if "tokens" in kept:  # rows of the stage may need them
            await kept["tokens"]()
        for again in (standing.begin, kept.get("engines"), standing.load, *standing.updates):
            if again is not None:
                await again()

    def _count(self, error: RankDied | RankHung | PeersLost) -> None:
        left = self._max_restarts - self.num_heals
        fields = {"rank": error.rank, "cause": error.cause, "text": str(error)}
        self._events.note("learner_died", f"rank-{error.rank}", **fields)
        if left <= 0:
            used = f"learner.max_restarts = {self._max_restarts} are used up"
            raise type(error)(f"{error}; {used}; --resume goes on") from error
        self.num_heals += 1
        text = f"{error}; all ranks start anew ({left - 1} of {self._max_restarts} restarts left)"
        console.print(text, style="yellow", soft_wrap=True)

    def _note(self, seconds: float) -> None:
        standing = self._standing
        count, source = len(standing.updates), standing.checkpoint or "start"
        self._events.note(
            "learner_healed",
            "learner",
            seconds=round(seconds, 3),
            from_checkpoint=source,
            replayed_steps=count,
        )
        where = f"checkpoint {source}" if standing.checkpoint else "the weights that it began with"
        text = f"learner healed in {seconds:.1f} s: from {where}, {count} updates done again"
        console.print(text, style="green", soft_wrap=True)


@contextmanager
def not_healed() -> Iterator[None]:
    """Let the loss of a rank be raised by the calls of a block."""
    token = _INSIDE.set(True)
    try:
        yield
    finally:
        _INSIDE.reset(token)
