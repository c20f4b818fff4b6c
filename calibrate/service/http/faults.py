"""Faults as RFC 9457 problems: any error of a request becomes application/problem+json."""

import errno
import json
import logging
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route

from calibrate.service.problems import Problem
from wire.errors import DeadlineExceeded, DiskFull, GenerationError, UserError, WorkerDied

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_SHAPED_AS_OPENAI = ("/v1/files", "/v1/batches")
_MAX_FAULTS = 50
_WORDS = {
    "Not Found": "there is nothing at this address; /openapi.json describes what there is",
    "Method Not Allowed": "this address does not answer to this method; Allow has those it does",
    "There was an error parsing the body": "the body cannot be read as its Content-Type says",
}
"""What Starlette and FastAPI say, in words that help."""
_SLUGS = {404: "not-found", 405: "method-not-allowed", 413: "too-large", 415: "unsupported-type"}


def respond(problem: Problem, instance: str | None) -> Response:
    """Response of a problem; ``instance``: the path that was asked for."""
    values = problem.as_json(instance)
    if instance is not None and instance.startswith(_SHAPED_AS_OPENAI):
        values["message"] = problem.detail  # the one member that OpenAI's client shows
    body = json.dumps(values, allow_nan=False).encode()
    return Response(body, problem.status, problem.headers, media_type=MEDIA_TYPE)


def problem_of(error: Exception) -> Problem:
    """The problem that an error is; one that nobody foresaw has an id, which the log has too, and
    tells nothing else."""
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return _invalid(error.errors())
        case HTTPException():
            return _refused(error)
        case ClientDisconnect():
            return Problem(400, "cut-off", "the client went away before its request was whole")
        case DiskFull() | OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return Problem(507, "disk-full", "a disk of the service is full; nothing was kept")
        case UserError():
            return Problem(422, "unusable-value", str(error))
        case GenerationError() | WorkerDied() | DeadlineExceeded():
            return Problem(503, "engine-unavailable", str(error), headers={"Retry-After": "5"})
        case _:
            error_id = f"err_{secrets.token_hex(8)}"
            log.error("%s: a request failed", error_id, exc_info=error)
            return Problem(
                500,
                "internal-error",
                f"the service failed; its log has the cause under {error_id}",
                extra={"error_id": error_id},
            )


def add_handlers(app: FastAPI) -> None:
    """Answer what FastAPI has handlers for with its problem; the gate does the rest."""

    async def handle(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        if problem.status == 405:  # Starlette names those of the first route with this path
            problem.headers["Allow"] = ", ".join(_methods(request))
        return respond(problem, request.url.path)

    for kind in (Problem, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle)


def _methods(request: Request) -> list[str]:
    """Methods of all routes that have the request's path: as it is, or else with parameters."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    exact = [route for route in matching if route.path == request.url.path]
    return sorted({method for route in exact or matching for method in route.methods or ()})


def _refused(error: HTTPException) -> Problem:
    """What Starlette refuses by itself: unknown path, wrong method, a body that is no form."""
    slug = _SLUGS.get(error.status_code)
    if slug is None:
        slug = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    detail = _WORDS.get(str(error.detail), str(error.detail))
    return Problem(error.status_code, slug, detail, headers=error.headers)


def _invalid(errors: Sequence[Any]) -> Problem:
    """Values of a request that do not fit: where each stands, and what is wrong with it. What was
    got is not repeated: it may be large, or no text."""
    faults = [
        {"where": [_text(part) for part in error["loc"]], "what": _text(error["msg"])}
        for error in errors[:_MAX_FAULTS]
    ]
    where = ".".join(str(_text(part)) for part in errors[0]["loc"])
    more = f"; {len(errors) - 1} more, see faults" if len(errors) > 1 else ""
    detail = f"{where}: {_text(errors[0]['msg'])}{more}"
    return Problem(422, "invalid-request", detail, extra={"faults": faults})


def _text(value: object) -> str | int:
    """A number, or text that is valid UTF-8 and short."""
    if isinstance(value, int):
        return value
    return str(value)[:500].encode(errors="replace").decode()
