import json
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from calibrate.client import async_client, client
from calibrate.client.async_client import AsyncClient
from calibrate.client.calls import Clip, OnServer, batch_requests
from calibrate.client.client import Client
from calibrate.client.errors import NotAnswered, ProblemError
from calibrate.client.retries import Retries
from tests.calibrate.client.answers import DECISION, Script, decision, problem
from wire.errors import ConfigError

URL = "http://service:8000"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between tries, none of which is slept."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(client.time, "sleep", waited.append)
    monkeypatch.setattr(async_client.asyncio, "sleep", sleep)
    return waited


@contextmanager
def scripted(*answers: httpx.Response | Exception, **settings: Any) -> Iterator[tuple[Client, Any]]:
    script = Script(*answers)
    with Client(URL, "di_1_x", transport=httpx.MockTransport(script), **settings) as one:
        yield one, script


@asynccontextmanager
async def async_scripted(
    *answers: httpx.Response | Exception,
) -> AsyncIterator[tuple[AsyncClient, Script]]:
    script = Script(*answers)
    transport = httpx.MockTransport(script.asynchronous)
    async with AsyncClient(URL, "di_1_x", transport=transport) as one:
        yield one, script


def test_a_file_is_sent_with_the_token_and_its_answer_is_typed(tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(b"video bytes")
    with scripted(decision()) as (one, script):
        answer = one.classify(
            Clip(video=tmp_path / "a.mp4", id="a", window=(1.0, 2.5), columns={"title": "A"}),
            classifier="challenger",
            control="blank",
        )
    assert (answer.label, answer.confidence, answer.action) == ("undo", 0.75, "review")
    assert answer.reasons[0].code == "below_threshold"
    assert answer.versions.classifier == 3
    assert answer.frames == (0, 8)
    assert answer.raw["a_later_field"] == 1
    (request,) = script.requests
    assert request.headers["Authorization"] == "Bearer di_1_x"
    assert (request.method, request.url.path) == ("POST", "/v1/classify")
    body = request.content
    assert b'name="video"; filename="a.mp4"' in body
    assert b"video bytes" in body
    for name, value in {
        "id": "a",
        "window": "[1.0, 2.5]",
        "columns": '{"title": "A"}',
        "classifier": "challenger",
        "control": "blank",
    }.items():
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in body


@pytest.mark.parametrize(
    ("video", "expected"),
    [
        ("https://host/a.mp4", {"url": "https://host/a.mp4"}),
        (OnServer(path="clips/a.mp4"), {"path": "clips/a.mp4"}),
    ],
)
def test_an_address_and_a_path_there_are_sent_as_json(video: Any, expected: Any):
    with scripted(decision()) as (one, script):
        one.classify(Clip(video=video, id="a"))
    assert script.body() == {"video": expected, "id": "a"}


def test_a_refusal_that_passes_is_tried_again_when_it_says_with_the_same_key_and_body(
    waits: list[float], tmp_path: Path
):
    (tmp_path / "a.mp4").write_bytes(b"video bytes")
    answers = (
        problem(429, "queue-full", "7"),
        problem(503, "engine-unavailable"),
        problem(409, "idempotency-key-in-use", "1"),
        httpx.ReadError("connection reset"),
        decision(),
    )
    with scripted(*answers) as (one, script):
        assert one.classify(tmp_path / "a.mp4").id == "dec_1"
    assert [7 <= waits[0] <= 8.75, 1 <= waits[1] <= 1.25, 1 <= waits[2] <= 1.25] == [True] * 3
    assert 4 <= waits[3] <= 5
    keys = {request.headers["Idempotency-Key"] for request in script.requests}
    assert len(keys) == 1
    assert all(b"video bytes" in request.content for request in script.requests)


def test_each_call_has_its_own_key():
    with scripted(decision(), decision()) as (one, script):
        one.classify("https://host/a.mp4")
        one.classify("https://host/a.mp4")
    assert len({request.headers["Idempotency-Key"] for request in script.requests}) == 2


def test_other_refusals_are_raised_at_once_with_what_the_service_said(waits: list[float]):
    refusal = problem(422, "clip-failed", failure={"kind": "decode", "reason": "no moov"})
    with scripted(refusal) as (one, _), pytest.raises(ProblemError) as raised:
        one.classify("https://host/a.mp4")
    error = pickle.loads(pickle.dumps(raised.value))
    assert (error.status, error.slug, error.detail) == (
        422,
        "clip-failed",
        "because of clip-failed",
    )
    assert error.body["failure"]["kind"] == "decode"
    assert "because of clip-failed" in str(error)
    assert waits == []


def test_tries_end_with_the_time_for_them(waits: list[float]):
    refusals = [problem(429, "queue-full", "4") for _ in range(9)]
    with (
        scripted(*refusals, retries=Retries(seconds=10)) as (one, script),
        pytest.raises(ProblemError) as raised,
    ):
        one.classify("https://host/a.mp4")
    assert raised.value.status == 429
    assert len(script.requests) == 3
    with (
        scripted(problem(503, "draining", "4"), retries=Retries(seconds=0)) as (one, script),
        pytest.raises(ProblemError),
    ):
        one.classifiers()
    assert len(script.requests) == 1


def test_a_service_that_is_not_there_is_named_with_what_to_do(
    waits: list[float], caplog: pytest.LogCaptureFixture
):
    broken = [httpx.ConnectError("refused")] * 20
    with scripted(*broken) as (one, _), pytest.raises(NotAnswered, match="service:8000") as raised:
        one.classifiers()
    assert "deepintuit serve" in str(raised.value)
    assert sum(waits) <= 120 * 1.25
    assert caplog.messages == [f"{URL}: no answer (refused); trying for 120 s"]


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(200, text="<html>hello</html>"), httpx.Response(200, json={"label": "undo"})],
)
def test_another_server_is_told_from_the_service(answer: httpx.Response):
    with scripted(answer) as (one, _), pytest.raises(NotAnswered, match="something else"):
        one.classify("https://host/a.mp4")


