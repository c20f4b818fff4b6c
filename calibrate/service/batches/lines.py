"""Lines of a batch file, in the shape of OpenAI's Batch API: read and checked one by one.

    {"custom_id": "clip-1", "method": "POST", "url": "/v1/classify",
     "body": {"video": {"path": "clips/1.mp4"}}}

The body is that of ``POST /v1/classify`` with a path or an address; bytes of a clip do not fit.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibrate.service.problems import Problem

ENDPOINT = "/v1/classify"
MAX_LINES = 50_000
MAX_LINE_BYTES = 1_000_000
_MAX_ID = 512
_MAX_FAULTS = 100
_EXAMPLE = (
    '{"custom_id": "1", "method": "POST", "url": "/v1/classify", "body": {"video": {"path"...'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One request of a batch."""

    number: int
    """Line of the file, from 1."""
    custom_id: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFault:
    """Fault of one line, as OpenAI's batch errors state it."""

    line: int
    code: str
    message: str
    param: str | None = None


class BadLine(ValueError):
    """A line that is no request; ``fault`` says why."""

    def __init__(self, fault: LineFault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def check_lines(path: Path) -> int:
    """Number of requests in a batch file. Raises Problem 422 with the faults of its lines, the
    first hundred, or if it has no request, or too many."""
    faults: list[LineFault] = []
    seen: dict[str, int] = {}
    total = 0
    for number, raw in numbered_lines(path):
        total += 1
        if total > MAX_LINES:
            raise Problem(
                422, "bad-batch-file", f"the file has more than {MAX_LINES} requests; divide it"
            )
        try:
            line = parse_line(number, raw)
            if (first := seen.setdefault(line.custom_id, number)) != number:
                message = f"custom_id {line.custom_id!r} is that of line {first} too"
                raise BadLine(_fault(number, "duplicate_custom_id", message, "custom_id"))
        except BadLine as error:
            faults.append(error.fault)
            if len(faults) == _MAX_FAULTS:
                break
    if faults:
        raise Problem(
            422,
            "bad-batch-file",
            f"{_count(faults)} of the file cannot be asked; the first is line {faults[0].line}: "
            f"{faults[0].message}",
            extra={"errors": [asdict(fault) for fault in faults]},
        )
    if not total:
        raise Problem(422, "bad-batch-file", f"the file has no request; give lines like {_EXAMPLE}")
    return total


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not empty, with their numbers; of one that is too long its beginning."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            rest = raw
            while not rest.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES + 1)):
                pass  # the end of a line that is too long
            if raw.strip():
                yield number, raw


def parse_line(number: int, raw: bytes) -> BatchLine:
    """The request of a line. Raises BadLine."""
    if len(raw.rstrip(b"\r\n")) > MAX_LINE_BYTES:
        raise BadLine(_fault(number, "line_too_long", f"over {MAX_LINE_BYTES} bytes"))
    try:
        text = raw.decode("utf-8-sig")
        values = json.loads(text, parse_constant=_no_constant)
        if "\\u" in text:
            json.dumps(values, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise BadLine(_fault(number, "invalid_json_line", f"no JSON: {error}")) from error
    if not isinstance(values, dict):
        raise BadLine(_fault(number, "invalid_json_line", "no JSON object"))
    custom_id = values.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MAX_ID:
        message = f"custom_id is {_shown(custom_id)}, expected a text of 1 to {_MAX_ID} characters"
        raise BadLine(_fault(number, "invalid_custom_id", message, "custom_id"))
    for name, expected in (("method", "POST"), ("url", ENDPOINT)):
        if values.get(name) != expected:
            message = f"{name} is {_shown(values.get(name))}, expected {expected!r}"
            raise BadLine(_fault(number, f"invalid_{name}", message, name))
    return BatchLine(number=number, custom_id=custom_id, body=_body(number, values.get("body")))


def _body(number: int, body: Any) -> Mapping[str, Any]:
    video = body.get("video") if isinstance(body, dict) else None
    given = [
        n for n in ("path", "url") if isinstance(video, dict) and isinstance(video.get(n), str)
    ]
    if len(given) != 1:
        message = (
            'body must be {"video": {"path": ...}} or {"video": {"url": ...}}, with one of both'
        )
        raise BadLine(_fault(number, "invalid_body", message, "body.video"))
    return dict(body)


def _fault(line: int, code: str, message: str, param: str | None = None) -> LineFault:
    return LineFault(line=line, code=code, message=message, param=param)


def _count(faults: list[LineFault]) -> str:
    if len(faults) == _MAX_FAULTS:
        return f"{_MAX_FAULTS} lines or more"
    return "1 line" if len(faults) == 1 else f"{len(faults)} lines"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
