import socket
import time
from pathlib import Path

import httpx
import pytest

from tests.calibrate.service.running import DEADLINE_S, make_config, running


def test_health_answers_without_a_token_and_nothing_else_does(tmp_path: Path):
    with running(make_config(tmp_path)) as service, httpx.Client(base_url=service.url) as client:
        assert client.get("/v1/health/live").json() == {"status": "live"}
        ready = client.get("/v1/health/ready")
        assert (ready.status_code, ready.json()["type"][-9:]) == (503, "not-ready")
        assert "there is no champion" in ready.json()["detail"]
        for path in ("/metrics", "/openapi.json", "/v1/nothing"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["type"]) == (
                401,
                "urn:deepintuit:problem:token-needed",
            )


def test_a_token_without_the_scope_is_told_which_one_it_needs(tmp_path: Path):
    with running(make_config(tmp_path)) as service, httpx.Client(base_url=service.url) as client:
        answer = client.get("/metrics", headers=service.headers("classify"))
        assert answer.status_code == 403
        assert answer.headers["content-type"] == "application/problem+json"
        assert "scope read; this one has classify" in answer.json()["detail"]
        assert client.get("/metrics", headers=service.headers("read")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/files"])
def test_an_upload_that_is_cut_off_is_the_clients_fault_and_leaves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
):
    with running(make_config(tmp_path)) as service:
        token = service.headers()["Authorization"]
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), DEADLINE_S) as connection:
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: {token}\r\n"
                "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n"
                '--b\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
                "some of it".encode()
            )
            while not service.service.in_progress:
                time.sleep(0.005)
        while service.service.in_progress:
            time.sleep(0.005)
        text = service.service.metrics.text().decode()
    assert f'method="POST",route="{path}",status="4' in text
    assert not caplog.records
    assert not [file for file in (tmp_path / "state" / "clips").rglob("*") if file.is_file()]
