"""Routes of classification: a clip, as an upload, a path or a URL -> label and decision.

    multipart: video (file), id, window, columns, text, classifier, control
    JSON:      {"video": {"path" | "url"}, the same fields}, or {"inputs": [...]}

A client that hangs up before the answer takes no engine time any longer.
"""

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from calibrate.service.caller import Caller
from calibrate.service.classification import (
    MAX_INPUTS,
    ClassifyRequest,
    ClassifySettings,
)
from calibrate.service.decisions.record import DecisionRecord
from calibrate.service.problems import Problem
from calibrate.service.routes.clip_form import UploadedClip, clip_form
from calibrate.service.routes.context import MayClassify, RequestId, ServiceDep, problems
from calibrate.service.service import Service
from calibrate.service.serving.together import all_of
from wire.config import Config

router = APIRouter(prefix="/v1", tags=["classify"])

T = TypeVar("T")
M = TypeVar("M", bound=Config)
_FIELD_BYTES = 2**20
_JSON_FIELDS = ("window", "columns")
_MAX_SHOWN = 80


class ManyRequests(Config):
    """Several requests in one."""

    inputs: tuple[ClassifyRequest, ...] = Field(min_length=1, max_length=MAX_INPUTS)


class ManyAnswers(Config):
    """Answers to several requests, in their order."""

    results: list[DecisionRecord | dict[str, Any]]
    """The decision, or the problem in its place."""


def _inlined(model: type[Config]) -> dict[str, Any]:
    """Schema of a model without references, which would point outside of an OpenAPI document."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, list):
            return [inline(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return inline(parts[value["$ref"].rpartition("/")[2]])
        return {name: inline(one) for name, one in value.items()}

    inlined: dict[str, Any] = inline(schema)
    return inlined


def _body() -> dict[str, Any]:
    """Description of the request's body."""
    fields = _inlined(ClassifySettings)["properties"]
    file = {"type": "string", "format": "binary", "description": "The clip; or several of them"}
    form = {"type": "object", "required": ["video"], "properties": {"video": file, **fields}}
    json_body = {"anyOf": [_inlined(ClassifyRequest), _inlined(ManyRequests)]}
    return {
        "required": True,
        "content": {
            "application/json": {"schema": json_body},
            "multipart/form-data": {
                "schema": form,
                "encoding": {name: {"contentType": "application/json"} for name in _JSON_FIELDS},
            },
        },
    }


@router.post(
    "/classify",
    response_class=Response,
    responses={
        200: {
            "description": "A decision; for inputs or several files {results}",
            "model": DecisionRecord | ManyAnswers,
        },
        **problems(404, 409, 413, 415, 507),
    },
    openapi_extra={"requestBody": _body()},
)
async def classify(
    request: Request, service: ServiceDep, caller: MayClassify, request_id: RequestId
) -> Response:
    """Label a clip: calibrated probabilities, prediction set, trace, decision."""
    service.serving.refuse_if_full()  # before the body is read
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with clip_form(
            request,
            service.intake,
            max_files=MAX_INPUTS,
            max_fields=32,
            max_field_bytes=_FIELD_BYTES,
        ) as form:
            asked = _of_form(form, service, caller, request_id)
            return _response(await _unless_gone(request, asked))
    if kind == "application/json":
        values = _json(await request.body(), "the body")
        asked = _of_json(values, service, caller, request_id)
        return _response(await _unless_gone(request, asked))
    raise Problem(
        415,
        "unsupported-type",
        f"the body is {kind[:_MAX_SHOWN] or 'of no type'}, expected multipart/form-data with the "
        'file as video, or application/json with {"video": {"path" or "url": ...}}',
    )


async def _of_json(
    values: Any, service: Service, caller: Caller, request_id: str
) -> DecisionRecord | ManyAnswers:
    if not isinstance(values, dict):
        raise Problem(422, "unusable-value", "the body is no JSON object")
    if "inputs" not in values:
        one = _checked(ClassifyRequest, values)
        return await service.classification.of_request(one, caller, request_id)
    many = _checked(ManyRequests, values).inputs
    results = await service.classification.of_requests(many, caller, request_id)
    return _many(results)


async def _of_form(
    form: FormData, service: Service, caller: Caller, request_id: str
) -> DecisionRecord | ManyAnswers:
    files = [one for one in form.getlist("video") if isinstance(one, UploadedClip)]
    fields = [(name, value) for name, value in form.multi_items() if name != "video"]
    if not files or len(files) < len(form.getlist("video")):
        raise Problem(
            422, "unusable-value", "the form needs a file named video, and perhaps more of them"
        )
    settings = _checked(ClassifySettings, _values(fields))
    if len(files) == 1:
        return await _of_file(files[0], settings, service, caller, request_id)
    if settings.id is not None:
        raise Problem(422, "unusable-value", "an id is of one file; send them one by one with ids")

    async def one(number: int, file: UploadedClip) -> DecisionRecord | Problem:
        try:
            return await _of_file(file, settings, service, caller, f"{request_id}.{number}")
        except Problem as problem:
            return problem

    return _many(await all_of([one(*pair) for pair in enumerate(files)]))


async def _of_file(
    file: UploadedClip,
    settings: ClassifySettings,
    service: Service,
    caller: Caller,
    request_id: str,
) -> DecisionRecord:
    clip = await service.intake.admit(file.receiving, file.filename or "")
    return await service.classification.of_clip(clip, settings, caller, request_id)


def _values(fields: list[tuple[str, UploadFile | str]]) -> Mapping[str, Any]:
    """Values of a form's text fields. Raises Problem 422."""
    values: dict[str, Any] = {}
    for name, value in fields:
        if not isinstance(value, str) or name in values:
            shown = name[:_MAX_SHOWN]
            raise Problem(
                422, "unusable-value", f"the field {shown!r} is a file, or is there twice"
            )
        values[name] = _json(value.encode(), name) if name in _JSON_FIELDS else value
    return values


def _json(text: bytes, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "no-json", f"{what} is no JSON: {error}"[:500]) from error


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _checked(model: type[M], values: Mapping[str, Any]) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(faults) from error


def _many(results: Sequence[DecisionRecord | Problem]) -> ManyAnswers:
    return ManyAnswers(
        results=[one.as_json() if isinstance(one, Problem) else one for one in results]
    )


def _response(answer: DecisionRecord | ManyAnswers) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Result of the work, which is ended if the client hangs up."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Problem(499, "client-gone", "the client hung up")
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
