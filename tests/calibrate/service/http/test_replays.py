import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Request, Response, UploadFile

from calibrate.service.problems import Problem
from tests.calibrate.service.running import DEADLINE_S, Running, make_config, running


@dataclass
class Counted:
    """A service with routes that count how often they ran."""

    service: Running
    client: httpx.Client
    runs: list[Any] = field(default_factory=list)
    entered: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    router, runs = APIRouter(), []
    entered, go_on = threading.Event(), threading.Event()

    @router.post("/v1/jobs")
    async def jobs(request: Request, response: Response) -> dict[str, int]:
        runs.append(await request.body())
        response.headers["Location"] = f"/v1/jobs/{len(runs)}"
        response.status_code = 202
        return {"run": len(runs)}

    @router.post("/v1/others")
    async def others() -> dict[str, int]:
        runs.append(None)
        return {"run": len(runs)}

    @router.post("/v1/uploads")
    async def uploads(video: UploadFile) -> dict[str, int]:
        runs.append(video.filename)
        return {"run": len(runs)}

    @router.post("/v1/failing")
    async def failing() -> dict[str, int]:
        runs.append(None)
        if len(runs) == 1:
            raise Problem(503, "not-now", "later")
        return {"run": len(runs)}

    @router.post("/v1/slow")
    async def slow() -> dict[str, int]:
        runs.append(None)
        entered.set()
        await asyncio.to_thread(go_on.wait, DEADLINE_S)
        return {"run": len(runs)}

    with (
        running(make_config(tmp_path), routers=[router]) as service,
        httpx.Client(base_url=service.url, headers=service.headers()) as client,
    ):
        yield Counted(service, client, runs, entered, go_on)


def key(text: str) -> dict[str, str]:
    return {"Idempotency-Key": text}


def test_a_retry_gets_the_first_answer_and_nothing_runs_again(counted: Counted):
    first = counted.client.post("/v1/jobs", json={"a": 1}, headers=key("k"))
    again = counted.client.post("/v1/jobs", json={"a": 1}, headers=key("k"))
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["location"] == "/v1/jobs/1"
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert len(counted.runs) == 1


def test_another_payload_under_the_key_is_refused_and_told_nothing_of_the_answer(counted: Counted):
    counted.client.post("/v1/jobs", json={"a": 1}, headers=key("k"))
    other = counted.client.post("/v1/jobs", json={"a": 2}, headers=key("k"))
    assert (other.status_code, other.json()["title"]) == (422, "Idempotency key reused")
    assert len(counted.runs) == 1


def test_a_key_belongs_to_its_route_and_its_caller(counted: Counted):
    counted.client.post("/v1/jobs", headers=key("k"))
    assert counted.client.post("/v1/others", headers=key("k")).json() == {"run": 2}
    someone_else = {**key("k"), **counted.service.headers()}
    assert counted.client.post("/v1/jobs", headers=someone_else).json() == {"run": 3}


def test_an_upload_that_is_sent_again_is_known_by_its_content(counted: Counted):
    for _ in range(2):  # each with a boundary of its own
        answer = counted.client.post(
            "/v1/uploads", files={"video": b"x" * 3_000_000}, headers=key("k")
        )
        assert answer.json() == {"run": 1}
    other = counted.client.post("/v1/uploads", files={"video": b"y" * 3_000_000}, headers=key("k"))
    assert other.status_code == 422


def test_a_failure_is_not_kept(counted: Counted):
    assert counted.client.post("/v1/failing", headers=key("k")).status_code == 503
    assert counted.client.post("/v1/failing", headers=key("k")).json() == {"run": 2}
    assert counted.client.post("/v1/failing", headers=key("k")).json() == {"run": 2}


def test_two_at_once_run_once_and_one_of_them_is_told_to_wait(counted: Counted):
    with ThreadPoolExecutor() as pool:
        first = pool.submit(counted.client.post, "/v1/slow", headers=key("k"))
        assert counted.entered.wait(DEADLINE_S)
        second = counted.client.post("/v1/slow", headers=key("k"))
        assert (second.status_code, second.headers["retry-after"]) == (409, "1")
        counted.go_on.set()
        assert first.result(DEADLINE_S).json() == {"run": 1}
    assert counted.client.post("/v1/slow", headers=key("k")).json() == {"run": 1}


def test_an_answer_with_a_secret_in_it_is_not_kept(counted: Counted):
    token = {"name": "a", "scopes": ["read"]}
    first, second = (
        counted.client.post("/v1/tokens", json=token, headers=key("k")).json() for _ in range(2)
    )
    assert first["secret"] != second["secret"]


@pytest.mark.parametrize("wrong", ["", "a b", "x" * 256, "k\u00e9"])
def test_a_key_that_is_none_is_refused(counted: Counted, wrong: str):
    answer = counted.client.post("/v1/jobs", headers={"Idempotency-Key": wrong.encode()})
    assert (answer.status_code, counted.runs) == (400, [])
