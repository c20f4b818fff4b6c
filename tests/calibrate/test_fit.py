"""The order of calibration's work, on small real fakes behind its protocols: no run, no engine."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calibrate import head
from calibrate.config import CalibrateConfig
from calibrate.fit import fit_classifiers
from calibrate.protocols import FeatureReader, TraceWriter, VerdictTrainer
from calibrate.traces import TraceSet, VerdictExamples
from tests.groups import make_completion, make_group, make_sample
from wire.errors import DataError
from wire.labels import Label, LabelSet
from wire.types import PolicyVersion, Purpose, Sample, Score, Trace, TraceGroup

LABELS = LabelSet(labels=(Label(name="fall"), Label(name="walk")))
SERVED = PolicyVersion(attempt=0, step=3)
TRAINED_ON = [make_sample(label, id=f"{label}-{n}") for n in range(4) for label in LABELS.names]
EVALUATED = [make_sample("fall", id="new-fall"), make_sample("walk", id="new-walk")]


class Writer:
    """Writes traces that name the clip's label; of ``bad`` clips it writes none."""

    def __init__(self, version: PolicyVersion = SERVED, bad: str = "") -> None:
        self.calls: list[str] = []
        self.weights: tuple[PolicyVersion, ...] = ()
        self._version, self._bad = version, bad

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
        text = f"<think>seen</think><answer>{sample.label}</answer>"
        completion = make_completion(text, policy_version=self._version)
        trace = Trace(completion=completion, outcome=Score(total=1.0, parts={}))
        traces = [] if sample.id == self._bad else [trace] * k
        return make_group(*traces, sample=sample, purpose=purpose, policy_version=self._version)


class Trainer:
    """Learns which label goes with which trace, and repeats it."""

    def __init__(self) -> None:
        self.learned: dict[str | None, str] = {}
        self.num_examples = 0

    async def train(self, examples: VerdictExamples, config: CalibrateConfig) -> int:
        self.num_examples = len(examples)
        self.learned = {example.trace: example.label for example in examples}
        return config.epochs

    async def label_logprobs(self, examples: VerdictExamples) -> NDArray[np.float64]:
        known = [self.learned[example.trace] for example in examples]
        return np.array([[0.0 if n == label else -9.0 for n in LABELS.names] for label in known])


class Reader:
    """One feature: whether the trace says "walk"."""

    def __init__(self) -> None:
        self.num_read: list[int] = []

    async def features(self, traces: TraceSet) -> NDArray[np.float32]:
        texts = [trace.completion.text for group in traces.groups for trace in group.traces]
        self.num_read.append(len(texts))
        return np.array([[float("walk" in text)] for text in texts], dtype=np.float32)


async def fit(
    config: CalibrateConfig | None = None,
    writer: Writer | None = None,
    trainer: Trainer | None = None,
    reader: Reader | None = None,
):
    traces: TraceWriter = writer or Writer()
    verdict: VerdictTrainer = trainer or Trainer()
    features: FeatureReader = reader or Reader()
    return await fit_classifiers(
        TRAINED_ON,
        EVALUATED,
        config=config or CalibrateConfig(num_traces=3),
        labels=LABELS,
        policy=SERVED,
        writer=traces,
        verdict=verdict,
        features=features,
    )


async def test_both_classifiers_learn_from_all_traces_and_are_asked_about_new_clips():
    writer, trainer, reader = Writer(), Trainer(), Reader()
    fitted = await fit(writer=writer, trainer=trainer, reader=reader)
    assert writer.calls == ["calibration 8 x 3", "evaluation 2"]
    assert trainer.num_examples == 24
    assert reader.num_read == [24, 2]
    assert fitted.report.num_traces == 24
    assert fitted.head is not None
    assert fitted.verdict is not None
    for predictions in (list(fitted.head.predictions), list(fitted.verdict)):
        assert [p.sample_id for p in predictions] == ["new-fall", "new-walk"]
        assert [p.predicted for p in predictions] == ["fall", "walk"]
        assert all(p.probabilities is not None for p in predictions)


@pytest.mark.parametrize("method", ["verdict", "head"])
async def test_only_the_methods_of_the_recipe_are_fitted(method: str):
    trainer, reader = Trainer(), Reader()
    config = CalibrateConfig.model_validate({"methods": [method]})
    fitted = await fit(config, trainer=trainer, reader=reader)
    assert (fitted.verdict is not None, fitted.head is not None) == (
        method == "verdict",
        method == "head",
    )
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
    assert fitted.head is not None
    assert fitted.verdict is not None
    for predictions in (fitted.head.predictions, fitted.verdict):
        assert [(p.predicted, p.confidence == 0) for p in predictions] == [
            ("fall", False),
            (None, True),
        ]
