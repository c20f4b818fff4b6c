"""Errors of the client: a problem that the service answered with, or no answer at all."""

from collections.abc import Mapping
from typing import Any

from wire.errors import DeepIntuitError

_PREFIX = "urn:deepintuit:problem:"


class ProblemError(DeepIntuitError, RuntimeError):
    """A problem (RFC 9457) that the service answered with.

    Example:
        except ProblemError as error: error.status, error.slug  # 422, "clip-failed"
    """

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status, self.body = status, dict(body)
        super().__init__(f"{self.title} ({status}): {self.detail}" if self.detail else self.title)

    def __reduce__(self) -> tuple[Any, ...]:
        return ProblemError, (self.status, self.body)

    @property
    def slug(self) -> str:
        """Stable name of the problem, for programs."""
        return str(self.body.get("type", "")).removeprefix(_PREFIX)

    @property
    def title(self) -> str:
        """Name of the problem, for people."""
        return str(self.body.get("title") or f"HTTP {self.status}")

    @property
    def detail(self) -> str:
        """What was got, what is expected, what to do."""
        return str(self.body.get("detail") or "")


class NotAnswered(DeepIntuitError, ConnectionError):
    """The service was not reached, or what answered is no calibration service."""
