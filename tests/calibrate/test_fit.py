"""The order of calibration's work, on small real fakes behind its protocols: no run, no engine."""

import asyncio
import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calibrate import head
from calibrate.calibrator import log_shares
from calibrate.choice import lacks
from calibrate.config import CalibrateConfig
from calibrate.fit import CalibrationResult, fit_classifiers, write_traces
from calibrate.protocols import (
    FeatureReader,
    PolicyScorer,
    TraceWriter,
    ValidationCurve,
    VerdictTrainer,
)
from calibrate.splits import ClipParts
from calibrate.traces import TraceSet, VerdictExamples
from tests.groups import make_completion, make_group, make_sample
from wire.errors import DataError
from wire.labels import Label, LabelSet
from wire.types import PolicyVersion, Purpose, Sample, Score, Split, Trace, TraceGroup

LABELS = LabelSet(labels=(Label(name="fall"), Label(name="walk")))
SERVED = PolicyVersion(attempt=0, step=3)
TRAINED_ON = [make_sample(label, id=f"{label}-{n}") for n in range(4) for label in LABELS.names]
EVALUATED = [make_sample("fall", id="new-fall"), make_sample("walk", id="new-walk")]
VAL = [make_sample(LABELS.names[n % 2], id=f"val-{n}", split=Split.VAL) for n in range(40)]
HELD_OUT = [make_sample(LABELS.names[n % 2], id=f"held-{n}", split=Split.CAL) for n in range(60)]


class Writer:
    """Writes traces that name the clip's label, of ``wrong`` ones another; of ``bad`` clips it
    writes none."""

    def __init__(
        self,
        version: PolicyVersion = SERVED,
        bad: str = "",
        wrong: Collection[str] = (),
    ) -> None:
        self.calls: list[str] = []
        self.weights: tuple[PolicyVersion, ...] = ()
        self._version, self._bad, self._wrong = version, bad, wrong

    async def write(
        self, samples: Sequence[Sample], k: int, temperature: float, purpose: Purpose
    ) -> TraceSet:
        self.calls.append(f"{purpose.value} {len(samples)} x {k}")
        return TraceSet.of([self._group(sample, k, purpose) for sample in samples], LABELS)

    async def write_evaluation(self, samples: Sequence[Sample]) -> TraceSet:
        self.calls.append(f"evaluation {len(samples)}")
        groups = [self._group(sample, 1, Purpose.EVALUATION) for sample in samples]
        return TraceSet.of(groups, LABELS)

    def _group(self, sample: Sample, k: int, purpose: Purpose) -> TraceGroup:
        others = [name for name in LABELS.names if name != sample.label]
        label = others[0] if sample.id in self._wrong else sample.label
        text = f"<think>seen</think><answer>{label}</answer>"
        completion = make_completion(text, policy_version=self._version)
        trace = Trace(completion=completion, outcome=Score(total=1.0, parts={}))
        traces = [] if sample.id == self._bad else [trace] * k
        return make_group(*traces, sample=sample, purpose=purpose, policy_version=self._version)


class Trainer:
    """Learns which label goes with which trace, and repeats it; of others it knows nothing."""

    curve: ValidationCurve | None = None

    def __init__(self) -> None:
        self.learned: dict[str | None, str] = {}
        self.num_examples = 0

    async def train(self, examples: VerdictExamples, config: CalibrateConfig) -> int:
        self.num_examples = len(examples)
        self.learned = {example.trace: example.label for example in examples}
        return config.epochs

    async def label_logprobs(self, examples: VerdictExamples) -> NDArray[np.float64]:
        known = [self.learned.get(example.trace) for example in examples]
        return np.array([[0.0 if n == label else -9.0 for n in LABELS.names] for label in known])


class Reader:
    """The policy: one feature, whether the trace says "walk", and its answer, hardly sure."""

    def __init__(self) -> None:
        self.num_read: list[int] = []
        self.num_scored: list[int] = []

    async def features(self, traces: TraceSet) -> NDArray[np.float32]:
        texts = [trace.completion.text for group in traces.groups for trace in group.traces]
        self.num_read.append(len(texts))
        return np.array([[float("walk" in text)] for text in texts], dtype=np.float32)

    async def label_logprobs(self, traces: TraceSet) -> NDArray[np.float64]:
        self.num_scored.append(len(traces))
        answers = [next(iter(facts.answers), None) for facts in traces.facts]
        rows = [[0.0 if n == answer else -0.1 for n in LABELS.names] for answer in answers]
        return np.array(
            [row if answer else [np.nan] * 2 for row, answer in zip(rows, answers, strict=True)]
        ).reshape(-1, 2)


