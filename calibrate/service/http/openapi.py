"""OpenAPI description: what FastAPI makes, with problems, tokens and scopes on every operation."""

from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from calibrate.service.caller import Scope
from calibrate.service.routes.context import Needs, problem_response

_ALWAYS = (400, 401, 403, 422, 429, 500, 503)
_WITH_BODY = (408, 413)
_FASTAPIS_OWN = 422
"""Described by FastAPI in a form of its own."""
_PROBLEM = {
    "title": "Problem",
    "description": "RFC 9457. Members beside these depend on the type.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "urn:deepintuit:problem:SLUG"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "faults": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "where": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "what": {"type": "string"},
                },
            },
        },
    },
    "additionalProperties": True,
}


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A retry with the same key and body gets the first answer, for a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


def describe(app: FastAPI) -> None:
    """Let ``app.openapi`` give the whole description."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            app.openapi_schema = schema
            components = schema.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            schemas["Problem"] = _PROBLEM
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for route in app.routes:
                if isinstance(route, APIRoute) and route.include_in_schema:
                    for method in route.methods:
                        operation = schema["paths"][route.path_format][method.lower()]
                        _complete(operation, route, method)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def scope_of(route: APIRoute) -> Scope | None:
    """The scope that a token needs for a route; None: no token is needed."""
    return _needed(route.dependant)


def _complete(operation: dict[str, Any], route: APIRoute, method: str) -> None:
    responses = operation["responses"]
    statuses = {*_ALWAYS, *(_WITH_BODY if "requestBody" in operation else ())}
    scope = scope_of(route)
    if scope is None:
        statuses -= {401, 403, 429}
    else:
        operation["security"] = [{"token": [scope]}]
        text = f"Needs a token with the scope `{scope}`."
        operation["description"] = f"{operation.get('description', '')}\n\n{text}".strip()
    if method != "GET":
        statuses.add(507)
    if method == "POST" and scope is not None:
        statuses.add(409)
        operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
    for status in sorted(statuses):
        if str(status) not in responses or status == _FASTAPIS_OWN:
            responses[str(status)] = problem_response(status)


def _needed(dependant: Dependant) -> Scope | None:
    if isinstance(dependant.call, Needs):
        return dependant.call.scope
    for inner in dependant.dependencies:
        if (scope := _needed(inner)) is not None:
            return scope
    return None
