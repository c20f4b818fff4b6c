"""The client against a service that runs: every method, on real routes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from calibrate.client.async_client import AsyncClient
from calibrate.client.calls import Clip, OnServer
from calibrate.client.client import Client
from calibrate.client.errors import ProblemError
from calibrate.client.results import Decision
from calibrate.client.retries import Retries
from tests.calibrate.service.classifying import Classifying, classifying


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Classifying]:
    with classifying(tmp_path, versions=2, audit_share=1.0, max_loaded=2) as one:
        yield one


@pytest.fixture
def client(service: Classifying) -> Iterator[Client]:
    with Client(service.url, service.token(), retries=Retries(seconds=5)) as one:
        yield one


def test_a_decision_is_made_listed_read_and_explained(service: Classifying, client: Client):
    path = service.clip("a.mp4")
    sent = client.classify(path)
    there = client.classify(Clip(video=OnServer(path=str(path)), id=sent.raw["sample_id"]))
    assert there.probabilities == sent.probabilities
    assert sum(sent.probabilities.values()) == pytest.approx(1)
    assert client.decision(sent.id).probabilities == sent.probabilities
    assert [one.id for one in client.decisions()] == [there.id, sent.id]
    assert list(client.decisions(label="no such label")) == []
    assert client.explain(sent.id, replay=True)["replay"] is not None


def test_many_pages_of_decisions_are_read(service: Classifying, client: Client):
    clips = [Clip(video=service.clip(f"{n}.mp4"), id=str(n)) for n in range(120)]
    answers = list(client.classify_many(clips, control="blank"))
    assert all(isinstance(one, Decision) and one.control is not None for one in answers)
    assert {one.id for one in client.decisions()} == {getattr(one, "id", "") for one in answers}


def test_versions_are_listed_promoted_and_rolled_back(service: Classifying, client: Client):
    assert [one.version for one in client.classifiers()] == [1, 2]
    assert client.classifier().version == 1
    assert client.classifier(2).label_names == ("abnormal", "normal")
    client.promote(2, reason="better", expected_champion=1)
    assert client.classify(service.clip("a.mp4")).versions.classifier == 2
    assert client.classify(service.clip("a.mp4"), classifier=1).versions.classifier == 1
    client.roll_back(reason="worse", expected_champion=2)
    assert client.classifier("champion").version == 1
    with pytest.raises(ProblemError) as raised:
        client.promote(2, expected_champion=2)
    assert raised.value.status == 409


def test_reviews_are_leased_answered_and_come_back_as_labels(service: Classifying, client: Client):
    decisions = [client.classify(service.clip(f"{n}.mp4")) for n in range(3)]
    leased = client.lease_reviews(3)
    assert {one.decision_id for one in leased} == {one.id for one in decisions}
    client.complete_review(leased[0].id, "normal", note="clear")
    client.complete_review(leased[1].id, None)
    client.release_review(leased[2].id)
    assert [row["label"] for row in client.review_labels()] == ["normal"]


def test_fits_are_listed_and_bad_ones_refused(client: Client):
    assert client.fits() == []
    with pytest.raises(ProblemError) as raised:
        client.fit("no such archive")
    assert raised.value.status in (403, 404, 422)
    for call in (client.fit_job, client.cancel_fit):
        with pytest.raises(ProblemError) as raised:
            call("fit_nothing")
        assert raised.value.status == 404


async def test_the_async_client_reaches_the_same_service(service: Classifying):
    async with AsyncClient(service.url, service.token()) as client:
        decision = await client.classify(service.clip("a.mp4"))
        assert (await client.decision(decision.id)).label == decision.label
        assert [one.id async for one in client.decisions()] == [decision.id]
        assert (await client.classifier()).version == 1


def test_a_full_queue_is_waited_for_and_every_clip_is_decided_once(tmp_path: Path):
    with classifying(tmp_path, max_in_flight=1, max_queue=2) as service:
        service.backend.delay_s = 0.02
        clips = [Clip(video=service.clip(f"{n}.mp4"), id=str(n)) for n in range(9)]
        with Client(service.url, service.token(), retries=Retries(seconds=60)) as client:
            answers = list(client.classify_many(clips[:3], concurrency=1))  # its rate is known now
            answers += client.classify_many(clips[3:], concurrency=6)
            assert all(isinstance(one, Decision) for one in answers)
            assert len(list(client.decisions())) == 9
        assert service.running.service.serving.admission.num_refused > 0