CLIPS = ClipParts(learned=TRAINED_ON, held_out=HELD_OUT, val=VAL, test=EVALUATED)


async def fit(
    config: CalibrateConfig | None = None,
    writer: Writer | None = None,
    trainer: Trainer | None = None,
    reader: Reader | None = None,
    clips: ClipParts = CLIPS,
) -> CalibrationResult:
    used: TraceWriter = writer or Writer()
    verdict: VerdictTrainer = trainer or Trainer()
    policy = reader or Reader()
    features: FeatureReader = policy
    scorer: PolicyScorer = policy
    config = config or CalibrateConfig(num_traces=3)
    traces = await write_traces(clips, used, config, SERVED)
    return await fit_classifiers(
        traces, config=config, labels=LABELS, verdict=verdict, features=features, policy=scorer
    )


async def test_classifiers_learn_from_all_traces_and_are_asked_about_clips_of_their_own():
    writer, trainer, reader = Writer(), Trainer(), Reader()
    fitted = await fit(writer=writer, trainer=trainer, reader=reader)
    assert writer.calls == ["calibration 8 x 3", "evaluation 102", "calibration 102 x 3"]
    assert trainer.num_examples == 24
    assert reader.num_read == [24, 40, 60, 2]
    assert reader.num_scored == [40, 60, 2]
    assert fitted.report.num_traces == 24
    assert fitted.head is not None
    for predictions in (*fitted.plain.values(), fitted.published):
        listed = list(predictions)
        assert [p.sample_id for p in listed] == ["new-fall", "new-walk"]
        assert [p.predicted for p in listed] == ["fall", "walk"]
        assert all(p.probabilities is not None for p in listed)


async def test_the_best_on_val_is_published_with_sets_of_clips_that_nothing_learned_from():
    wrong = {"val-0", "val-1", "val-2"}
    fitted = await fit(writer=Writer(wrong=wrong), clips=CLIPS)
    calibration = fitted.calibration
    assert calibration.selection is not None
    names = {candidate.name for candidate in calibration.selection.candidates}
    alone = {"policy", "vote", "head", "verdict"}
    pairs = {"policy+head", "policy+verdict", "vote+head", "vote+verdict"}
    assert alone <= names <= alone | pairs | {"policy+vote", "verdict+head"}
    assert calibration.num_samples == {"learned": 8, "held_out": 60, "val": 40, "test": 2}
    assert calibration.sets[0].attainable
    assert calibration.sets[0].num_samples == 60
    assert [one.split for one in calibration.figures] == ["val", "held_out", "test"]
    assert lacks(calibration) == []
    temperature = calibration.calibrator.temperature
    assert temperature is None or temperature > 0


async def test_without_val_and_held_out_clips_it_is_said_what_is_not_attainable():
    clips = ClipParts(learned=TRAINED_ON, held_out=[], val=[], test=EVALUATED)
    fitted = await fit(clips=clips)
    calibration = fitted.calibration
    assert calibration.selection is None
    assert calibration.calibrator.weights == {"verdict": 1.0}
    assert not calibration.sets[0].attainable
    assert calibration.thresholds[0].value is None
    without_val, sets, threshold = lacks(calibration)
    assert "no val clips" in without_val
    assert "not attainable" in sets
    assert "not attainable" in threshold
    plain, published = list(fitted.plain["verdict"]), list(fitted.published)
    assert [p.probabilities for p in published] == [pytest.approx(p.probabilities) for p in plain]


async def test_a_vote_is_a_candidate_where_the_recipe_asks_for_one():
    config = CalibrateConfig(num_traces=4, candidates=("policy", "vote"))
    writer = Writer()
    fitted = await fit(config, writer=writer)
    assert writer.calls == ["calibration 8 x 4", "evaluation 102", "calibration 102 x 4"]
    assert fitted.calibration.selection is not None
    names = {candidate.name for candidate in fitted.calibration.selection.candidates}
    assert names == {"policy", "vote"}


async def test_an_archive_without_further_traces_has_no_vote_to_compare():
    written = await write_traces(CLIPS, Writer(), CalibrateConfig(num_traces=3), SERVED)
    traces = replace(written, votes={})
    assert written.sources(CalibrateConfig()) == ("policy", "vote", "verdict", "head")
    assert traces.sources(CalibrateConfig()) == ("policy", "verdict", "head")
    with pytest.raises(DataError, match="candidates has 'vote', and the archive has no sampled"):
        traces.sources(CalibrateConfig(candidates=("policy", "vote")))


