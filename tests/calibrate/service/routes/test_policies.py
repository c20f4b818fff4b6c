from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.calibrate.service.deciding import make_held_out
from tests.calibrate.service.routes.asking import Asking, asking

POLICY = {
    "id": "take-down",
    "label": "abnormal",
    "target": "precision",
    "goal": 0.9,
    "action": "auto",
    "owner": "safety team",
}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Asking]:
    with asking(tmp_path, make_held_out()) as service:
        yield service


def test_a_policy_is_made_with_the_champions_threshold(api: Asking):
    made = api.ask("POST", "/v1/policies", json=POLICY)
    assert made.status_code == 201
    policy = made.json()
    assert (policy["version"], policy["created_by"], policy["retired"]) == (1, "ada", False)
    threshold = policy["threshold"]
    assert threshold["classifier"] == 1
    assert 0 < threshold["value"] <= 1
    assert threshold["num_held_out"] == 400
    assert threshold["bound"] >= 0.9
    assert api.ask("GET", "/v1/policies", "read").json() == {"policies": [policy]}
    assert api.ask("GET", "/v1/policies/take-down/thresholds").json() == [threshold]


def test_a_decision_tells_what_each_policy_said(api: Asking):
    value = api.ask("POST", "/v1/policies", json=POLICY).json()["threshold"]["value"]
    for number in range(12):
        record = api.decide(f"clip {number}".encode())
        (said,) = record.as_json()["policies"]
        assert (said["id"], said["version"], said["threshold"]) == ("take-down", 1, value)
        assert said["probability"] == record.probabilities["abnormal"]
        usable = record.prediction_set and record.label == "abnormal"
        assert said["fires"] == bool(usable and said["probability"] >= value)
        assert (record.decision == "auto") == said["fires"]


def test_what_is_not_attainable_is_a_valid_answer(api: Asking):
    made = api.ask("POST", "/v1/policies", json={**POLICY, "goal": 0.9999})
    assert made.status_code == 201
    threshold = made.json()["threshold"]
    assert threshold["value"] is None
    assert "not attainable with these 400 held-out clips" in threshold["explanation"]
    assert threshold["num_needed"] > 400
    assert api.decide().decision == "review"


def test_a_preview_makes_nothing_and_tells_the_effect(api: Asking):
    decided = [api.decide(f"clip {number}".encode()) for number in range(20)]
    preview = api.ask("POST", "/v1/policies/preview", "read", json=POLICY).json()
    assert api.ask("GET", "/v1/policies").json() == {"policies": []}
    effect = preview["effect"]
    assert effect["decisions"] == 20
    api.ask("POST", "/v1/policies", json=POLICY)
    again = [api.decide(f"clip {number}".encode()) for number in range(20)]
    assert effect["fires"] == sum(one.policies[0].fires for one in again)
    assert effect["changes"] == sum(
        one.decision != other.decision for one, other in zip(decided, again, strict=True)
    )
    assert effect["changes"] > 0


def test_versions_are_kept_and_a_retired_policy_never_fires(api: Asking):
    api.ask("POST", "/v1/policies", json=POLICY)
    api.ask("POST", "/v1/policies", json={**POLICY, "goal": 0.8})
    retired = api.ask("DELETE", "/v1/policies/take-down").json()
    assert (retired["version"], retired["retired"]) == (3, True)
    versions = api.ask("GET", "/v1/policies/take-down").json()["versions"]
    assert [(one["version"], one["goal"]) for one in versions] == [(1, 0.9), (2, 0.8), (3, 0.8)]
    (listed,) = api.ask("GET", "/v1/policies").json()["policies"]
    assert (listed["retired"], listed["threshold"]) == (True, None)
    assert api.decide().policies == ()


@pytest.mark.parametrize(
    "change",
    [
        {"label": "odd"},
        {"goal": 1.5},
        {"target": "recall"},
        {"id": "A B"},
        {"threshold": 0.5},
        {"owner": "x" * 300},
    ],
)
def test_a_policy_that_cannot_be_is_a_problem(api: Asking, change: dict):
    answer = api.ask("POST", "/v1/policies", json={**POLICY, **change})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert api.ask("GET", "/v1/policies/take-down").status_code == 404


def test_who_may_only_read_makes_no_policy(api: Asking):
    assert api.ask("POST", "/v1/policies", "read", "fit", json=POLICY).status_code == 403
    assert api.ask("DELETE", "/v1/policies/take-down", "read").status_code == 403


def test_without_a_champion_a_policy_waits_for_one(tmp_path: Path):
    with asking(tmp_path, make_held_out()) as api:
        with api.running.service.database.write() as connection:
            connection.execute("DELETE FROM aliases")
        made = api.ask("POST", "/v1/policies", json=POLICY).json()
        assert made["threshold"] is None
        assert api.ask("POST", "/v1/policies/preview", json=POLICY).status_code == 404
