"""Scripted engine: continuous batching as arithmetic: no model, only how long answers take.

All sequences of an engine gain a token at each decoding step; a step takes ``step_s`` and
``per_sequence_s`` more for each further sequence in it. Prompts are computed between steps. It
waits on the running event loop's timers, so it runs in virtual time (cluster/simulation) and,
unchanged, in an actor in real time (tests/benchmarks/simulation.py).
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpeed:
    """Speed of an engine."""

    step_s: float
    """Seconds of a decoding step of one sequence."""
    per_sequence_s: float
    """Seconds that each further sequence adds to the step."""
    prompt_s: float
    """Seconds in which a group's prompt is computed; nothing is decoded meanwhile."""
    max_num_seqs: int
    """Sequences decoded together at most; more wait."""


class EngineDied(Exception):
    """The engine ended while it wrote."""


@dataclass(eq=False, slots=True)
class _Request:
    """A request of several sequences, written once all of them are."""

    written: asyncio.Future[list[int]]
    versions: list[int]
    """Weights that began each sequence."""
    left: int
    done_tokens: int = 0


@dataclass(eq=False, slots=True)
class _Sequence:
    """A sequence; from ``start`` to ``start + length`` in the engine's position."""

    request: _Request
    index: int
    length: int
    start: float = field(default=0.0)


class ScriptedEngine:
    """Engine that takes as long as one of that speed would, and writes nothing."""

    def __init__(self, speed: EngineSpeed, version: int = 0) -> None:
        self._speed = speed
        self.version = version
        """Step of the weights that sequences begin with."""
        self._numbers = itertools.count()
        self._decoding: list[tuple[float, int, _Sequence]] = []
        """Heap: the position at which each sequence ends, and the sequence."""
        self._waiting: deque[_Sequence] = deque()
        self._position = 0.0
        """Tokens that a sequence which was there from the beginning would have."""
        self._since = asyncio.get_running_loop().time()
        self._timer: asyncio.TimerHandle | None = None
        self._halted = False
        self.busy_s = self.halted_s = 0.0
        """Seconds with a sequence in work, and those of them in which the engine was halted."""
        self.num_tokens = self.lost_tokens = 0.0
        """Tokens decoded, and those of them that no answer got."""

    @property
    def is_busy(self) -> bool:
        """Whether a sequence is in work."""
        return bool(self._decoding or self._waiting)

    async def write(self, lengths: Sequence[int]) -> Sequence[int]:
        """Write a group's sequences. Returns the version of the weights that began each. Raises
        EngineDied if the engine ends meanwhile."""
        self._advance()
        self._since += self._speed.prompt_s  # a debt: decoding goes on once the clock is there
        self.busy_s += self._speed.prompt_s
        written: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        request = _Request(written, [0] * len(lengths), len(lengths))
        self._waiting.extend(_Sequence(request, i, length) for i, length in enumerate(lengths))
        self._admit()
        self._set_timer()
        try:
            return await written
        except asyncio.CancelledError:
            self._forget(request)
            raise

    def halt(self) -> None:
        """Stop decoding, as for new weights or when it hangs; requests stay."""
        self._advance()
        self._halted = True
        self._set_timer()

    def go_on(self, in_flight: Literal["wait", "keep", "restart"] = "keep") -> None:
        """Decode again. ``restart``: sequences that are not written yet begin anew."""
        self._advance()
        self._halted = False
        if in_flight == "restart":
            begun = [sequence for _, _, sequence in self._decoding]
            self.lost_tokens += sum(self._position - sequence.start for sequence in begun)
            self._decoding = []
            self._waiting.extendleft(reversed(begun))
            self._admit()
        self._set_timer()

    def end(self) -> None:
        """End: all requests fail."""
        self._advance()
        sequences = [*(one for _, _, one in self._decoding), *self._waiting]
        for request in {sequence.request: None for sequence in sequences}:
            self._drop(request)
            if not request.written.done():
                request.written.set_exception(EngineDied("the engine ended"))
        self._set_timer()

    def _advance(self) -> None:
        """Bring position and figures to the present."""
        now = asyncio.get_running_loop().time()
        passed = now - self._since
        if passed <= 0:  # a prompt is being computed
            return
        self._since = now
        if not self.is_busy:
            return
        self.busy_s += passed
        if self._halted:
            self.halted_s += passed
        elif self._decoding:
            tokens = passed / self._step_s
            self._position += tokens
            self.num_tokens += tokens * len(self._decoding)

    @property
    def _step_s(self) -> float:
        return self._speed.step_s + self._speed.per_sequence_s * (len(self._decoding) - 1)

    def _admit(self) -> None:
        while self._waiting and len(self._decoding) < self._speed.max_num_seqs:
            sequence = self._waiting.popleft()
            sequence.start = self._position
            sequence.request.versions[sequence.index] = self.version
            end = self._position + sequence.length
            heapq.heappush(self._decoding, (end, next(self._numbers), sequence))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._decoding and not self._halted:
            left = max(0.0, self._decoding[0][0] - self._position)
            at = self._since + left * self._step_s
            self._timer = asyncio.get_running_loop().call_at(at, self._finish)

    def _finish(self) -> None:
        """End the sequences that are written, and let others in."""
        self._timer = None
        self._advance()
        while self._decoding and self._decoding[0][0] <= self._position + 1e-6:
            _, _, sequence = heapq.heappop(self._decoding)
            request = sequence.request
            request.left -= 1
            request.done_tokens += sequence.length
            if not request.left and not request.written.done():
                request.written.set_result(request.versions)
        self._admit()
        self._set_timer()

    def _forget(self, request: _Request) -> None:
        """Leave a request that nobody waits for any more."""
        self._advance()
        self._drop(request)
        self._admit()
        self._set_timer()

    def _drop(self, request: _Request) -> None:
        of_request = [one for _, _, one in self._decoding if one.request is request]
        self.lost_tokens += request.done_tokens + sum(
            min(one.length, self._position - one.start) for one in of_request
        )
        self._decoding = _without(self._decoding, request)
        self._waiting = deque(one for one in self._waiting if one.request is not request)


def _without(
    decoding: Iterable[tuple[float, int, _Sequence]], request: _Request
) -> list[tuple[float, int, _Sequence]]:
    left = [entry for entry in decoding if entry[2].request is not request]
    heapq.heapify(left)
    return left
