from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from calibrate.service.decisions.record import evidence_to_json
from tests.calibrate.service.deciding import make_held_out
from tests.calibrate.service.routes.asking import Asking, asking


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Asking]:
    with asking(tmp_path, make_held_out()) as service:
        yield service


def test_a_decision_is_read_listed_and_found_again(api: Asking):
    made = [api.decide(f"clip {number}".encode()) for number in range(5)]
    assert api.ask("GET", f"/v1/decisions/{made[0].id}", "read").json() == {
        **made[0].as_json(),
        "review": api.ask("GET", f"/v1/decisions/{made[0].id}").json()["review"],
    }
    first = api.ask("GET", "/v1/decisions?limit=3").json()
    rest = api.ask("GET", f"/v1/decisions?limit=3&cursor={first['next_cursor']}").json()
    every = [one["id"] for one in first["decisions"] + rest["decisions"]]
    assert every == [one.id for one in made[::-1]]
    assert rest["next_cursor"] is None
    same = api.ask("GET", "/v1/decisions", params={"video_hash": made[2].clip.video_hash}).json()
    assert [one["id"] for one in same["decisions"]] == [made[2].id]


def test_times_may_be_of_any_zone(api: Asking):
    at = datetime.fromisoformat(api.decide().created_at)
    zone = timezone(timedelta(hours=5))
    for since, num in ((at, 1), (at + timedelta(seconds=1), 0), (at - timedelta(days=1), 1)):
        for text in (since.astimezone(zone).isoformat(), since.replace(tzinfo=None).isoformat()):
            answer = api.ask("GET", "/v1/decisions", params={"since": text})
            assert len(answer.json()["decisions"]) == num, text
            answer = api.ask("GET", "/v1/decisions", params={"until": text})
            assert len(answer.json()["decisions"]) == 1 - num, text
    for text in ("yesterday", "0001-01-01T00:00:00+05:00"):
        assert api.ask("GET", "/v1/decisions", params={"since": text}).status_code == 422


def test_metrics_count_decisions_and_what_waits(api: Asking):
    made = [api.decide(f"clip {number}".encode()) for number in range(9)]
    text = api.ask("GET", "/metrics", "read").text
    counts = [
        line
        for line in text.splitlines()
        if line.startswith("deepintuit_decisions_total") and 'classifier="1"' in line
    ]
    assert sum(float(line.split()[-1]) for line in counts) == 9
    waiting = sum(one.decision == "review" for one in made)
    assert f"deepintuit_reviews_waiting {waiting}.0" in text


def test_an_explanation_recomputes_to_equal_probabilities(api: Asking):
    api.ask("POST", "/v1/policies", json=POLICY)
    for number in range(8):
        record = api.decide(f"clip {number}".encode())
        explained = api.ask("GET", f"/v1/decisions/{record.id}/explain", "read").json()
        assert (explained["equal"], explained["differences"]) == (True, [])
        assert explained["recomputed"]["probabilities"] == record.probabilities
        assert explained["recomputed"]["decision"] == record.decision
        assert "x policy" in explained["formula"]
        assert explained["shown"]["frames"] == [0, 8, 16]
        assert explained["rationale"] == record.trace
        assert "not the cause of the decision" in explained["rationale_note"]
        (policy,) = explained["policies"]
        assert (policy["id"], policy["version"], policy["owner"]) == ("take-down", 1, "safety team")
        assert "held-out clips" in policy["threshold"]
        assert policy["promise"].startswith("of the clips it fires at, at least 90% are abnormal")
        assert explained["detected_by"] == "automated means"
        waits = record.decision == "review"
        assert explained["decided_by"] == (
            "nobody yet: it waits for a person" if waits else "automated means"
        )


def test_a_decision_keeps_the_policies_of_its_time(api: Asking):
    api.ask("POST", "/v1/policies", json=POLICY)
    record = api.decide()
    api.ask("POST", "/v1/policies", json={**POLICY, "goal": 0.7, "owner": "others"})
    api.ask("DELETE", "/v1/policies/take-down")
    explained = api.ask("GET", f"/v1/decisions/{record.id}/explain").json()
    assert explained["equal"]
    assert [(one["version"], one["owner"]) for one in explained["policies"]] == [(1, "safety team")]


