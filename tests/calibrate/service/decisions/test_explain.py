from dataclasses import replace
from pathlib import Path

import pytest

from calibrate.conformal import fit_sets
from calibrate.service.decisions.explain import Explanation, explain, replayed
from tests.calibrate.service.deciding import (
    NAMES,
    Deciding,
    caller,
    deciding,
    make_calibration,
    make_evidence,
    make_held_out,
    make_policy,
)


async def explained(parts: Deciding, record_id: str, **changes) -> Explanation:
    stored = replace(await parts.decisions.get(record_id), **changes)
    classifier = parts.registry.get(stored.record.versions.classifier)
    wanted = [(one.id, one.version) for one in stored.record.policies]
    policies = await parts.policies.at(wanted, classifier)
    return explain(stored, classifier, policies, decided_by="automated means", outcome=None)


@pytest.mark.parametrize(
    "evidence",
    [
        make_evidence(0.3333333333333333),
        make_evidence(1e-300),
        make_evidence(parsed=False),
        make_evidence(logprobs={"policy": (float("nan"), float("nan"))}),
        make_evidence(logprobs={"policy": (0.0, float("-inf"))}),
    ],
)
async def test_whatever_was_decided_is_recomputed_equal(tmp_path: Path, evidence):
    with deciding(tmp_path) as parts:
        held_out = make_held_out()
        part = held_out.held_out
        sets = (fit_sets(part.probabilities, part.truth, NAMES, 0.9),)
        classifier = parts.classifier(calibration=make_calibration(sets=sets), held_out=held_out)
        await parts.policies.create(make_policy(), caller(), classifier)
        for alarm in (None, "shift: traces are longer"):
            record = await parts.decide(classifier, evidence, alarm=alarm)
            result = await explained(parts, record.id)
            assert (result.equal, result.differences) == (True, ())
            assert result.recomputed.probabilities == record.probabilities
            assert result.model_dump_json()


async def test_sources_are_shown_with_weight_and_what_each_says_alone(tmp_path: Path):
    with deciding(tmp_path) as parts:
        evidence = make_evidence(
            logprobs={"policy": (-0.5, -1.0), "vote": (0.0, float("-inf"))}, votes={"abnormal": 4}
        )
        record = await parts.decide(parts.classifier(), evidence)
        result = await explained(parts, record.id)
        policy, vote = result.sources["policy"], result.sources["vote"]
        assert (policy.weight, vote.weight) == (1.0, 0.0)
        assert policy.logprobs == {"abnormal": -0.5, "normal": -1.0}
        assert vote.logprobs["normal"] == "-inf"
        assert vote.probabilities == {"abnormal": 1.0, "normal": 0.0}
        assert policy.probabilities == pytest.approx({"abnormal": 0.6225, "normal": 0.3775}, 1e-3)
        assert result.formula == "1 x policy"
        assert result.votes == {"abnormal": 4}


async def test_other_evidence_than_that_recorded_is_told(tmp_path: Path):
    with deciding(tmp_path) as parts:
        record = await parts.decide(parts.classifier(), make_evidence(0.95))
        result = await explained(parts, record.id, evidence=make_evidence(0.05))
        names = [one.partition(":")[0] for one in result.differences]
        assert names == ["probabilities", "label"]
        last_bit = make_evidence(logprobs={"policy": (-0.05129329438755058, -2.9957322735539895)})
        almost = await explained(parts, record.id, evidence=last_bit)
        assert [one.partition(":")[0] for one in almost.differences] == ["probabilities"]


async def test_a_replay_tells_the_largest_difference(tmp_path: Path):
    with deciding(tmp_path) as parts:
        classifier = parts.classifier()
        record = await parts.decide(classifier, make_evidence(0.7))
        near = replayed(record, make_evidence(0.68), classifier.calibration)
        assert near.largest_difference == pytest.approx(0.02)
        assert (near.same_label, near.same_trace) == (True, True)
        other = make_evidence(0.4, trace="another", video_hash="other bytes")
        far = replayed(record, other, classifier.calibration)
        assert (far.same_label, far.same_trace) == (False, False)
        assert "differ by at most 0.3; the trace is another; the clip has changed" in far.detail
