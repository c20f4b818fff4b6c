from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from calibrate.service.caller import SCOPES, Scope
from tests.calibrate.service.fakes import ScriptedBackend, publish_tiny
from tests.calibrate.service.running import Running, make_config, make_parts, running
from wire.errors import GenerationError


@dataclass
class Api:
    """The service as a caller sees it, with a root that has published classifiers."""

    client: httpx.Client
    backend: ScriptedBackend
    service: Running
    root: Path

    def publish(self, name: str) -> str:
        return str(publish_tiny(self.root, name).path)

    def ask(self, method: str, path: str, *scopes: Scope, **options: Any) -> httpx.Response:
        headers = self.service.headers(*(scopes or SCOPES))
        return self.client.request(method, path, headers=headers, **options)

    def register(self, *names: str) -> list[int]:
        answers = [
            self.ask("POST", "/v1/classifiers", json={"path": self.publish(name)}) for name in names
        ]
        return [answer.json()["version"] for answer in answers]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    root = tmp_path / "root"
    root.mkdir()
    backend = ScriptedBackend()
    with (
        running(make_config(tmp_path, roots=(root,)), make_parts(backend=backend)) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        yield Api(client, backend, service, root)


def test_a_published_directory_is_registered_once(api: Api):
    path = api.publish("first")
    made = api.ask("POST", "/v1/classifiers", "fit", json={"path": path})
    assert (made.status_code, made.headers["Location"]) == (201, "/v1/classifiers/1")
    assert made.json()["source"] == path
    again = api.ask("POST", "/v1/classifiers", "fit", json={"path": path})
    assert (again.status_code, again.json()) == (200, made.json())
    assert api.ask("GET", "/v1/classifiers/1", "read").json() == made.json()
    assert api.ask("POST", "/v1/classifiers", "read", json={"path": path}).status_code == 403


def test_many_who_register_at_once_get_one_version_and_hold_up_nobody(api: Api):
    path, headers = api.publish("first"), api.service.headers()
    with ThreadPoolExecutor(24) as pool:
        answers = [
            pool.submit(
                httpx.post,
                f"{api.service.url}/v1/classifiers",
                json={"path": path},
                headers=headers,
                timeout=60,
            )
            for _ in range(24)
        ]
        assert api.client.get("/v1/health/live", timeout=10).status_code == 200
        statuses = sorted(one.result().status_code for one in answers)
    assert statuses == [200] * 23 + [201]


def test_a_run_stands_for_the_classifier_that_it_published(api: Api):
    run = api.root / "run"
    stage = run / "stages" / "calibrated"
    stage.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    unfinished = api.ask("POST", "/v1/classifiers", json={"path": str(run)})
    assert unfinished.status_code == 422
    publish_tiny(stage, "classifier")
    (stage / "done.json").write_text("{}")
    made = api.ask("POST", "/v1/classifiers", json={"path": str(run)})
    assert (made.status_code, made.json()["name"]) == (201, "classifier")


def test_a_run_whose_classifier_lies_outside_of_the_roots_is_refused(api: Api, tmp_path: Path):
    stage = api.root / "run" / "stages" / "calibrated"
    stage.mkdir(parents=True)
    (api.root / "run" / "run.json").write_text("{}")
    (stage / "done.json").write_text("{}")
    outside = publish_tiny(tmp_path / "outside", "one").path
    (stage / "classifier").symlink_to(outside)
    for path in (outside, api.root / "run"):
        answer = api.ask("POST", "/v1/classifiers", json={"path": str(path)})
        assert (answer.status_code, answer.json()["title"]) == (403, "Outside roots"), path


def test_what_is_no_classifier_is_refused_with_the_reason(api: Api):
    damaged = api.root / "damaged"
    publish_tiny(api.root, "damaged")
    (damaged / "calibration.json").write_text("{}")
    (api.root / "empty").mkdir()
    for path, status, part in [
        (str(damaged), 422, "bytes"),
        (str(api.root / "empty"), 422, "holds no classifier"),
        (str(api.root / "nowhere"), 404, "No such file"),
        ("relative", 422, "absolute"),
        ("/a\0b", 422, "absolute"),
        ("", 422, "at least 1 character"),
        ("/" + "x" * 5000, 422, "at most 4096"),
    ]:
        answer = api.ask("POST", "/v1/classifiers", json={"path": path})
        assert answer.status_code == status, (path[:50], answer.text)
        assert part in answer.json()["detail"], path[:50]
    assert api.ask("GET", "/v1/classifiers").json()["classifiers"] == []


def test_versions_are_listed_in_short_and_one_is_shown_whole(api: Api):
    assert api.register("a", "b") == [1, 2]
    listed = api.ask("GET", "/v1/classifiers", "read").json()
    assert [one["name"] for one in listed["classifiers"]] == ["a", "b"]
    assert listed["aliases"] == {"champion": None, "challenger": None, "previous": None}
    headline = listed["classifiers"][0]["figures"]["headline"]
    assert headline["accuracy"] == 0.8
    whole = api.ask("GET", "/v1/classifiers/2", "read").json()
    assert whole["figures"]["evaluation"]["confusion"]
    assert whole["figures"]["threshold"]["explanation"]


def test_a_challenger_is_proposed_and_withdrawn(api: Api):
    api.register("a", "b")
    proposed = api.ask("PUT", "/v1/aliases/challenger", "fit", json={"version": 2})
    assert proposed.json() == {"champion": None, "challenger": 2, "previous": None}
    assert api.ask("GET", "/v1/classifiers/challenger", "read").json()["version"] == 2
    assert api.ask("GET", "/v1/aliases", "read").json() == proposed.json()
    assert api.ask("DELETE", "/v1/aliases/challenger", "fit").json()["challenger"] is None
    assert api.ask("PUT", "/v1/aliases/challenger", json={"version": 3}).status_code == 404
    for version in (0, 2**63, "x", None):
        refused = api.ask("PUT", "/v1/aliases/challenger", json={"version": version})
        assert refused.status_code == 422, version


def test_an_unknown_version_is_not_there(api: Api):
    for ref in ("3", "champion", "best", "0", "99999999999999999999", "%00", "%F0"):
        answer = api.ask("GET", f"/v1/classifiers/{ref}")
        assert (answer.status_code, answer.json()["title"]) == (404, "No such classifier"), ref


def test_a_promotion_loads_the_version_and_a_roll_back_the_one_before_it(api: Api):
    api.register("a", "b")
    first = api.ask("POST", "/v1/classifiers/1/promote", "admin")
    assert (first.status_code, first.json()["champion"], first.json()["by"]) == (200, 1, "a test")
    second = api.ask(
        "POST",
        "/v1/classifiers/2/promote",
        json={"expected_champion": 1, "reason": "better at night"},
    ).json()
    assert (second["champion"], second["previous"]) == (2, 1)
    assert [one.description.name for one in api.backend.running] == ["b"]
    back = api.ask("POST", "/v1/aliases/champion/rollback", "admin", json={"reason": "worse"})
    assert (back.json()["champion"], back.json()["previous"]) == (1, 2)
    assert [one.description.name for one in api.backend.running] == ["a"]
    twice = api.ask("POST", "/v1/aliases/champion/rollback", json={"expected_champion": 2})
    assert (twice.status_code, twice.json()["champion"]) == (409, 1)
    rows = api.ask("GET", "/v1/audit", params={"subject": "classifiers/1"}).json()["rows"]
    assert [(row["action"], row["detail"].get("reason")) for row in rows] == [
        ("classifier.rolled_back", "worse"),
        ("classifier.promoted", ""),
        ("classifier.registered", None),
    ]


def test_promotions_that_cannot_be_made_change_nothing(api: Api):
    api.register("a", "b", "c")
    assert api.ask("POST", "/v1/aliases/champion/rollback").status_code == 409
    for version in (1, 2):
        assert api.ask("POST", f"/v1/classifiers/{version}/promote").status_code == 200
    overtaken = api.ask("POST", "/v1/classifiers/3/promote", json={"expected_champion": 1})
    assert (overtaken.status_code, overtaken.json()["champion"]) == (409, 2)
    api.backend.faults = [GenerationError("no memory")]
    broken = api.ask("POST", "/v1/classifiers/3/promote")
    assert broken.status_code == 503
    assert "no memory" in broken.json()["detail"]
    for version, status in ((9, 404), (0, 422), (2**63, 422), ("champion", 422)):
        assert api.ask("POST", f"/v1/classifiers/{version}/promote").status_code == status, version
    assert api.ask("POST", "/v1/classifiers/1/promote", "fit", "read").status_code == 403
    assert api.ask("GET", "/v1/aliases").json() == {
        "champion": 2,
        "challenger": None,
        "previous": 1,
    }
