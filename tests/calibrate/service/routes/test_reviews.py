import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from calibrate.service.decisions.record import DecisionRecord
from rollout.manifest import read_manifest
from tests.calibrate.service.deciding import make_held_out
from tests.calibrate.service.routes.asking import Asking, asking
from wire.labels import Label, LabelSet


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Asking]:
    with asking(tmp_path, audit_share=1.0) as service:
        yield service


def decided(api: Asking, action: str, num: int = 1) -> list[DecisionRecord]:
    """The first decisions with this action of as many clips as it takes."""
    made = (api.decide(f"clip {number}".encode()) for number in range(200))
    wanted = (one for one in made if one.decision == action)
    return [next(wanted) for _ in range(num)]


def lease(api: Asking, by: str, n: int = 1) -> list[dict[str, Any]]:
    answer = api.ask("POST", "/v1/reviews/lease", "review", by=by, json={"n": n, "seconds": 60})
    assert answer.status_code == 200
    return list(answer.json()["reviews"])


def complete(api: Asking, review_id: str | None, by: str, **body: Any) -> Any:
    return api.ask("POST", f"/v1/reviews/{review_id}/complete", "review", by=by, json=body)


def test_a_review_comes_with_its_decision_and_is_answered(api: Asking):
    (record,) = decided(api, "review")
    (leased,) = lease(api, "ada")
    assert leased["decision"] == record.as_json()
    assert leased["reasons"] == [one.code for one in record.reasons]
    assert leased["leased_until"] > leased["created_at"]
    other = next(name for name in record.probabilities if name != record.label)
    done = complete(api, leased["id"], "ada", verdict="overturn", label=other, note="look at 3 s")
    assert done.status_code == 200
    assert (done.json()["outcome"], done.json()["overturned"]) == (other, True)
    shown = api.ask("GET", f"/v1/reviews/{leased['id']}", "review").json()
    assert shown["answers"][0]["note"] == "look at 3 s"
    assert shown["decision"]["id"] == record.id


def test_two_people_never_have_the_same_review(api: Asking):
    decided(api, "review", 3)
    first, second = lease(api, "ada", 2), lease(api, "bob", 99)
    assert not {one["id"] for one in first} & {one["id"] for one in second}
    assert complete(api, first[0]["id"], "bob", label=None).status_code == 409
    released = api.ask("POST", f"/v1/reviews/{first[0]['id']}/release", "review", by="ada")
    assert released.status_code == 200
    assert [one["id"] for one in lease(api, "cat", 9)] == [first[0]["id"]]


def test_automatic_decisions_are_audited_and_counted_apart(api: Asking):
    (record,) = decided(api, "auto")
    audits = api.ask("GET", "/v1/reviews?kind=audit").json()["reviews"]
    assert record.review_id in {one["id"] for one in audits}
    for one in lease(api, "ada", 99):
        complete(api, one["id"], "ada", label="normal")
    stats = api.ask("GET", "/v1/reviews/stats", "review").json()
    reviewed, audited = stats["overturned"]
    assert stats["queue"]["waiting"] == 0
    assert (audited["kind"], audited["answered"]) == ("audit", len(audits))
    assert reviewed["answered"] + audited["answered"] == len(
        api.ask("GET", "/v1/reviews?state=done&limit=500").json()["reviews"]
    )


def test_the_risk_of_automatic_decisions_is_watched_by_promise(tmp_path: Path):
    with asking(tmp_path, make_held_out(), audit_share=1.0) as api:
        decided(api, "auto", 2)
        policy = {"id": "p", "label": "abnormal", "target": "precision", "goal": 0.9}
        policy |= {"action": "auto", "owner": "me"}
        api.ask("POST", "/v1/policies", json=policy)
        (by_policy,) = decided(api, "auto")
        assert by_policy.decided_by == "policies"
        num_wrong = 0
        for one in lease(api, "ada", 99):
            if one["kind"] == "audit":
                other = next(
                    name for name in one["decision"]["probabilities"] if name != one["label"]
                )
                complete(api, one["id"], "ada", label=other)
                num_wrong += 1
        risks = api.ask("GET", "/v1/reviews/risk", "review").json()["risks"]
        assert [one["promise"] for one in risks] == ["threshold", "policy p@1"]
        assert sum(one["wrong"] for one in risks) == num_wrong
        assert (risks[1]["audited"], risks[1]["max_error"]) == (1, pytest.approx(0.1))
        assert risks[1]["evidence"] > 1