def test_a_change_of_what_is_kept_is_seen(api: Asking):
    """As somebody would who writes into the state's file."""
    record = api.decide()
    stored = api.inside(lambda service: service.decisions.get(record.id))
    text = evidence_to_json(stored.evidence).replace("-", "-1", 1)
    with api.running.service.database.write() as connection:
        connection.execute("DROP TRIGGER decisions_never_change")
        connection.execute("UPDATE decisions SET evidence = ? WHERE id = ?", (text, record.id))
    explained = api.ask("GET", f"/v1/decisions/{record.id}/explain").json()
    assert explained["equal"] is False
    assert explained["differences"][0].startswith("probabilities: ")


def test_a_replay_asks_the_engine_again_about_the_kept_clip(api: Asking):
    record = api.decide(window=(0.0, 1.0))
    num_asked = len(api.backend.asked)
    explained = api.ask("GET", f"/v1/decisions/{record.id}/explain?replay=true").json()
    (_, clip, view) = api.backend.asked[num_asked]
    assert (clip.id, clip.window, view) == (record.sample_id, (0.0, 1.0), None)
    assert explained["replay"]["largest_difference"] == 0.0
    assert explained["replay"]["same_trace"] is True
    assert explained["replay"]["probabilities"] == record.probabilities
    assert len(api.ask("GET", "/v1/decisions").json()["decisions"]) == 1  # no new decision


def test_a_control_shows_whether_the_label_changes(api: Asking):
    record = api.decide()
    explained = api.ask("GET", f"/v1/decisions/{record.id}/explain?control=shuffled").json()
    control = explained["control"]
    assert control["view"] == "shuffled"
    assert control["label_changed"] == (control["label"] != record.label)
    assert 0 < control["total_variation"] <= 1
    assert explained["replay"] is None
    at_once = api.decide(view="blank")
    assert at_once.control is not None
    kept = api.ask("GET", f"/v1/decisions/{at_once.id}/explain").json()["control"]
    assert kept == at_once.control.model_dump(mode="json")


def test_a_clip_that_is_not_kept_any_longer_cannot_be_replayed_but_is_explained(api: Asking):
    record = api.decide()
    assert api.running.service.clips.remove(record.clip.video_hash)
    answer = api.ask("GET", f"/v1/decisions/{record.id}/explain?replay=true")
    assert (answer.status_code, answer.json()["type"]) == (410, "urn:deepintuit:problem:clip-gone")
    assert api.ask("GET", f"/v1/decisions/{record.id}/explain").json()["equal"] is True


def test_a_person_decides_what_waits_for_one(api: Asking):
    record = next(
        one
        for one in (api.decide(f"clip {number}".encode()) for number in range(99))
        if one.decision == "review"
    )
    api.ask("POST", "/v1/reviews/lease", json={"n": 99})
    api.ask("POST", f"/v1/reviews/{record.review_id}/complete", json={"label": "normal"})
    explained = api.ask("GET", f"/v1/decisions/{record.id}/explain").json()
    assert (explained["decided_by"], explained["outcome"]) == ("people: ada", "normal")
    review = api.ask("GET", f"/v1/decisions/{record.id}").json()["review"]
    assert review["overturned"] == (record.label != "normal")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/decisions/dec_none", 404),
        ("/v1/decisions/dec_none/explain", 404),
        ("/v1/decisions?cursor=x", 422),
        ("/v1/decisions?limit=0", 422),
        ("/v1/decisions?classifier=99999999999999999999", 422),
        ("/v1/decisions?decision=maybe", 422),
    ],
)
def test_what_cannot_be_answered_is_a_problem(api: Asking, path: str, status: int):
    answer = api.ask("GET", path)
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert api.ask("GET", path, "classify").status_code == 403


POLICY = {
    "id": "take-down",
    "label": "abnormal",
    "target": "precision",
    "goal": 0.9,
    "action": "auto",
    "owner": "safety team",
}
