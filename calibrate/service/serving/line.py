"""Line before a classifier: few clips are answered at a time, the others wait, callers in turn.

    async with admission.waiting() -> await line.enter(caller) -> answer -> line.leave()

The length of all lines together is bounded: one more is refused with how long to wait (429).
"""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from calibrate.service.problems import Problem

_LONGEST_S = 60
_RECENT_S = 60.0


class Retired(Exception):
    """A line whose classifier is being closed: ask again, and wait in the line of the next one."""


class Rate:
    """Rate of answers, measured over the last ones."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=64)

    def note(self) -> None:
        """Note an answer."""
        self._times.append(time.monotonic())

    @property
    def per_second(self) -> float:
        """Answers per second in the last minute; 0: not known."""
        now = time.monotonic()
        while self._times and now - self._times[0] > _RECENT_S:
            self._times.popleft()
        if len(self._times) < 2:
            return 0.0
        return len(self._times) / max(1e-3, now - self._times[0])

    def seconds_for(self, num: int) -> int:
        """Whole seconds until so many are answered, about."""
        if not (rate := self.per_second):
            return 5
        return min(_LONGEST_S, max(1, math.ceil(num / rate)))


class Waiting:
    """One request that waits; ``over`` when its turn has come."""

    def __init__(self, admission: "Admission") -> None:
        self._admission, self._waits = admission, True

    def over(self) -> None:
        """It waits no longer."""
        if self._waits:
            self._waits = False
            self._admission.num_waiting -= 1


class Admission:
    """Admission of requests: at most ``limit`` wait, all lines together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.num_waiting = limit, 0
        self.num_refused = 0
        self.rate = Rate()

    def refuse_if_full(self, *, background: bool = False) -> None:
        """Raise Problem 429 if no more may wait."""
        limit = max(1, self.limit // 2) if background else self.limit
        if self.num_waiting >= limit:
            self.num_refused += 1
            seconds = self.rate.seconds_for(self.num_waiting)
            raise Problem(
                429,
                "queue-full",
                f"{self.num_waiting} clips wait already, at most {limit} may; ask again in "
                f"{seconds} s",
                headers={"Retry-After": str(seconds)},
            )

    @contextmanager
    def waiting(self, *, background: bool = False) -> Iterator[Waiting]:
        """A place among those that wait, given back with the block. ``background``: work that may
        fill half of the places. Raises Problem 429."""
        self.refuse_if_full(background=background)
        self.num_waiting += 1
        one = Waiting(self)
        try:
            yield one
        finally:
            one.over()


class Line:
    """Line of one classifier: ``places`` clips are answered at a time. Callers take turns, so that
    one with a thousand clips delays another's single one by one; background work comes last."""

    def __init__(self, places: int) -> None:
        self.places, self.num_inside = places, 0
        self._waiting: tuple[_Turns, _Turns] = (OrderedDict(), OrderedDict())
        self._retired = False
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def num_waiting(self) -> int:
        """Clips that wait for a place."""
        return sum(len(own) for turns in self._waiting for own in turns.values())

    async def enter(self, caller: str = "", *, background: bool = False) -> None:
        """Wait for a place, which :meth:`leave` gives back. Raises Retired."""
        if self._retired:
            raise Retired
        if self.num_inside < self.places and not self.num_waiting:
            self._take()
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turns = self._waiting[background]
        turns.setdefault(caller, deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.leave()  # the place came as the caller went
            raise
        finally:
            self._forget(turns, caller, future)

    def leave(self) -> None:
        """Give a place back."""
        self.num_inside -= 1
        if not self.num_inside:
            self._empty.set()
        self._let_in()

    async def retire(self) -> None:
        """Send those that wait to another line, and wait until nobody is inside."""
        self._retired = True
        for turns in self._waiting:
            for own in turns.values():
                for future in own:
                    if not future.done():
                        future.set_exception(Retired())
        await self._empty.wait()

    def _take(self) -> None:
        self.num_inside += 1
        self._empty.clear()

    def _let_in(self) -> None:
        for turns in self._waiting:
            while turns and self.num_inside < self.places:
                caller, own = next(iter(turns.items()))
                future = own.popleft()
                turns.move_to_end(caller)
                if not own:
                    del turns[caller]
                if not future.done():
                    self._take()
                    future.set_result(None)

    @staticmethod
    def _forget(turns: "_Turns", caller: str, future: "asyncio.Future[None]") -> None:
        """Take one that no longer waits out of the line."""
        if (own := turns.get(caller)) and future in own:
            own.remove(future)
            if not own:
                del turns[caller]


_Turns = OrderedDict[str, deque["asyncio.Future[None]"]]
