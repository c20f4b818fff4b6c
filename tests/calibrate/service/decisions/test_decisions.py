import asyncio
import hashlib
import json
import sqlite3
from pathlib import Path

import pytest

from calibrate.classifier import CALIBRATION_FILE
from calibrate.service.decisions.decisions import DecisionFilter, is_drawn
from calibrate.service.decisions.outcome import outcome_of
from calibrate.service.problems import Problem
from tests.calibrate.service.deciding import (
    caller,
    deciding,
    make_evidence,
    make_held_out,
    make_policy,
    together,
)
from wire.errors import DiskFull


async def test_a_decision_is_whole_and_on_disk_when_it_is_answered(tmp_path: Path):
    with deciding(tmp_path) as parts:
        classifier = parts.classifier()
        record = await parts.decide(
            classifier, make_evidence(0.95), window=(1.0, 3.0), columns={"title": "a cat"}
        )
        with sqlite3.connect(tmp_path / "s.sqlite") as other:  # as after a kill
            (text,) = other.execute("SELECT record FROM decisions").fetchone()
        assert json.loads(text) == record.as_json()
        assert record.id.startswith("dec_")
        assert (record.label, record.decision, record.decided_by) == (
            "abnormal",
            "auto",
            "threshold",
        )
        assert record.probabilities["abnormal"] == pytest.approx(0.95)
        assert (record.clip.window, record.clip.frames) == ((1.0, 3.0), (0, 8, 16))
        content = (classifier.path / CALIBRATION_FILE).read_bytes()
        assert record.versions.calibrator == hashlib.sha256(content).hexdigest()[:12]
        assert (record.versions.classifier, record.versions.classifier_hash) == (
            1,
            classifier.hash,
        )
        assert record.review_id is None
        stored = await parts.decisions.get(record.id)
        assert stored.record == record
        assert stored.inputs.columns == {"title": "a cat"}


async def test_what_is_stored_gives_equal_probabilities_bit_for_bit(tmp_path: Path):
    with deciding(tmp_path) as parts:
        classifier = parts.classifier(held_out=make_held_out())
        await parts.policies.create(make_policy(), caller(), classifier)
        for number in range(1, 40):
            evidence = make_evidence(number / 40.0 + 1e-9)
            record = await parts.decide(classifier, evidence, f"{number}.mp4", alarm=None)
            stored = await parts.decisions.get(record.id)
            active = await parts.policies.active(classifier)
            again = outcome_of(stored.evidence, classifier.calibration, active)
            assert again.decision.probabilities == record.probabilities
            assert (again.action, again.policies) == (record.decision, record.policies)


async def test_a_decision_for_review_opens_one_in_the_same_transaction(tmp_path: Path):
    with deciding(tmp_path) as parts:
        record = await parts.decide(parts.classifier(), make_evidence(0.7))
        assert record.decision == "review"
        assert record.review_id is not None
        review = await parts.reviews.get(record.review_id)
        assert (review.decision_id, review.kind, review.weight) == (record.id, "review", 1.0)
        assert review.reasons == ("below_threshold",)
        (row,) = parts.audit.page(limit=9, action="decision.made")
        assert row.subject == f"decisions/{record.id}"
        assert parts.audit.verify() is None


async def test_a_share_of_automatic_decisions_is_drawn_for_people_with_its_weight(tmp_path: Path):
    with deciding(tmp_path, audit_share=0.25) as parts:
        classifier = parts.classifier()
        records = await together(
            400, lambda number: parts.decide(classifier, make_evidence(0.95), f"{number}.mp4")
        )
        drawn = [one for one in records if one.review_id]
        assert all(one.decision == "auto" for one in records)
        assert 65 <= len(drawn) <= 140
        assert all(is_drawn(one.id, 0.25) == (one.review_id is not None) for one in records)
        review = await parts.reviews.get(drawn[0].review_id)
        assert (review.kind, review.weight, review.reasons) == ("audit", 4.0, ())


