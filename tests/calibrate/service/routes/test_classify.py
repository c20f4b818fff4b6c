"""POST /v1/classify against a real server with a scripted backend: uploads, paths, many at once,
refusals, clients that hang up."""

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.calibrate.service.fakes import ScriptedBackend, publish_tiny
from tests.calibrate.service.running import Running, make_config, make_parts, running
from wire.errors import DiskFull


class Site:
    """A running service with a champion and a second version, and a root with clips."""

    def __init__(self, service: Running, backend: ScriptedBackend, root: Path) -> None:
        self.running, self.backend, self.root = service, backend, root
        self.http = httpx.Client(
            base_url=service.url, headers=service.headers("classify", "read", "admin"), timeout=20
        )

    def clip(self, content: str = "clip", name: str = "a.mp4") -> str:
        (self.root / name).write_text(content)
        return str(self.root / name)

    def post(self, body: Any) -> httpx.Response:
        return self.http.post("/v1/classify", json=body)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    root = folder / "clips"
    root.mkdir()
    backend = ScriptedBackend()
    config = make_config(folder, roots=(root,), max_queue=4, max_in_flight=2, max_loaded=2)

    def prepare(service: Any) -> None:
        for name in ("first", "second"):
            published = publish_tiny(folder / "published", name, reference=True)
            service.registry.register(published.path, source=name, by="test")
        service.registry.promote(1, by="test", expected_champion=None, reason="")

    with running(config, make_parts(backend=backend), prepare) as service:
        one = Site(service, backend, root)
        while one.http.get("/v1/health/ready").status_code != 200:
            time.sleep(0.02)
        yield one
        one.http.close()


def test_an_upload_is_decided_and_named(site: Site) -> None:
    answer = site.http.post(
        "/v1/classify",
        files={"video": ("cat.mp4", b"an upload")},
        data={"id": "cat", "window": "[0.5, 2]", "columns": '{"q": "x"}', "control": "blank"},
    )
    assert answer.status_code == 200, answer.text
    values = answer.json()
    assert values["id"].startswith("dec_")
    assert values["decision"] in ("auto", "review")
    assert values["clip"]["name"] == "cat.mp4"
    assert values["versions"]["classifier"] == 1
    assert values["trace"].startswith("<think>first saw it")
    assert sum(values["probabilities"].values()) == pytest.approx(1)
    assert values["control"] is not None
    _, asked, _ = site.backend.asked[-1]
    assert (asked.id, asked.window, asked.columns) == ("cat", (0.5, 2.0), {"q": "x"})
    assert {view for _, _, view in site.backend.asked[-2:]} == {None, "blank"}
    kept = site.http.get(f"/v1/decisions/{values['id']}")
    if kept.status_code != 404:
        assert kept.json()["probabilities"] == values["probabilities"]


def test_a_path_gives_what_its_upload_gives(site: Site) -> None:
    path = site.clip("the same bytes")
    by_path = site.post({"video": {"path": path}}).json()
    uploaded = site.http.post("/v1/classify", files={"video": ("b", b"the same bytes")}).json()
    assert by_path["probabilities"] == uploaded["probabilities"]
    assert by_path["sample_id"] == by_path["clip"]["video_hash"]


def test_another_version_answers_where_it_is_asked_for(site: Site) -> None:
    path = site.clip()
    for ref in (2, "2"):
        values = site.post({"video": {"path": path}, "classifier": ref}).json()
        assert values["versions"]["classifier"] == 2
        assert values["trace"].startswith("<think>second ")
    missing = site.post({"video": {"path": path}, "classifier": "9"})
    assert missing.status_code == 404
    none = site.post({"video": {"path": path}, "classifier": "challenger"})
    assert none.status_code == 404


def test_many_in_one_request_have_a_decision_or_a_problem_each(site: Site) -> None:
    good, bad = site.clip(), site.clip("fail: no moov atom", "bad.mp4")
    answer = site.post(
        {"inputs": [{"video": {"path": place}} for place in (good, bad, "/etc/passwd", good)]}
    )
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [one.get("status", 200) for one in results] == [200, 422, 403, 200]
    assert results[1]["failure"] == {"kind": "decode", "reason": "no moov atom"}
    assert results[0]["probabilities"] == results[3]["probabilities"]
    files = [("video", (f"{k}.mp4", f"file {k}".encode())) for k in range(3)]
    results = site.http.post("/v1/classify", files=files).json()["results"]
    assert [one["clip"]["name"] for one in results] == ["0.mp4", "1.mp4", "2.mp4"]


