"""Fits over HTTP: a real server, a real process per fit; what the process does is scripted."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.calibrate.service.jobs.open_jobs import SCRIPTED, make_source, steps_of
from tests.calibrate.service.running import Running, make_config, make_parts, running

DEADLINE_S = 20


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    config = make_config(tmp_path, roots=[tmp_path])
    with running(config, make_parts(fit_command=SCRIPTED)) as service:
        yield service


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, headers=service.headers("fit", "read")) as client:
        yield client


def ended(client: httpx.Client, location: str) -> dict[str, Any]:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        fit: dict[str, Any] = client.get(location).json()
        if fit["status"] not in ("queued", "running"):
            return fit
        time.sleep(0.02)
    raise TimeoutError(location)


def test_a_fit_is_accepted_followed_and_found_in_the_list(client: httpx.Client, tmp_path: Path):
    source = make_source(tmp_path, steps=3, step_s=0.1)
    answer = client.post("/v1/fits", json={"source": str(source), "methods": ["head"]})
    assert answer.status_code == 202
    location = answer.headers["Location"]
    assert location == f"/v1/fits/{answer.json()['id']}"
    fit = ended(client, location)
    assert (fit["status"], fit["error"], fit["cancelling"]) == ("succeeded", None, False)
    assert fit["classifiers"] == [{"name": "classifier", "version": 1, "proposed": True}]
    assert (fit["classifier"], fit["watch"]) == (1, False)
    assert fit["progress"]["total"] == 3
    assert fit["order"]["methods"] == ["head"]
    assert client.get("/v1/fits").json() == {"fits": [fit], "next_cursor": None}
    assert client.get("/v1/fits", params={"status": "failed"}).json()["fits"] == []


def test_a_list_goes_on_where_its_page_ended(client: httpx.Client, tmp_path: Path):
    source = make_source(tmp_path, steps=0)
    ids = [client.post("/v1/fits", json={"source": str(source)}).json()["id"] for _ in range(3)]
    first = client.get("/v1/fits", params={"limit": 2}).json()
    assert [fit["id"] for fit in first["fits"]] == ids[:0:-1]
    rest = client.get("/v1/fits", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [fit["id"] for fit in rest["fits"]] == ids[:1]
    assert rest["next_cursor"] is None


def test_a_fit_is_cancelled_and_its_log_read(client: httpx.Client, tmp_path: Path):
    source = make_source(tmp_path, steps=1000, step_s=0.02, dies_at=2)
    location = client.post("/v1/fits", json={"source": str(source)}).headers["Location"]
    end = time.monotonic() + DEADLINE_S
    while len(steps_of(source)) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    assert "deepintuit_fits_running 1.0" in client.get("/metrics").text
    assert client.post(f"{location}/cancel").status_code == 200
    fit = ended(client, location)
    assert (fit["status"], fit["starts"], fit["classifiers"]) == ("cancelled", 2, [])
    assert client.get(f"{location}/log").text == "out of memory\n"
    assert client.post(f"{location}/cancel").json()["status"] == "cancelled"


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        ({"source": "/etc"}, 403, "outside-roots"),
        ({"source": "nothing"}, 404, "no-such-archive"),
        ({"source": "nothing", "settings": ["model=/etc"]}, 422, "invalid-request"),
        ({"source": "nothing", "wacth": True}, 422, "invalid-request"),
        ({"source": "a\0b"}, 404, "no-such-archive"),
        ({}, 422, "invalid-request"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    client: httpx.Client, body: dict[str, Any], status: int, slug: str
):
    answer = client.post("/v1/fits", json=body)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["type"]) == (status, f"urn:deepintuit:problem:{slug}")
    assert client.get("/v1/fits").json()["fits"] == []


def test_a_fit_that_failed_says_why(client: httpx.Client, tmp_path: Path):
    source = make_source(tmp_path, fails="the archive has no traces for train")
    fit = ended(client, client.post("/v1/fits", json={"source": str(source)}).headers["Location"])
    assert fit["status"] == "failed"
    assert fit["error"] == {"kind": "DataError", "detail": "the archive has no traces for train"}


def test_text_that_is_no_text_is_refused(client: httpx.Client):
    body = '{"source": "x", "settings": ["calibrate.a=\\ud800"]}'
    answer = client.post("/v1/fits", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


def test_fits_need_their_scope_and_an_unknown_one_is_a_404(service: Running, client: httpx.Client):
    reader = service.headers("read")
    assert client.post("/v1/fits", json={"source": "x"}, headers=reader).status_code == 403
    assert client.get("/v1/fits", headers=reader).status_code == 200
    assert client.get("/v1/fits", headers=service.headers("classify")).status_code == 403
    assert client.get("/v1/fits/fit_0/log", headers=reader).status_code == 403
    for path in ("/v1/fits/fit_0", "/v1/fits/%00", "/v1/fits/fit_0/log"):
        assert client.get(path).status_code == 404
    assert client.post("/v1/fits/fit_0/cancel").status_code == 404
    assert client.get("/v1/fits", params={"cursor": "9" * 40}).status_code == 422