def test_an_error_page_of_a_proxy_is_shown_as_it_is():
    answer = httpx.Response(502, text="<h1>Bad\n gateway</h1>" * 100)
    with scripted(answer) as (one, _), pytest.raises(ProblemError) as raised:
        one.classifiers()
    assert raised.value.status == 502
    assert "Bad gateway" in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("url", ["service:8000", "ftp://h", "http://", "http://a@h", "http://h:x"])
def test_an_address_that_is_none_is_refused(url: str):
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        Client(url, "t")


def test_a_token_that_cannot_be_a_header_is_refused_without_being_shown():
    with pytest.raises(ConfigError) as raised:
        Client(URL, "secret\nX: 1")
    assert "secret" not in str(raised.value)


def _answer_by_name(request: httpx.Request) -> httpx.Response:
    address = json.loads(request.content)["video"]["url"]
    number = int(address.rsplit("/", 1)[1])
    return problem(422, "clip-failed") if number == 3 else decision(id=f"dec_{number}")


def test_many_clips_are_answered_in_order_few_at_a_time_each_refusal_in_its_place(tmp_path: Path):
    lock, now, most = threading.Lock(), 0, 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            return _answer_by_name(request)
        finally:
            with lock:
                now -= 1

    videos = [*(f"https://host/{n}" for n in range(20)), tmp_path / "missing.mp4"]
    with Client(URL, "t", transport=httpx.MockTransport(answer)) as one:
        answers = list(one.classify_many(videos, concurrency=4))
    ids = [getattr(one, "id", type(one).__name__) for one in answers]
    expected = [f"dec_{n}" for n in range(20)]
    expected[3] = "ProblemError"
    assert ids == [*expected, "FileNotFoundError"]
    assert most <= 4


async def test_the_async_client_answers_the_same(tmp_path: Path, waits: list[float]):
    async def answer(request: httpx.Request) -> httpx.Response:
        await request.aread()
        return _answer_by_name(request)

    videos = [*(f"https://host/{n}" for n in range(6)), tmp_path / "missing.mp4"]
    async with AsyncClient(URL, "t", transport=httpx.MockTransport(answer)) as one:
        answers = [answer async for answer in one.classify_many(videos, concurrency=4)]
    ids = [getattr(one, "id", type(one).__name__) for one in answers]
    assert ids == ["dec_0", "dec_1", "dec_2", "ProblemError", "dec_4", "dec_5", "FileNotFoundError"]
    (tmp_path / "a.mp4").write_bytes(b"video bytes")
    async with async_scripted(problem(429, "queue-full", "2"), decision()) as (one, script):
        await one.classify(tmp_path / "a.mp4")
    assert 2 <= waits[0] <= 2.5
    assert all(b"video bytes" in request.content for request in script.requests)