def test_an_error_of_the_machine_among_many_is_that_of_the_request(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(path: str) -> Any:
        raise DiskFull("no room left")

    monkeypatch.setattr(site.running.service.intake, "from_path", full)
    one = {"video": {"path": site.clip()}}
    assert site.post(one).status_code == 507
    assert site.post({"inputs": [one, one]}).status_code == 507


def test_a_clip_that_fails_is_a_problem(site: Site) -> None:
    answer = site.post({"video": {"path": site.clip("fail: it is cut off", "cut.mp4")}})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert "it is cut off" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ([], 422),
        ({"video": {}}, 422),
        ({"video": {"path": "a", "url": "b"}}, 422),
        ({"video": {"path": "a"}, "windw": [0, 1]}, 422),
        ({"video": {"path": "a"}, "window": [2, 1]}, 422),
        ({"video": {"path": "a"}, "window": [0]}, 422),
        ({"video": {"path": "a"}, "control": "loud"}, 422),
        ({"video": {"path": "a"}, "classifier": True}, 422),
        ({"video": {"path": "a"}, "id": ""}, 422),
        ({"video": {"path": "a"}, "id": "\ud800"}, 422),
        ({"video": {"path": "a\x00b"}}, 422),
        ({"inputs": []}, 422),
        ({"inputs": [{"video": {"path": "a"}}] * 33}, 422),
    ],
)
def test_what_is_no_request_is_refused(site: Site, body: Any, status: int) -> None:
    asked = len(site.backend.asked)
    answer = site.http.post(
        "/v1/classify",
        content=json.dumps(body),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(site.backend.asked) == asked


@pytest.mark.parametrize(
    ("kind", "content", "status"),
    [
        ("text/plain", b"hello", 415),
        ("application/json", b"{", 400),
        ("application/json", b'{"video": {"path": "a"}, "window": [NaN, 1]}', 400),
        ("application/json", b"[" * 100_000, 400),
        ("application/json", b"\xff", 400),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=x", b"--x--", 422),
    ],
)
def test_what_cannot_be_read_is_refused(site: Site, kind: str, content: bytes, status: int) -> None:
    answer = site.http.post("/v1/classify", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_form_with_faults_is_refused(site: Site) -> None:
    file = {"video": ("a.mp4", b"x")}
    for data, status in (({"window": "0,1"}, 400), ({"speed": "2"}, 422), ({"window": "1"}, 422)):
        answer = site.http.post("/v1/classify", files=file, data=data)
        assert answer.status_code == status, answer.text
    text = site.http.post("/v1/classify", files={"x": ("x", b"")}, data={"video": "a"})
    assert text.status_code == 422


def test_a_client_that_hangs_up_takes_no_engine_time(site: Site) -> None:
    path = site.clip("slow: 30", "slow.mp4")
    body = json.dumps({"video": {"path": path}}).encode()
    address = urlsplit(site.running.url)
    token = site.http.headers["authorization"]
    before = site.backend.opened[0].num_cancelled
    with socket.create_connection((address.hostname, address.port)) as line:
        head = (
            f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        line.sendall(head.encode() + body)
        until(lambda: site.backend.opened[0].running == 1)
    until(lambda: site.backend.opened[0].running == 0)
    assert site.backend.opened[0].num_cancelled == before + 1
    assert site.running.service.serving.status()["waiting"] == 0


def test_a_file_that_changes_while_it_waits_is_refused_and_one_that_is_replaced_is_not_seen(
    site: Site,
) -> None:
    """Both places are taken, so that the clips wait between the check of their file and its use."""
    for name in ("1", "2"):
        site.clip(f"slow: {name}", f"slow{name}.mp4")
    written, replaced = site.clip("before", "written.mp4"), site.clip("before", "replaced.mp4")
    with ThreadPoolExecutor(4) as threads:

        def ask(path: str) -> Future[httpx.Response]:
            return threads.submit(site.post, {"video": {"path": path}})

        slow = [ask(f"slow{name}.mp4") for name in ("1", "2")]
        until(lambda: site.backend.opened[0].running == 2)
        waiting = [ask(path) for path in (written, replaced)]
        until(lambda: site.running.service.serving.status()["waiting"] == 2)
        Path(written).write_text("after")
        site.clip("other", "other.mp4")
        (site.root / "other.mp4").rename(replaced)
        changed, same = (one.result() for one in waiting)
        assert [one.result().status_code for one in slow] == [200, 200]
    assert (changed.status_code, changed.json()["title"]) == (409, "Clip changed")
    assert same.json()["clip"]["video_hash"] == hashlib.sha256(b"before").hexdigest()


def test_the_shift_of_a_version_is_watched(site: Site) -> None:
    answer = site.http.get("/v1/classifiers/champion/shift")
    assert answer.status_code == 200
    values = answer.json()
    assert (values["classifier"], values["alarm"]) == (1, None)
    assert values["num_served"] > 0
    refused = site.http.post("/v1/classifiers/champion/shift/acknowledge")
    assert (refused.status_code, refused.json()["title"]) == (409, "No alarm")
    assert site.http.get("/v1/classifiers/7/shift").status_code == 404
    for number in range(60):
        values = site.post({"video": {"path": site.clip(f"unparsed: {number}")}}).json()
    assert values["decision"] == "review"
    assert "shift_alarm" in [one["code"] for one in values["reasons"]]
    assert site.http.post("/v1/classifiers/1/shift/acknowledge").json()["alarm"] is not None
    assert site.http.get("/v1/classifiers/1/shift").json()["num_acknowledged"] == 1
    rows = site.http.get("/v1/audit", params={"action": "shift.acknowledged"})
    assert "shift.acknowledged" in rows.text


def test_queue_and_engines_are_in_the_metrics(site: Site) -> None:
    site.post({"video": {"path": site.clip()}})
    lines = dict(
        line.rsplit(" ", 1)
        for line in site.http.get("/metrics").text.splitlines()
        if line.startswith("deepintuit_") and "{" not in line
    )
    assert float(lines["deepintuit_clips_answered"]) >= 1
    assert (lines["deepintuit_ready"], lines["deepintuit_queue_waiting"]) == ("1.0", "0.0")
    assert float(lines["deepintuit_classifiers_loaded"]) >= 1


def until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
