"""Runs calls in one background thread, in order, while the owner continues; each has a deadline.

    owner:   gather 0 | gather 1 | (wait for 0) gather 2 | (wait for 1) ...
    thread:           | send 0   | send 1                | send 2

The owner's part is a collective of all ranks: it stays in the owner, in one order, however fast or
well the calls go.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Any

from wire.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was handed to the thread."""

    what: str
    """Ends the sentence "waited for ..."."""
    future: "Future[None]"


class OverlappedCalls:
    """One round of calls on an executor of one thread; after a failed call no further one is
    made."""

    def __init__(self, thread: Executor, timeout_s: float) -> None:
        self._thread, self._timeout_s = thread, timeout_s
        self._given_up = threading.Event()
        self._error: BaseException | None = None
        self._last: Call | None = None

    def add(self, what: str, call: Callable[..., None], *values: Any) -> Call:
        """Queue a call behind those added before."""
        self._last = Call(what, self._thread.submit(self._run, call, values))
        return self._last

    def wait_for(self, call: Call | None) -> bool:
        """Wait for a call, if one is given. False: some call failed or overran the deadline, so no
        more will be made."""
        if call is not None:
            try:
                call.future.result(self._timeout_s)
            except NotYet:
                self._fail(DeadlineExceeded(f"waited {self._timeout_s:.0f} s for {call.what}"))
        return not self._given_up.is_set()

    def end(self) -> None:
        """Wait for all calls. Raises the first error."""
        self.wait_for(self._last)
        if self._error is not None:
            raise self._error

    def cancel_pending(self) -> None:
        """Cancel the calls that still wait; the one under way ends by itself."""
        self._given_up.set()

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._given_up.set()

    def _run(self, call: Callable[..., None], values: tuple[Any, ...]) -> None:
        if self._given_up.is_set():
            return
        try:
            call(*values)
        except BaseException as error:  # noqa: BLE001  raised in the owner, by end()
            self._fail(error)


class Abandonable:
    """A call in a thread of its own, which nobody has to wait for, not even at exit."""

    def __init__(self, call: Callable[..., Any], *values: Any) -> None:
        self._ended = threading.Event()
        self._value: Any = None
        self.error: BaseException | None = None
        threading.Thread(target=self._run, args=(call, values), daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Wait that long at most. Returns whether the call has ended."""
        return self._ended.wait(timeout_s)

    @property
    def has_failed(self) -> bool:
        """Whether the call has ended with an error."""
        return self._ended.is_set() and self.error is not None

    @property
    def succeeded(self) -> bool:
        """Whether the call has ended without an error."""
        return self._ended.is_set() and self.error is None

    def result(self) -> Any:
        """Value of a call that has ended. Raises its error."""
        if self.error is not None:
            raise self.error
        return self._value

    def _run(self, call: Callable[..., Any], values: tuple[Any, ...]) -> None:
        try:
            self._value = call(*values)
        except BaseException as error:  # noqa: BLE001  raised in the owner, by result()
            self.error = error
        self._ended.set()
