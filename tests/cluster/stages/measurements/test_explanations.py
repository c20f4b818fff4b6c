"""Explanations are checked beside the class; engines and learner are fakes."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from calibrate.predictions import Prediction, read_predictions
from cluster.run_dir import RunDir
from cluster.stages.measurements.explanations import Explanations
from tests.cluster.session_fakes import NAMES, make_config, right
from tests.cluster.stages.chain_fakes import result, run_chain
from wire.errors import ClipError
from wire.types import (
    Completion,
    Failure,
    FailureKind,
    FinishReason,
    PolicyVersion,
    Prompt,
    Purpose,
    Sample,
    Score,
    Split,
    Trace,
    TraceGroup,
)

VERSION = PolicyVersion(attempt=0, step=0)
FAILURE = Failure(kind=FailureKind.GENERATION, culprit="engine", reason="gone")
TOLD = {"1": ("left", "grow"), "2": ("up",), "3": ("up",)}


def sample(name: str) -> Sample:
    return Sample(id=name, video=f"{name}.mp4", label="a", split=Split.TEST)


def group(name: str, *texts: str) -> TraceGroup:
    completions = [
        Completion(
            token_ids=(1,),
            logprobs=(-0.5,),
            text=text,
            finish_reason=FinishReason.STOP,
            policy_version=VERSION,
        )
        for text in texts
    ]
    return TraceGroup(
        group_id=name,
        purpose=Purpose.EVALUATION,
        sample=sample(name),
        prompt=Prompt(token_ids=(1,), clip_key=name, fingerprint="f"),
        traces=tuple(Trace(completion=c, outcome=Score(total=0.0, parts={})) for c in completions),
        failures=() if texts else (FAILURE,),
        policy_version=VERSION,
    )


def classes(*names: str) -> list[Prediction]:
    return [
        Prediction(
            sample_id=name,
            label="a",
            predicted="a",
            confidence=0.9,
            probabilities=(0.9, 0.1),
            trace=None,
        )
        for name in names
    ]


def checked(groups: Sequence[TraceGroup], shown: bool = True) -> Explanations:
    narrated = (lambda one: TOLD[one.id]) if shown else None
    return Explanations([one.sample for one in groups], ("left", "grow", "up"), narrated)


def test_events_named_in_the_reasoning_are_looked_for_in_the_clips_own_narrative():
    groups = [
        group("1", "<think>one left two up</think><answer>grow</answer>"),
        group("2", "no tags, but up"),
        group("3"),
    ]
    explanations = checked(groups)
    first, second, third = explanations.of(classes("1", "2", "3"), groups)
    assert (first.num_named, first.num_supported) == (2, 1)
    assert first.trace == groups[0].traces[0].completion.text
    assert (second.num_named, second.num_supported) == (0, 0)
    assert (third.trace, third.num_named) == (None, None)
    figures = explanations.figures()
    assert figures["num_written"] == 2
    assert figures["supported_frac"] == pytest.approx(1 / 2)
    assert figures["elsewhere_frac"] == pytest.approx(1 / 2)
    assert figures["coverage"] == pytest.approx(1 / 3)
    assert figures["num_unnamed"] == 1


def test_a_clip_that_cannot_be_read_is_not_the_other_clip_of_any_explanation():
    def narrated(one: Sample) -> Sequence[str]:
        if one.id == "2":
            raise ClipError("2.mp4 has no codes")
        return TOLD[one.id]

    groups = [group("1", "<think>up</think>"), group("2"), group("3", "<think>grow</think>")]
    explanations = Explanations([one.sample for one in groups], ("left", "grow", "up"), narrated)
    first, _, third = explanations.of(classes("1", "2", "3"), groups)
    assert (first.num_supported, third.num_supported) == (0, 0)
    assert explanations.figures()["elsewhere_frac"] == 1, "up is told of 3, grow of 1"


def test_the_only_clip_is_compared_with_no_other():
    groups = [group("1", "<think>left</think>")]
    explanations = checked(groups)
    list(explanations.of(classes("1"), groups))
    assert explanations.figures()["elsewhere_frac"] is None


def test_of_clips_that_are_shown_as_video_only_the_explanations_are_counted():
    groups = [group("1", "<think>left</think>")]
    explanations = checked(groups, shown=False)
    (one,) = explanations.of(classes("1"), groups)
    assert (one.trace, one.num_named) == ("<think>left</think>", None)
    assert explanations.figures() == {"num_written": 1}


def test_an_explanation_of_another_clip_is_refused():
    with pytest.raises(ValueError, match="trace of 2 beside the class of 1"):
        list(checked([group("2", "up")]).of(classes("1"), [group("2", "up")]))


async def test_the_class_is_scored_and_the_explanation_written(tmp_path: Path):
    stages = [{"name": "told", "kind": "evaluate", "answer": "explained"}]
    config = make_config(stages=stages)
    run_dir = RunDir.open(tmp_path / "run", config, resume=False, overwrite=False)
    attempt = await run_chain(run_dir, config, write=right)
    run_dir.close()
    done = result(run_dir, "told")
    predictions = read_predictions(run_dir.predictions("told"))
    assert len(predictions) == 4
    for one in predictions:
        assert one.probabilities is not None
        assert one.predicted == NAMES[max(range(5), key=one.probabilities.__getitem__)]
        assert one.trace is not None
        assert f"<answer>{one.label}</answer>" in one.trace
    agreeing = sum(one.predicted == one.label for one in predictions)
    assert done["explanations"]["agreement"] == agreeing / 4
    assert done["explanations"]["num_written"] == 4
    assert done["inference"]["generated_tokens"] > 0 < done["inference"]["scored_tokens"]
    assert {"trace", "label"} <= set(attempt.engines.asked)
