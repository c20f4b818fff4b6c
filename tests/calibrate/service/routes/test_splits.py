"""A label of a registered classifier is split over HTTP; the policy's texts are real."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from calibrate.classifier import load_classifier
from calibrate.client.client import Client
from calibrate.client.errors import ProblemError
from calibrate.service.caller import SCOPES, Scope
from calibrate.splitting.classifier_edit import read_record
from cluster.demo.tiny_model import BASE_DIR
from tests.calibrate.service.fakes import ScriptedBackend
from tests.calibrate.service.running import Running, make_config, make_parts, running
from tests.calibrate.splitting.head_classifiers import COARSE, NAMES, PARTS, publish_head

SPLIT = {"label": COARSE, "into": list(PARTS), "method": "retrieval"}


@dataclass
class Api:
    client: httpx.Client
    service: Running
    root: Path

    def ask(self, method: str, path: str, *scopes: Scope, **options: Any) -> httpx.Response:
        headers = self.service.headers(*(scopes or SCOPES))
        return self.client.request(method, path, headers=headers, timeout=60, **options)

    def register(self, name: str = "parent", **changes: Any) -> int:
        parent = publish_head(self.root / name, policy=BASE_DIR, **changes)
        made = self.ask("POST", "/v1/classifiers", json={"path": str(parent.path)})
        return int(made.json()["version"])

    def split(self, ref: int | str, *scopes: Scope, **changes: Any) -> httpx.Response:
        path = f"/v1/classifiers/{ref}/split"
        return self.ask("POST", path, *scopes, json=SPLIT | changes)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    root = tmp_path / "root"
    root.mkdir()
    parts = make_parts(backend=ScriptedBackend())
    with (
        running(make_config(tmp_path, roots=(root,)), parts) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        yield Api(client, service, root)


def test_a_split_is_a_new_version_that_nothing_promotes_and_the_audit_log_has(api: Api) -> None:
    version = api.register()
    shown = api.split(version, "fit")
    assert (shown.status_code, shown.json()["type"]) == (
        422,
        "urn:deepintuit:problem:phrases-proposed",
    )
    assert shown.json()["modifiers"]["left then up"] == "up"
    texts = {name: shown.json()[name] for name in ("groups", "modifiers")}
    made = api.split(version, "fit", **texts)
    assert made.status_code == 201, made.text
    assert made.headers["Location"] == f"/v1/classifiers/{made.json()['version']}"
    assert made.json()["label_names"] == sorted({*NAMES, *PARTS} - {COARSE})
    assert api.ask("GET", "/v1/aliases").json()["champion"] is None
    rows = api.ask("GET", "/v1/audit").json()
    (row,) = [r for r in rows["rows"] if f"split of version {version}" in str(r)]
    assert row["action"] == "classifier.registered"
    # the version before is as it was
    assert api.ask("GET", f"/v1/classifiers/{version}").json()["label_names"] == list(NAMES)


def test_the_same_split_is_registered_once_and_keeps_its_record(api: Api, tmp_path: Path) -> None:
    version = api.register()
    first, again = (api.split(version, accept_proposed=True) for _ in range(2))
    assert first.json()["version"] == again.json()["version"]
    folder = next(tmp_path.rglob(f"classifiers/{first.json()['version']}"))
    record = read_record(load_classifier(folder))
    assert (record.method, record.encoder, record.label) == ("retrieval", "policy", COARSE)
    assert not list(tmp_path.rglob("made-*")), "the folder that it was made in is gone"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label": "lefft"}, "did you mean 'left'"),
        ({"into": ["left then up", "up then up"]}, "labels of the classifier already"),
        (
            {"modifiers": {"left then upp": "up"}, "groups": {"u": ["up then upp", "up then up"]}},
            "upp",
        ),
        ({"encoder": "/etc"}, "encoder"),
        ({"into": ["one"]}, "into"),
        ({"into": ["left " * 5000 + "up", "left " * 5000 + "down"]}, "200 characters"),
    ],
)
def test_what_cannot_be_split_is_a_problem_and_registers_nothing(
    api: Api, changes: dict[str, Any], says: str
) -> None:
    version = api.register()
    refused = api.split(version, accept_proposed=True, **changes)
    assert refused.status_code == 422
    assert says in refused.text
    assert len(api.ask("GET", "/v1/classifiers").json()["classifiers"]) == 1


def test_a_head_that_reads_traces_is_refused_and_so_is_who_may_only_read(api: Api) -> None:
    version = api.register(head_features="trace")
    refused = api.split(version, accept_proposed=True)
    assert (refused.status_code, "head_features=video" in refused.text) == (422, True)
    assert api.split(version, "read").status_code == 403
    assert api.split(99).status_code == 404


def test_the_client_splits_and_shows_what_is_proposed(api: Api) -> None:
    version = api.register()
    token = api.service.headers(*SCOPES)["Authorization"].removeprefix("Bearer ")
    with Client(api.service.url, token) as client:
        with pytest.raises(ProblemError) as problem:
            client.split(COARSE, PARTS, ref=version, method="retrieval")
        assert problem.value.slug == "phrases-proposed"
        made = client.split(COARSE, PARTS, ref=version, method="retrieval", accept_proposed=True)
        assert made.version == version + 1


def test_where_a_version_is_from_is_short_for_many_parts(api: Api) -> None:
    parts = [f"left then {n}" for n in range(50)]
    made = api.split(api.register(), accept_proposed=True, into=parts, method="argmax")
    assert made.json()["source"] == f"split of version 1: {COARSE!r} into 50 labels"


def test_a_policy_of_a_split_classifier_says_why_it_has_no_threshold(api: Api) -> None:
    made = api.split(api.register(), accept_proposed=True).json()["version"]
    assert api.ask("POST", f"/v1/classifiers/{made}/promote", json={}).status_code == 200
    policy = {
        "id": "up",
        "label": PARTS[-1],
        "target": "precision",
        "goal": 0.9,
        "action": "auto",
        "owner": "us",
    }
    shown = api.ask("POST", "/v1/policies", json=policy)
    assert "no clip of its parts was held out" in shown.text
    assert "earlier version" not in shown.text
