"""The pipeline, by a scripted engine: rows and their order, failures, controls, observers."""

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from calibrate.decision import Evidence, decide_from
from cluster.classify.rows import Row
from rollout.render import Renderer
from tests.cluster.classify.answering_fakes import (
    Clips,
    ScriptedEngine,
    make_pipeline,
    make_renderer,
    sample,
    write,
)
from video.address import View
from wire.errors import ClipError, ClipUnreachable, DeadlineExceeded, GenerationError
from wire.types import Failure, Sample, stable_seed


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return make_renderer()


async def all_rows(pipeline: Any, videos: list[str], control: View | None = None) -> list[Row]:
    return [row async for row in pipeline.classify_all(map(sample, videos), control)]


async def test_a_clip_is_answered_calibrated_and_decided(renderer: Renderer) -> None:
    first = {name: renderer.target(name)[0] for name in ("repeat", "undo", "varied")}
    scores = {first["repeat"]: -1.0, first["undo"]: -0.2, first["varied"]: -3.0}
    engine = ScriptedEngine(renderer, logprob=lambda video, code: scores[code[0]])
    row = await make_pipeline(engine, renderer, weights={"verdict": 2.0}).classify(
        sample("a.mp4", "undo")
    )
    powers = np.exp(2 * np.array([-1.0, -0.2, -3.0]))
    expected = powers / powers.sum()
    assert (row.id, row.video, row.label, row.truth) == ("a.mp4", "a.mp4", "undo", "undo")
    assert row.probabilities is not None
    assert list(row.probabilities) == ["repeat", "undo", "varied"]
    assert list(row.probabilities.values()) == pytest.approx(expected)
    assert (row.decision, row.reasons, row.failure) == ("auto", (), None)
    assert row.trace == "<think>left then left</think><answer>undo</answer>"
    assert row.versions.policy == "0.7"
    (sampling,) = engine.samplings
    assert sampling.temperature == 0.01, "as the policy is measured"
    assert sampling.seed == stable_seed("evaluate", 0, "a.mp4")


async def test_a_trace_that_cannot_be_parsed_is_for_review(renderer: Renderer) -> None:
    engine = ScriptedEngine(renderer, write("left then left"))
    row = await make_pipeline(engine, renderer).classify(sample("a.mp4"))
    assert row.decision == "review"
    assert "unparsed" in [reason.code for reason in row.reasons]
    assert row.label is not None, "the verdict reads such a trace, too"


async def test_a_policy_that_says_nothing_gives_every_label_the_same(renderer: Renderer) -> None:
    engine = ScriptedEngine(renderer, write("left"))
    pipeline = make_pipeline(engine, renderer, weights={"policy": 1.0, "verdict": 1.0})
    row = await pipeline.classify(sample("a.mp4"))
    assert row.probabilities is not None
    assert list(row.probabilities.values()) == pytest.approx([1 / 3] * 3)
    assert row.decision == "review"


async def test_rows_come_in_the_order_of_the_clips_and_few_are_in_flight(
    renderer: Renderer,
) -> None:
    engine = ScriptedEngine(renderer)
    pipeline = make_pipeline(engine, renderer, in_flight=3)
    asked: list[str] = []

    def clips() -> Any:
        for number in range(40):
            asked.append(f"{number}.mp4")
            yield sample(f"{number}.mp4")

    seen = []
    async for row in pipeline.classify_all(clips()):
        seen.append(row.id)
        assert len(asked) - len(seen) <= 3, "no more clips are taken up than may be in flight"
    assert seen == [f"{number}.mp4" for number in range(40)]
    assert engine.most_running <= 3


