"""Context of a route: the service, who calls, and the problems that it answers with.

    router = APIRouter(prefix="/v1/decisions", tags=["decisions"])

    @router.get("/{decision_id}", responses=problems(404))
    async def one(decision_id: str, service: ServiceDep, caller: MayRead) -> dict[str, Any]: ...

Dependencies are coroutines: FastAPI runs others in threads, three hops a request. The gate
(``http/gate.py``) has checked the token before a byte of the body is read; here it is asked what
the token may do. Problems that any route may answer with (400, 401, 403, 413, 422, 429, 500, 503)
need no line.
"""

from typing import Annotated, Any

from fastapi import Depends, Request

from calibrate.service.caller import Caller, Scope
from calibrate.service.problems import Problem
from calibrate.service.service import Service

PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}


async def service_of(request: Request) -> Service:
    """The service that the application serves."""
    service: Service = request.app.state.service
    return service


async def request_id_of(request: Request) -> str:
    """Id of the request, as its answer's X-Request-ID has it."""
    request_id: str = request.state.request_id
    return request_id


class Needs:
    """Dependency of a route: the caller, whose token must have a scope. Raises Problem 401, 403."""

    def __init__(self, scope: Scope) -> None:
        self.scope: Scope = scope

    async def __call__(self, request: Request) -> Caller:
        caller: Caller | None = getattr(request.state, "caller", None)
        if caller is None:
            raise Problem(401, "token-needed", "this needs a token: Authorization: Bearer TOKEN")
        if not caller.may(self.scope):
            raise Problem(
                403,
                "scope-needed",
                f"this needs a token with the scope {self.scope}; this one has "
                f"{', '.join(sorted(caller.scopes)) or 'none'}",
            )
        return caller


ServiceDep = Annotated[Service, Depends(service_of)]
RequestId = Annotated[str, Depends(request_id_of)]
MayClassify = Annotated[Caller, Depends(Needs("classify"))]
MayRead = Annotated[Caller, Depends(Needs("read"))]
MayReview = Annotated[Caller, Depends(Needs("review"))]
MayFit = Annotated[Caller, Depends(Needs("fit"))]
MayAdmin = Annotated[Caller, Depends(Needs("admin"))]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses of a route for OpenAPI: problems with these statuses."""
    return {status: problem_response(status) for status in statuses}


def problem_response(status: int) -> dict[str, Any]:
    """A response of OpenAPI that is a problem."""
    return {
        "description": _DESCRIPTIONS.get(status, "A problem"),
        "content": {"application/problem+json": {"schema": PROBLEM_SCHEMA}},
    }


_DESCRIPTIONS = {
    400: "The request cannot be read",
    401: "No token, or an unknown one",
    403: "The token may not do this, or the place is not allowed",
    404: "There is none",
    409: "It is not in a state for this",
    413: "Too large",
    415: "Not a type that is read here",
    422: "A value that cannot be used",
    429: "Too many; Retry-After says when",
    500: "A fault of the service, with an error id that its log has",
    503: "Not now; Retry-After says when",
    507: "A disk of the service is full; nothing was kept",
}
