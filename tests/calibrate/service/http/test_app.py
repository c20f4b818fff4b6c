from pathlib import Path

import httpx

from tests.calibrate.service.running import make_config, running


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