async def test_a_clip_twice_has_the_same_answer_twice(renderer: Renderer) -> None:
    engine = ScriptedEngine(renderer)
    one, other = await all_rows(make_pipeline(engine, renderer), ["a.mp4", "a.mp4"])
    assert one.probabilities == other.probabilities
    assert engine.samplings[0].seed == engine.samplings[1].seed


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ClipError("cannot read bad.mp4: the file is empty"), "decode"),
        (ClipUnreachable("cannot read bad.mp4: I/O error"), "disk"),
        (DeadlineExceeded("bad.mp4 took too long"), "decode"),
    ],
)
async def test_a_bad_clip_is_a_row_with_its_failure_and_others_go_on(
    renderer: Renderer, error: Any, kind: str
) -> None:
    engine = ScriptedEngine(renderer)
    pipeline = make_pipeline(engine, renderer, clips=Clips({"bad.mp4": error}))
    rows = await all_rows(pipeline, ["a.mp4", "bad.mp4", "b.mp4"])
    assert [row.failure is None for row in rows] == [True, False, True]
    bad = rows[1]
    assert bad.failure is not None
    assert (bad.failure.kind, bad.failure.culprit) == (kind, "bad.mp4")
    assert (bad.label, bad.probabilities, bad.decision) == (None, None, "review")
    values = bad.as_json()
    assert values["failure"] == {"kind": kind, "culprit": "bad.mp4", "reason": str(error)}


async def test_a_request_that_an_engine_refuses_is_a_failure_of_its_clip(
    renderer: Renderer,
) -> None:
    engine = ScriptedEngine(renderer, error=GenerationError("the prompt is too long"))
    (row,) = await all_rows(make_pipeline(engine, renderer), ["a.mp4"])
    assert row.failure is not None
    assert (row.failure.kind, row.failure.reason) == ("generation", "the prompt is too long")


async def test_an_engine_that_is_gone_ends_it(renderer: Renderer) -> None:
    engine = ScriptedEngine(renderer, error=GenerationError("lost"))
    engine.is_alive = False
    with pytest.raises(GenerationError, match="process has ended: lost"):
        await all_rows(make_pipeline(engine, renderer), ["a.mp4", "b.mp4"])


async def test_who_stops_taking_rows_leaves_nothing_running(renderer: Renderer) -> None:
    pipeline = make_pipeline(ScriptedEngine(renderer), renderer)
    before = asyncio.all_tasks()
    rows = pipeline.classify_all(sample(f"{number}.mp4") for number in range(99))
    assert (await anext(rows)).id == "0.mp4"
    await rows.aclose()
    assert asyncio.all_tasks() == before


# --- evidence alone, for a service


async def test_the_evidence_of_a_clip_is_what_its_row_is_decided_from(renderer: Renderer) -> None:
    engine = ScriptedEngine(renderer, logprob=by_view({"a.mp4": 2.0}))
    pipeline = make_pipeline(engine, renderer, weights={"vote": 1.0, "verdict": 0.5})
    row = await pipeline.classify(sample("a.mp4"))
    evidence = await pipeline.evidence(sample("a.mp4"))
    assert isinstance(evidence, Evidence)
    decision = decide_from(evidence, pipeline._answering.calibration)
    assert (decision.label, decision.probabilities) == (row.label, row.probabilities)
    assert (decision.action, decision.reasons) == (row.decision, row.reasons)
    assert (evidence.trace, evidence.votes) == (row.trace, row.votes)
    assert evidence.parsed
    assert set(evidence.trace_logprobs) == {-0.5}
    assert engine.samplings[0] == engine.samplings[2], "the same trace of the same seed"


async def test_the_evidence_of_a_view_is_that_of_the_control(renderer: Renderer) -> None:
    engine = ScriptedEngine(renderer, logprob=by_view({"a.mp4": 2.0, "view=shuffled": -5.0}))
    pipeline = make_pipeline(engine, renderer)
    row = await pipeline.classify(sample("a.mp4"), View.SHUFFLED)
    evidence = await pipeline.evidence(sample("a.mp4"), View.SHUFFLED)
    assert isinstance(evidence, Evidence)
    assert row.control is not None
    decision = decide_from(evidence, pipeline._answering.calibration)
    assert decision.probabilities == row.control.probabilities


