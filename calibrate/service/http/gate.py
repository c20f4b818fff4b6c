"""Gate of the service: what every request passes before a route sees it, and its body is read.

    id -> is the service stopping, or too busy? (503) -> whose token? (401) -> rate of it (429)
       -> body within its limits (413, 408) -> application -> security headers

Nothing but ``OPEN_PATHS`` is answered without a token, whether or not a route asks for one.
"""

import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calibrate.service.caller import Caller
from calibrate.service.http.body import LimitedBody
from calibrate.service.http.faults import problem_of, respond
from calibrate.service.http.rates import Rates
from calibrate.service.problems import Problem
from calibrate.service.service import Service

HEALTH_PATHS = ("/v1/health/live", "/v1/health/ready")
OPEN_PATHS = ("/", *HEALTH_PATHS)
OPEN_FOLDER = "/static/"
"""The page's own script and style; they have no data."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; font-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Gate:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._rates = Rates(service.config.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send, self._service)
        self._service.in_progress += 1
        try:
            self._admit(scope)
            body = LimitedBody(scope, receive, self._service.config)
            await self._app(scope, body, answer)
        except Exception as error:
            problem = problem_of(error)
            if answer.begun:  # too late for a status: the client sees a body that is cut off
                raise
            await respond(problem, scope["path"])(scope, receive, answer)
        finally:
            self._service.in_progress -= 1
            answer.count()

    def _admit(self, scope: Scope) -> None:
        """Let a request in, with its caller in its state. Raises Problem."""
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = (
            given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        )
        path: str = scope["path"]
        if path in HEALTH_PATHS:
            return
        if self._service.draining:
            raise Problem(
                503,
                "stopping",
                "the service is stopping; send it again when it is back",
                headers={"Retry-After": "5", "Connection": "close"},
            )
        if self._service.in_progress > self._service.config.max_requests:
            raise Problem(
                503,
                "too-many-requests-in-progress",
                f"{self._service.config.max_requests} requests are in progress; wait",
                headers={"Retry-After": "1"},
            )
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return
        state["caller"] = caller = self._caller(headers)
        self._rates.take(caller.token_id)

    def _caller(self, headers: Headers) -> Caller:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not bearer.strip():
            raise Problem(
                401,
                "token-needed",
                "this needs a token: Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return self._service.tokens.caller_of(bearer.strip())


class _Answer:
    """Answer on its way out: adds headers, keeps the status and the time."""

    def __init__(self, scope: Scope, send: Send, service: Service) -> None:
        self._scope, self._send, self._service = scope, send, service
        self._began = time.perf_counter()
        self._status: int | None = None

    @property
    def begun(self) -> bool:
        """Whether its status has been sent."""
        return self._status is not None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _SECURITY.items():
                headers.setdefault(name, value)
            headers["X-Request-ID"] = self._scope["state"]["request_id"]
            if "caller" in self._scope["state"]:
                headers.setdefault("Cache-Control", "no-store")
        await self._send(message)

    def count(self) -> None:
        """Add the request to the metrics, under its route's template."""
        route = getattr(self._scope.get("route"), "path", "none")
        method = self._scope["method"] if route != "none" else "any"
        metrics = self._service.metrics
        metrics.requests.labels(method, route, str(self._status or "cut")).inc()
        metrics.seconds.labels(method, route).observe(time.perf_counter() - self._began)