def test_two_answers_of_a_double_give_kappa(tmp_path: Path):
    with asking(tmp_path, audit_share=1.0, double_blind_share=1.0) as api:
        for number in range(6):
            api.decide(f"clip {number}".encode())
        for by in ("ada", "bob"):
            for place, one in enumerate(lease(api, by, 99)):
                assert one["answers"] == []
                complete(api, one["id"], by, label="normal" if place % 2 else "abnormal")
        agreement = api.ask("GET", "/v1/reviews/stats").json()["agreement"]
        assert (agreement["pairs"], agreement["agreed"], agreement["kappa"]) == (6, 6, 1.0)


def test_labels_come_back_as_a_manifest_that_is_read(api: Asking, tmp_path: Path):
    for number in range(6):
        api.decide(f"clip {number}".encode(), columns={"lang": "en"}, window=(0.0, 1.0))
    leased = lease(api, "ada", 99)
    for one in leased:
        complete(api, one["id"], "ada", label="normal")
    removed = leased[0]["decision"]["clip"]["video_hash"]
    api.running.service.clips.remove(removed)
    answer = api.ask("GET", "/v1/reviews/labels?split=train", "review")
    assert answer.headers["X-Labels-Without-Clip"] == "1"
    file = tmp_path / "labels.jsonl"
    file.write_bytes(answer.content)
    labels = LabelSet(labels=(Label(name="abnormal"), Label(name="normal")))
    samples = read_manifest(file, labels)
    assert len(samples) == 5
    assert {one.label for one in samples} == {"normal"}
    assert {one.split for one in samples} == {"train"}
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert all(Path(row["video"]).read_bytes().startswith(b"clip ") for row in rows)
    assert all(row["lang"] == "en" for row in rows)
    assert {row["overturned"] for row in rows} <= {True, False}
    assert api.ask("GET", "/v1/reviews/labels?split=test").status_code == 422


def test_labels_of_clips_below_a_root_name_them_wherever_the_request_began(tmp_path: Path):
    root = tmp_path / "clips"
    root.mkdir()
    for name in ("kept", "changed", "gone"):
        (root / f"{name}.mp4").write_bytes(b"clip " + name.encode())
    with asking(tmp_path, audit_share=1.0, roots=(root,)) as api:
        for name in ("kept", "changed", "gone"):
            body = {"video": {"path": f"{name}.mp4"}}
            assert api.ask("POST", "/v1/classify", json=body).status_code == 200
        for one in lease(api, "ada", 9):
            complete(api, one["id"], "ada", label="normal")
        (root / "changed.mp4").write_bytes(b"clip other")
        (root / "gone.mp4").unlink()
        answer = api.ask("GET", "/v1/reviews/labels", "review")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["video"] for row in rows] == [str(root / "kept.mp4")]
    assert answer.headers["X-Labels-Without-Clip"] == "2"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"label": "odd"}, 422),
        ({"label": "normal", "verdict": "cannot_tell"}, 422),
        ({"label": None, "verdict": "confirm"}, 422),
        ({"label": 5}, 422),
        ({"lable": "normal"}, 422),
    ],
)
def test_an_answer_that_is_none_is_a_problem(api: Asking, body: dict, status: int):
    decided(api, "review")
    (leased,) = lease(api, "ada")
    assert complete(api, leased["id"], "ada", **body).status_code == status
    wrong = "overturn" if leased["label"] == "normal" else "confirm"
    assert complete(api, leased["id"], "ada", verdict=wrong, label="normal").status_code == 422
    assert complete(api, leased["id"], "ada", verdict="cannot_tell").status_code == 200


def test_what_is_not_there_is_a_404_and_what_is_not_allowed_a_403(api: Asking):
    assert api.ask("GET", "/v1/reviews/none").status_code == 404
    assert api.ask("POST", "/v1/reviews/none/release").status_code == 404
    assert complete(api, "none", "ada", label=None).status_code == 404
    for method, path in (
        ("GET", "/v1/reviews"),
        ("POST", "/v1/reviews/lease"),
        ("GET", "/v1/reviews/labels"),
    ):
        assert api.ask(method, path, "read", "classify", json={}).status_code == 403
    assert api.ask("POST", "/v1/reviews/lease", json={"n": 0}).status_code == 422
    assert api.ask("POST", "/v1/reviews/lease", json={"seconds": 1e9}).status_code == 422
