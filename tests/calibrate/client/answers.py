"""Answers of a scripted service for tests of the client."""

import json
from collections.abc import Callable
from typing import Any

import httpx

DECISION: dict[str, Any] = {
    "id": "dec_1",
    "created_at": "2026-11-30T12:00:00.000Z",
    "clip": {"video_hash": "9f", "name": "a.mp4", "source": "upload", "frames": [0, 8]},
    "label": "undo",
    "confidence": 0.75,
    "probabilities": {"do": 0.25, "undo": 0.75},
    "prediction_set": ["undo"],
    "decision": "review",
    "reasons": [{"code": "below_threshold", "text": "0.75 is below 0.9"}],
    "policies": [],
    "trace": "<think>it is undone</think>",
    "votes": None,
    "control": None,
    "versions": {"classifier": 3, "classifier_hash": "ab", "policy": "0.4", "calibrator": "cd"},
    "review_id": "rev_1",
    "seconds": {"queue": 0.0, "engine": 0.1, "total": 0.1},
    "a_later_field": 1,
}


def decision(**changes: Any) -> httpx.Response:
    return httpx.Response(200, json=DECISION | changes)


def problem(status: int, slug: str, retry_after: str | None = None, **more: Any) -> httpx.Response:
    body = {
        "type": f"urn:deepintuit:problem:{slug}",
        "title": slug.capitalize(),
        "status": status,
        "detail": f"because of {slug}",
    }
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return httpx.Response(status, json=body | more, headers=headers)


class Script:
    """Answers requests one after another, and keeps what was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def asynchronous(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return self(request)

    def body(self, number: int = -1) -> Any:
        return json.loads(self.requests[number].content)


Answerer = Callable[[httpx.Request], httpx.Response]
