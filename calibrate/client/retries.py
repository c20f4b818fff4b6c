"""Retries: which answers are worth another try, and when.

429, 503                    after Retry-After
409 of the same try's key   it is still being answered
no connection, or it broke  for what may be sent twice: GET, and whatever has an Idempotency-Key
"""

from collections.abc import Mapping
from dataclasses import dataclass

import httpx

_FIRST_S = 0.5
_LONGEST_S = 60.0
_IN_USE = "idempotency-key-in-use"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Retries of one call: as long as ``seconds``, all waits together. 0: none."""

    seconds: float = 120.0

    def wait_s(
        self, attempt: int, waited_s: float, status: int, slug: str, headers: Mapping[str, str]
    ) -> float | None:
        """Seconds until the next try after an answer; None: it is the last."""
        if status not in (429, 503) and not (status == 409 and slug == _IN_USE):
            return None
        return self._within(_stated_s(headers), attempt, waited_s)

    def wait_after_break_s(
        self, attempt: int, waited_s: float, error: httpx.TransportError, *, repeatable: bool
    ) -> float | None:
        """Seconds until the next try after a connection that failed; None: it was the last."""
        never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        return self._within(None, attempt, waited_s) if repeatable or never_sent else None

    def _within(self, stated_s: float | None, attempt: int, waited_s: float) -> float | None:
        wait = _FIRST_S * 2 ** min(attempt, 10) if stated_s is None else stated_s
        wait = min(wait, _LONGEST_S)
        return wait if waited_s + wait <= self.seconds else None


def _stated_s(headers: Mapping[str, str]) -> float | None:
    text = headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdigit() else None  # no dates: we send seconds
