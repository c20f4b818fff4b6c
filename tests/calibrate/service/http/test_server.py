import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter

from calibrate.service.http.server import _listener
from calibrate.service.service import Service
from tests.calibrate.service.fakes import ScriptedBackend, publish_tiny
from tests.calibrate.service.running import DEADLINE_S, make_config, make_parts, running
from wire.errors import ConfigError

_LOOK_S = 0.005


def test_a_stop_answers_what_was_accepted_and_refuses_what_comes_after(tmp_path: Path):
    router, entered, go_on = APIRouter(), threading.Event(), threading.Event()

    @router.post("/v1/slow")
    async def slow() -> str:
        entered.set()
        await asyncio.to_thread(go_on.wait, DEADLINE_S)
        return "answered"

    with (
        running(make_config(tmp_path), routers=[router]) as service,
        httpx.Client(base_url=service.url, headers=service.headers()) as client,
        ThreadPoolExecutor() as pool,
    ):
        accepted = pool.submit(client.post, "/v1/slow")
        assert entered.wait(DEADLINE_S)
        service.stop()
        while "stopping" not in client.get("/v1/health/ready").json()["detail"]:
            time.sleep(_LOOK_S)
        refused = client.post("/v1/slow")
        assert (refused.status_code, refused.json()["type"][-8:]) == (503, "stopping")
        assert refused.headers["retry-after"] == "5"
        assert refused.headers["connection"] == "close"
        assert not accepted.done()
        go_on.set()
        assert accepted.result(DEADLINE_S).json() == "answered"


def test_clips_in_the_line_and_in_the_engines_are_answered_before_a_stop(tmp_path: Path):
    published = publish_tiny(tmp_path / "published").path

    def prepare(service: Service) -> None:
        service.registry.register(published, source="test", by="test")
        service.registry.promote(1, by="test", expected_champion=None, reason="test")

    backend = ScriptedBackend(delay_s=0.05)
    config = make_config(tmp_path, max_in_flight=2)
    with (
        running(config, make_parts(backend=backend), prepare) as service,
        httpx.Client(base_url=service.url, headers=service.headers(), timeout=DEADLINE_S) as client,
        ThreadPoolExecutor(12) as pool,
    ):
        while client.get("/v1/health/ready").status_code != 200:
            time.sleep(_LOOK_S)
        clips = [{"video": b"clip %d" % number} for number in range(12)]
        answers = [pool.submit(client.post, "/v1/classify", files=clip) for clip in clips]
        while service.service.serving.status()["waiting"] < 5:
            assert not all(answer.done() for answer in answers)
            time.sleep(_LOOK_S)  # a loop without would keep the service, in this process, waiting
        accepted = service.service.in_progress
        service.stop()
        statuses = [answer.result(DEADLINE_S).status_code for answer in answers]
    assert statuses.count(200) >= accepted >= 5
    assert set(statuses) <= {200, 503}
    assert len(backend.asked) == statuses.count(200)


def test_a_port_that_is_taken_is_the_users_to_mend(tmp_path: Path):
    with running(make_config(tmp_path / "a")) as first:
        port = int(first.url.rpartition(":")[2])
        taken = running(make_config(tmp_path / "b", port=port))
        with pytest.raises(ConfigError, match=f"port {port}: Address already in use; give another"):
            taken.__enter__()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"no HTTP at all\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 66_000, 431),
        (b"GET / HTTP/1.1\r\nX: never", 408),
        # two ideas of where the body ends, as for smuggling a request past a proxy
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
)
def test_what_is_no_head_or_a_too_long_one_or_never_ends_is_a_problem_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, status: int
):
    if status == 408:
        monkeypatch.setattr("calibrate.service.http.server._HEAD_S", 0.2)
    with running(make_config(tmp_path)) as service:
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), DEADLINE_S) as connection:
            connection.sendall(head)
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == status


async def test_an_answer_is_sent_at_once() -> None:
    """With Nagle's algorithm its second part waits for an acknowledgement, 40 ms."""
    listener = _listener("127.0.0.1", 0)
    no_delay: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = writer.get_extra_info("socket")
        no_delay.set_result(line.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async with await asyncio.start_server(connected, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await no_delay
        writer.close()


@pytest.mark.slow
def test_a_connection_may_rest_for_longer_than_a_busy_client_pauses(tmp_path: Path):
    with running(make_config(tmp_path)) as service:
        connection = HTTPConnection(service.url.removeprefix("http://"), timeout=DEADLINE_S)
        connection.connect()
        connection.auto_open = 0  # a second connection would hide that the first was closed
        for pause_s in (0, 6):
            time.sleep(pause_s)
            connection.request("GET", "/v1/health/live")
            with connection.getresponse() as answer:
                assert (answer.status, answer.read()) == (200, b'{"status":"live"}')
        connection.close()