def test_an_end_of_the_service_ends_many_clips(waits: list[float]):
    def gone(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with (
        Client(URL, "t", transport=httpx.MockTransport(gone)) as one,
        pytest.raises(NotAnswered),
    ):
        list(one.classify_many([f"https://host/{n}" for n in range(50)], concurrency=4))


BATCH = {
    "id": "batch_1",
    "status": "in_progress",
    "input_file_id": "file-1",
    "output_file_id": None,
    "error_file_id": None,
    "request_counts": {"total": 2, "completed": 0, "failed": 0},
}


def test_a_batch_is_uploaded_begun_awaited_and_read(waits: list[float]):
    done = BATCH | {"status": "completed", "output_file_id": "file-o", "error_file_id": "file-e"}
    answers = (
        httpx.Response(200, json={"id": "file-1"}),
        httpx.Response(200, json=BATCH),
        httpx.Response(200, json=BATCH),
        httpx.Response(200, json=done),
        httpx.Response(200, text='{"custom_id": "a", "text": "\\u2028"}\n'),
        httpx.Response(200, text='{"custom_id": "b\u2028c"}\n'),
    )
    requests = batch_requests(
        [Clip(video=OnServer(path="a.mp4"), id="a"), Clip(video="https://host/b.mp4")]
    )
    with scripted(*answers) as (one, script):
        batch = one.create_batch(requests, metadata={"team": "x"})
        done_batch = one.wait_for_batch(batch.id)
        rows = one.batch_rows(done_batch)
    assert (batch.has_ended, done_batch.has_ended, waits) == (False, True, [2.0])
    assert [row["custom_id"] for row in rows] == ["a", "b\u2028c"]
    assert b'"custom_id": "a"' in script.requests[0].content
    assert b'name="purpose"\r\n\r\nbatch' in script.requests[0].content
    assert script.body(1)["metadata"] == {"team": "x"}
    assert requests[1] == {
        "custom_id": "1",
        "method": "POST",
        "url": "/v1/classify",
        "body": {"video": {"url": "https://host/b.mp4"}},
    }


def test_a_batch_of_local_files_is_refused_with_what_to_do_instead():
    with pytest.raises(ValueError, match="classify_many"):
        batch_requests([Clip(video=Path("a.mp4"))])


def test_pages_of_decisions_are_read_to_the_last(waits: list[float]):
    pages = (
        httpx.Response(200, json={"decisions": [DECISION, DECISION], "next_cursor": "7"}),
        httpx.Response(200, json={"decisions": [DECISION], "next_cursor": None}),
    )
    with scripted(*pages) as (one, script):
        assert len(list(one.decisions(label="undo"))) == 3
    assert [dict(request.url.params) for request in script.requests] == [
        {"label": "undo"},
        {"label": "undo", "cursor": "7"},
    ]


@pytest.mark.parametrize(
    ("call", "method", "path"),
    [
        (lambda c: c.decision("dec/1"), "GET", "/v1/decisions/dec%2F1"),
        (lambda c: c.explain("d", replay=True), "GET", "/v1/decisions/d/explain?replay=true"),
        (lambda c: c.promote(2), "POST", "/v1/classifiers/2/promote"),
        (lambda c: c.roll_back(), "POST", "/v1/aliases/champion/rollback"),
        (lambda c: c.cancel_fit("f"), "POST", "/v1/fits/f/cancel"),
        (lambda c: c.release_review("r"), "POST", "/v1/reviews/r/release"),
        (lambda c: c.cancel_batch("b"), "POST", "/v1/batches/b/cancel"),
    ],
)
def test_both_clients_ask_the_same(
    call: Callable[[Any], Any], method: str, path: str, waits: list[float]
):
    with scripted(problem(404, "no-such-thing")) as (one, script), pytest.raises(ProblemError):
        call(one)
    assert (script.requests[0].method, script.requests[0].url.raw_path.decode()) == (method, path)


def test_the_two_clients_have_the_same_methods_with_the_same_arguments():
    import inspect

    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(value).parameters)
            for name, value in vars(kind).items()
            if inspect.isfunction(value) and not name.startswith("__")
        }

    assert methods(Client) == methods(AsyncClient)


def test_the_client_loads_little():
    code = "import sys, calibrate.client.client, calibrate.client.async_client\n"
    code += "heavy = ('numpy', 'torch', 'fastapi', 'pydantic', 'cluster')\n"
    code += "print([module for module in heavy if module in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