def test_shares_of_a_vote_are_smoothed():
    shares = np.exp(log_shares(["fall", "fall", None, "walk"], LABELS.names))
    assert shares == pytest.approx([2.5 / 5, 1.5 / 5])
    assert np.isnan(log_shares([], LABELS.names)).all()


@pytest.mark.parametrize("method", ["verdict", "head"])
async def test_only_the_methods_of_the_recipe_are_fitted(method: str):
    trainer, reader = Trainer(), Reader()
    config = CalibrateConfig.model_validate({"methods": [method]})
    fitted = await fit(config, trainer=trainer, reader=reader)
    assert list(fitted.plain) == [method]
    assert (fitted.head is not None) == (method == "head")
    assert bool(trainer.num_examples) == (method == "verdict")
    assert bool(reader.num_read) == (method == "head")


async def test_the_head_is_fitted_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch):
    """Which goes on with the heartbeat of the run, the status and the metrics."""
    loop, turned = asyncio.get_running_loop(), threading.Event()
    real_fit = head.fit

    def waiting_for_the_loop(*arguments: Any) -> head.Head:
        loop.call_soon_threadsafe(turned.set)
        assert turned.wait(30), "the loop stands still"
        return real_fit(*arguments)

    monkeypatch.setattr(head, "fit", waiting_for_the_loop)
    assert (await fit(CalibrateConfig.model_validate({"methods": ["head"]}))).head is not None


async def test_traces_of_another_policy_are_refused_before_anything_is_trained():
    trainer, reader = Trainer(), Reader()
    with pytest.raises(DataError, match="the one being served"):
        await fit(writer=Writer(PolicyVersion(attempt=0, step=2)), trainer=trainer, reader=reader)
    assert (trainer.num_examples, reader.num_read) == (0, [])


async def test_an_evaluated_clip_without_a_trace_counts_as_wrong():
    fitted = await fit(writer=Writer(bad="new-walk"))
    for predictions in (*fitted.plain.values(), fitted.published):
        assert [(p.predicted, p.confidence == 0) for p in predictions] == [
            ("fall", False),
            (None, True),
        ]


async def test_the_reference_of_shift_is_of_the_val_and_held_out_traces_with_their_confidence():
    result = await fit()
    assert result.reference is not None
    assert len(result.reference.traces) == len(VAL) + len(HELD_OUT)
    assert not np.isnan(result.reference.traces.confidence).any()
    assert (result.reference.traces.confidence >= 0.5).all()
    bare = replace(CLIPS, val=[], held_out=[])
    assert (await fit(clips=bare)).reference is None


async def test_held_out_and_val_clips_are_kept_as_the_published_classifier_scores_them():
    result = await fit()
    held_out, val = result.held_out.held_out, result.held_out.val
    assert (len(held_out), len(val)) == (len(HELD_OUT), len(VAL))
    names = result.held_out.label_names
    in_order = sorted(HELD_OUT, key=lambda sample: sample.id)
    assert [names[place] for place in held_out.truth] == [one.label for one in in_order]
    assert held_out.read.all()
    threshold = result.calibration.thresholds[0]
    assert threshold.attainable
    automatic = threshold.is_automatic(held_out.probabilities.max(axis=1))
    assert (len(held_out), automatic.sum()) == (threshold.num_samples, threshold.num_automatic)


async def test_label_errors_of_the_clips_learned_from_are_ranked_unless_they_are_not_wanted():
    """One clip's traces all say the other label."""
    wrong = TRAINED_ON[0].id
    errors = (await fit(writer=Writer(wrong=[wrong]))).label_errors
    assert errors is not None
    assert errors.ranked[0].sample_id == wrong
    assert errors.num_clips == len(TRAINED_ON)
    assert (await fit(CalibrateConfig(label_errors=False))).label_errors is None


async def test_without_held_out_and_test_clips_a_fit_promises_nothing_and_says_so():
    """As a candidate of watch mode is fitted."""
    config = CalibrateConfig(
        split="train", holdout_frac=0.0, candidates=("policy", "verdict", "head")
    )
    result = await fit(config, clips=replace(CLIPS, held_out=[], test=[]))
    assert not any(one.attainable for one in result.calibration.sets)
    assert not any(one.attainable for one in result.calibration.thresholds)
    assert result.calibration.num_samples["val"] == len(VAL)
    assert [one.split for one in result.calibration.figures] == ["val"]
    assert result.reference is not None
    assert len(result.reference.traces) == len(VAL)
    assert list(result.published) == []
    assert any("not attainable" in line for line in lacks(result.calibration))