async def test_there_is_a_failure_in_place_of_evidence_and_a_death_raises(
    renderer: Renderer,
) -> None:
    engine = ScriptedEngine(renderer)
    clips = Clips({"bad.mp4": ClipError("the file is empty")})
    pipeline = make_pipeline(engine, renderer, clips=clips)
    failure = await pipeline.evidence(sample("bad.mp4"))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.reason) == ("decode", "the file is empty")
    engine.error = GenerationError("the prompt is too long")
    failure = await pipeline.evidence(sample("a.mp4"))
    assert isinstance(failure, Failure)
    assert failure.kind == "generation"
    engine.is_alive = False
    assert not pipeline.is_alive
    with pytest.raises(GenerationError, match="process has ended"):
        await pipeline.evidence(sample("a.mp4"))


# --- controls


def by_view(shown: Mapping[str, float]) -> Any:
    """Logprob of the first label's code for clips whose address ends so, 0 for all others."""
    first = make_renderer().target("repeat")[0]

    def logprob(video: str, code: tuple[int, ...]) -> float:
        found = [value for end, value in shown.items() if video.endswith(end)]
        return found[0] if code[0] == first and found else -1.0

    return logprob


async def test_a_control_says_what_changes_when_the_frames_do(renderer: Renderer) -> None:
    engine = ScriptedEngine(renderer, logprob=by_view({"a.mp4": 2.0, "view=shuffled": -5.0}))
    pipeline = make_pipeline(engine, renderer)
    (row,) = await all_rows(pipeline, ["a.mp4"], View.SHUFFLED)
    control = row.control
    assert control is not None
    assert row.probabilities is not None
    assert (row.label, control.label, control.label_changed) == ("repeat", "undo", True)
    gaps = [abs(row.probabilities[n] - control.probabilities[n]) for n in row.probabilities]
    assert control.total_variation == pytest.approx(sum(gaps) / 2)
    assert control.total_variation > 0.8


async def test_a_control_of_a_blind_classifier_changes_nothing(renderer: Renderer) -> None:
    pipeline = make_pipeline(ScriptedEngine(renderer), renderer)
    (row,) = await all_rows(pipeline, ["a.mp4#t=1,2"], View.BLANK)
    assert row.control is not None
    assert not row.control.label_changed
    assert row.control.total_variation == 0


async def test_a_view_that_cannot_be_answered_leaves_the_decision(renderer: Renderer) -> None:
    clips = Clips({"a.mp4#view=blank": ClipError("no room")})
    pipeline = make_pipeline(ScriptedEngine(renderer), renderer, clips=clips)
    (row,) = await all_rows(pipeline, ["a.mp4"], View.BLANK)
    assert row.label is not None
    assert row.control is not None
    assert row.control.failure is not None
    assert row.as_json()["control"]["failure"]["reason"] == "no room"


async def test_a_bad_clip_has_no_control(renderer: Renderer) -> None:
    clips = Clips({"a.mp4": ClipError("cut"), "a.mp4#view=blank": ClipError("cut")})
    pipeline = make_pipeline(ScriptedEngine(renderer), renderer, clips=clips)
    (row,) = await all_rows(pipeline, ["a.mp4"], View.BLANK)
    assert row.control is None


# --- observers


class Alarming:
    """Raises an alarm at the third trace."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def observe(self, sample: Sample, evidence: Evidence) -> str | None:
        self.seen.append(sample.id)
        assert set(evidence.logprobs) == {"verdict"}
        return "traces differ from those that were fitted to" if len(self.seen) >= 3 else None


async def test_an_alarm_sends_decisions_to_review_from_then_on(renderer: Renderer) -> None:
    observer = Alarming()
    pipeline = make_pipeline(
        ScriptedEngine(renderer), renderer, threshold=0.1, in_flight=1, observer=observer
    )
    rows = await all_rows(pipeline, [f"{number}.mp4" for number in range(4)], View.BLANK)
    assert [row.decision for row in rows] == ["auto", "auto", "review", "review"]
    assert [reason.code for reason in rows[3].reasons] == ["shift_alarm"]
    assert observer.seen == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"], "views are not served traces"
