"""Exchange of one call: tries, each with what httpx sends, and what follows from the answer.

    Exchange(call) -> arguments -> httpx -> result | a wait, then the next try | an error

The same for both clients; they differ in how they send and wait.
"""

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import httpx

from calibrate.client.calls import Call
from calibrate.client.errors import NotAnswered, ProblemError
from calibrate.client.retries import Retries
from wire.errors import ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")
_SHOWN = 200
_JITTER = 0.25
_TOLD_AFTER = 2  # tries in silence
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Exchange(Generic[T]):
    """Exchange of one call with the service."""

    def __init__(self, call: Call[T], retries: Retries, url: str) -> None:
        self._call, self._retries, self._url = call, retries, url
        self._tries, self._waited_s = 0, 0.0

    @contextmanager
    def arguments(self) -> Iterator[dict[str, Any]]:
        """Arguments of httpx's request for one try; the file to send is open in the block. Raises
        OSError if it cannot be opened."""
        call = self._call
        values: dict[str, Any] = {
            "method": call.method,
            "url": call.path,
            "params": dict(call.params) or None,
            "headers": call.headers,
        }
        if call.upload is None:
            yield values | {"json": call.json}
            return
        part, name, content = call.upload.part, call.upload.name, call.upload.content
        values["data"] = dict(call.form)
        if isinstance(content, bytes):
            yield values | {"files": {part: (name, content, "application/octet-stream")}}
            return
        with content.open("rb") as file:
            yield values | {"files": {part: (name, file, "application/octet-stream")}}

    def result(self, response: httpx.Response) -> T:
        """The result of an answer. Raises NotAnswered if it is none of a calibration service."""
        try:
            return self._call.parse(response.text if self._call.as_text else response.json())
        except (ValueError, KeyError, TypeError) as error:
            raise NotAnswered(
                f"{self._url} answered {self._call.method} {self._call.path} with something else "
                f"than a calibration service of this version does: {_shown(response)}"
            ) from error

    def wait_after(self, response: httpx.Response) -> float:
        """Seconds until the next try after a refusal. Raises ProblemError if it is the last."""
        problem = ProblemError(response.status_code, _problem_body(response))
        wait = self._retries.wait_s(
            self._tries, self._waited_s, problem.status, problem.slug, response.headers
        )
        if wait is None:
            raise problem
        return self._noted(wait)

    def wait_after_break(self, error: httpx.TransportError) -> float:
        """Seconds until the next try after a connection that failed. Raises NotAnswered if it was
        the last."""
        wait = self._retries.wait_after_break_s(
            self._tries, self._waited_s, error, repeatable=self._call.is_repeatable
        )
        reason = str(error) or type(error).__name__
        if wait is None:
            raise NotAnswered(
                f"the service at {self._url} did not answer {self._call.method} "
                f"{self._call.path}: {reason}; is it running there (deepintuit serve)?"
            ) from error
        if self._tries == _TOLD_AFTER:
            seconds = self._retries.seconds
            log.warning("%s: no answer (%s); trying for %g s", self._url, reason, seconds)
        return self._noted(wait)

    def _noted(self, wait: float) -> float:
        self._tries += 1
        self._waited_s += wait
        return wait * random.uniform(1, 1 + _JITTER)  # many that were refused come one by one


def settings_of(url: str, token: str | None, connections: int) -> dict[str, Any]:
    """Settings of an httpx client. Raises ConfigError for an address that is none."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        known = False
    if not known or parts.username or parts.query or parts.fragment:
        raise ConfigError(
            f"{url!r} is no address of a service; expected http://HOST:PORT, without a user or a "
            "query"
        )
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise ConfigError("the token has characters that no token has; give it as it was printed")
    return {
        "base_url": url,
        "headers": {} if token is None else {"Authorization": f"Bearer {token.strip()}"},
        "timeout": httpx.Timeout(30.0, read=300.0, pool=None),
        "limits": httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        "trust_env": parts.hostname not in _LOOPBACK,  # a proxy does not reach this machine
    }


def _problem_body(response: httpx.Response) -> Mapping[str, Any]:
    try:
        values = response.json()
    except ValueError:
        values = None
    if isinstance(values, dict) and "title" in values:
        return values
    return {"title": f"HTTP {response.status_code}", "detail": _shown(response)}


def _shown(response: httpx.Response) -> str:
    text = " ".join(response.text.split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
