"""Problems: errors of the service as clients read them (RFC 9457, application/problem+json).

    raise Problem(404, "no-such-decision", "there is no decision dec_9; list them")
    -> {"type": "urn:deepintuit:problem:no-such-decision", "title": "No such decision",
        "status": 404, "detail": "...", "instance": "/v1/decisions/dec_9"}

Every part raises it, also those that know no HTTP; ``calibrate/service/http/`` writes it.
"""

from collections.abc import Mapping
from typing import Any

from wire.errors import DeepIntuitError


class Problem(DeepIntuitError):
    """A refusal or failure with its HTTP status. ``slug``: stable name for programs; ``detail``:
    what was got, what is expected, what to do; ``extra``: further members of the JSON object."""

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.slug, self.detail = status, slug, detail
        self.headers, self.extra = dict(headers or {}), dict(extra or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.status, self.slug, self.detail, self.headers, self.extra)

    @property
    def title(self) -> str:
        """The slug in words."""
        return self.slug.replace("-", " ").capitalize()

    def as_json(self, instance: str | None = None) -> dict[str, Any]:
        """Members of RFC 9457, section 3.1, and the extra ones."""
        values: dict[str, Any] = {
            "type": f"urn:deepintuit:problem:{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if instance is not None:
            values["instance"] = instance
        return values | self.extra


def _again(
    status: int, slug: str, detail: str, headers: dict[str, str], extra: dict[str, Any]
) -> Problem:
    return Problem(status, slug, detail, headers=headers, extra=extra)