async def test_a_decision_is_found_by_its_request(tmp_path: Path):
    with deciding(tmp_path) as parts:
        classifier = parts.classifier()
        record = await parts.decide(classifier, request_id="batch_1:7")
        await parts.decide(classifier, request_id="batch_1:8")
        assert await parts.decisions.of_request("batch_1:7") == record
        assert await parts.decisions.of_request("batch_1:9") is None


async def test_many_decisions_share_a_write(tmp_path: Path):
    with deciding(tmp_path) as parts:
        classifier = parts.classifier()
        records = await together(200, lambda number: parts.decide(classifier, name=f"{number}.mp4"))
        assert len({one.id for one in records}) == 200
        assert parts.decisions.num_writes < 40
        stored, _ = await parts.decisions.page(DecisionFilter(), 500, None)
        assert {one.id for one in stored} == {one.id for one in records}


async def test_decisions_are_never_changed_and_never_removed(tmp_path: Path):
    with deciding(tmp_path) as parts:
        await parts.decide(parts.classifier())
        for statement in ("UPDATE decisions SET label = 'x'", "DELETE FROM decisions"):
            with (
                pytest.raises(sqlite3.IntegrityError, match="decisions are never"),
                parts.database.write() as connection,
            ):
                connection.execute(statement)


async def test_a_full_disk_is_named_and_leaves_no_half_of_a_decision(tmp_path: Path):
    with deciding(tmp_path, audit_share=1.0) as parts:
        classifier = parts.classifier()
        with parts.database.write() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
        room = parts.database._writer
        room.execute(f"PRAGMA max_page_count = {pages}")
        long = make_evidence(0.95, trace="x" * 20_000)
        results = await asyncio.gather(
            *[parts.decide(classifier, long, f"{n}.mp4") for n in range(9)], return_exceptions=True
        )
        assert {type(one) for one in results} == {DiskFull}
        assert not parts.clips._holds
        room.execute("PRAGMA max_page_count = 100000")
        record = await parts.decide(classifier, long)
        stored, _ = await parts.decisions.page(DecisionFilter(), 9, None)
        waiting, _ = await parts.reviews.page("open", None, 9, None)
        assert (stored, [one.decision_id for one in waiting]) == ([record], [record.id])
        assert list(parts.clips._holds) == [record.clip.video_hash]


async def test_pages_hold_every_decision_once_newest_first(tmp_path: Path):
    with deciding(tmp_path) as parts:
        classifier = parts.classifier()
        made = [
            await parts.decide(classifier, make_evidence(0.95 if n % 2 else 0.7), f"{n}.mp4")
            for n in range(7)
        ]
        seen, cursor = [], None
        while True:
            page, cursor = await parts.decisions.page(DecisionFilter(), 3, cursor)
            seen += page
            if cursor is None:
                break
        assert seen == made[::-1]
        automatic, _ = await parts.decisions.page(DecisionFilter(decision="auto"), 9, None)
        assert automatic == made[::-1][1::2]
        one, _ = await parts.decisions.page(DecisionFilter(sample_id="3.mp4"), 9, None)
        assert one == [made[3]]
        later, _ = await parts.decisions.page(
            DecisionFilter(since=made[0].created_at, until="2000"), 9, None
        )
        assert later == []
        assert [s.record for s in await parts.decisions.latest(1, 2)] == made[:-3:-1]


@pytest.mark.parametrize("cursor", ["", "-1", "x", "1e3", "9" * 30, "\0"])
async def test_a_cursor_that_is_none_is_refused(tmp_path: Path, cursor: str):
    with deciding(tmp_path) as parts, pytest.raises(Problem, match="is no cursor"):
        await parts.decisions.page(DecisionFilter(), 3, cursor)


async def test_there_is_no_decision_of_another_id(tmp_path: Path):
    with deciding(tmp_path) as parts, pytest.raises(Problem, match="there is no decision 'dec_9'"):
        await parts.decisions.get("dec_9")
