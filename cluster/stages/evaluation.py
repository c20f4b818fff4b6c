"""Evaluation of a policy: one near-greedy trace per clip, its answer and confidence, then metrics.

samples -> GroupWriter (temperature 0.01) -> Predictions -> Evaluation
samples -> label prompts -> learner, logprobs of the label codes -> Predictions -> Evaluation
samples -> both: the class by its code, the trace as its explanation  -> Predictions -> Evaluation
"""

import math
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from calibrate.metrics import Evaluation, evaluate
from calibrate.predictions import Prediction, write_predictions
from calibrate.traces import TraceSet, VerdictExamples
from calibrate.verdict import AgreementCount, label_predictions, probabilities_from_logprobs
from cluster.config.kinds.evaluate import EvaluateStage
from cluster.metrics.catalogue import EVALUATION
from cluster.metrics.inference_cost import TokenCount
from cluster.metrics.learning_guards import one_text_warnings
from cluster.session import Session
from cluster.stages.label_codes import LabelCodes
from cluster.stages.measurements.explanations import Explanations
from cluster.stages.measurements.narrated_events import NarratedEvents
from cluster.stages.measurements.pooled_features import PooledFeatures
from cluster.stages.stage import StageRun
from cluster.stages.trace_writer import FigureLog, RunTraceWriter
from learner.config import OptimConfig
from rollout.manifest import select
from rollout.render import Renderer
from video.address import with_view
from wire.daemon_thread import run_in_daemon_thread
from wire.labels import LabelSet
from wire.types import Sample, Split, TraceGroup

_FIGURES = ("accuracy", "macro_f1", "balanced_accuracy", "ece", "brier", "unparsed_frac")


async def run_evaluation(session: Session, run: StageRun) -> dict[str, Any]:
    """Measure the policy that a stage starts from."""
    stage = run.of(EvaluateStage)
    samples = session.data.of(stage.split)
    if stage.view is not None:
        samples = [with_view(sample, stage.view) for sample in samples]
    if stage.answer == "label":
        await session.start_training(run.start.model_dir, OptimConfig())
        result = await evaluate_labels(session, stage.name, samples, run.start.step)
    elif stage.answer == "pooled":
        result = await evaluate_pooled(session, run, samples)
    elif stage.answer == "explained":
        result = await evaluate_explained(session, run, samples)
    else:
        result = await evaluate_policy(session, stage.name, samples, stage.temperature)
    return {"split": stage.split, **result}


async def evaluate_policy(
    session: Session,
    stage: str,
    samples: Sequence[Sample],
    temperature: float,
    *,
    trained: bool = False,
) -> dict[str, Any]:
    """Measure the policy in the engines by the answers that it writes; ``trained``: the stage has
    trained it, else it started from it. Returns a stage's part of done.json."""
    writer = RunTraceWriter.of(session, stage, trained=trained)
    traces = await writer.write_evaluation(samples, temperature)
    count = TokenCount(session.renderer.around_clip)
    predictions = policy_predictions(traces, session.config.label_set, session.renderer, count)
    written = await EvaluationWriter.of(session).write(
        stage, predictions, session.engine_weights_step
    )
    result = {
        "evaluation": asdict(written.figures),
        "num_failed": traces.num_failed,
        **inference(count, len(traces) - traces.num_failed, writer.evaluation_seconds),
        **taken_up(writer),
    }
    warnings = await run_in_daemon_thread(one_text_warnings, stage, traces.groups)
    return result | {"warnings": warnings} if warnings else result


async def evaluate_labels(
    session: Session, stage: str, samples: Sequence[Sample], step: int
) -> dict[str, Any]:
    """Measure the policy in the learner, version ``step``, by the label that it gives without a
    trace: the most probable label code. Returns a stage's part of done.json."""
    asked = VerdictExamples(readable(samples, session.quarantine), None)
    count, begun = TokenCount(session.renderer.around_clip), time.monotonic()
    logprobs = await LabelCodes.of(session).logprobs(asked, count)
    seconds = time.monotonic() - begun
    predictions = label_predictions(
        samples, asked, probabilities_from_logprobs(logprobs), session.config.label_set.names
    )
    written = await EvaluationWriter.of(session).write(stage, predictions, step)
    return {
        "evaluation": asdict(written.figures),
        "num_failed": len(samples) - len(asked),
        **inference(count, len(asked), seconds),
    }


def inference(count: TokenCount, num_clips: int, seconds: float | None) -> dict[str, Any]:
    """Part of done.json about the cost of an answer; nothing without clips."""
    cost = count.cost(num_clips, seconds)
    return {} if cost is None else {"inference": asdict(cost)}


async def evaluate_pooled(
    session: Session, run: StageRun, samples: Sequence[Sample]
) -> dict[str, Any]:
    """Measure a linear head on the tower's features of the train clips. Returns a stage's part of
    done.json."""
    await session.start_training(run.start.model_dir, OptimConfig())
    pooled = PooledFeatures(session, session.learner)
    names = session.config.label_set.names
    predictions = await pooled.predictions(session.data.of(Split.TRAIN), samples, names)
    written = await EvaluationWriter.of(session).write(run.name, predictions, run.start.step)
    failed = sum(one.predicted is None for one in predictions)
    return {"evaluation": asdict(written.figures), "num_failed": failed}


async def evaluate_explained(
    session: Session, run: StageRun, samples: Sequence[Sample]
) -> dict[str, Any]:
    """Measure the policy by the label that it gives without a trace, and check the trace that it
    writes as an explanation. Returns a stage's part of done.json."""
    stage = run.of(EvaluateStage)
    writer = RunTraceWriter.of(session, stage.name)
    traces = await writer.write_evaluation(samples, stage.temperature)
    await session.start_training(run.start.model_dir, OptimConfig())
    asked = VerdictExamples(readable(samples, session.quarantine), None)
    count, begun = TokenCount(session.renderer.around_clip), time.monotonic()
    logprobs = await LabelCodes.of(session).logprobs(asked, count)
    seconds = time.monotonic() - begun
    names = session.config.label_set.names
    classes = label_predictions(samples, asked, probabilities_from_logprobs(logprobs), names)
    events = await run_in_daemon_thread(NarratedEvents.of, session, stage.name)
    explanations = (
        Explanations(samples, events.names, events.told_of)
        if events
        else Explanations(samples, (), None)
    )
    written = await EvaluationWriter.of(session).write(
        stage.name, explanations.of(classes, count.counted(traces.groups)), run.start.step
    )
    wrote = writer.evaluation_seconds
    return {
        "evaluation": asdict(written.figures),
        "num_failed": traces.num_failed,
        "explanations": {"agreement": written.agreement, **explanations.figures()},
        **inference(count, len(asked), None if wrote is None else wrote + seconds),
        **taken_up(writer),
    }


def readable(samples: Sequence[Sample], quarantine: Container[str]) -> list[Sample]:
    """Samples whose clips no stage has found unreadable."""
    return [sample for sample in samples if sample.video not in quarantine]


def taken_up(writer: RunTraceWriter) -> dict[str, int]:
    """What done.json says of traces that an earlier attempt had written; nothing if it had none."""
    return {"num_taken_up": writer.num_taken_up} if writer.num_taken_up else {}


def policy_predictions(
    traces: TraceSet, labels: LabelSet, renderer: Renderer, count: TokenCount | None = None
) -> Iterator[Prediction]:
    """Predictions from the policy's written answers; unparsable or failed counts as wrong. Traces
    are read as the predictions are made.

    Confidence is the probability (at temperature 1) of the tokens inside the answer block.
    ``count``: of the tokens that the answers took.
    """
    read = traces.groups if count is None else count.counted(traces.groups)
    groups = zip(traces.facts, read, strict=True)
    return (_prediction(facts.sample, group, labels, renderer) for facts, group in groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenEvaluation:
    """An evaluation that has been written."""

    figures: Evaluation
    predictions: list[Prediction]
    """Without their traces."""
    agreement: float | None
    """Share of predictions that repeat the answer of the trace they were shown."""


class EvaluationWriter:
    """Computes all figures of a stage or arm from its predictions, and writes both."""

    def __init__(
        self,
        predictions_path: Callable[[str], Path],
        labels: LabelSet,
        train_labels: Sequence[str],
        log: FigureLog,
    ) -> None:
        """``predictions_path``: file of a stage or arm, by its name; ``train_labels``: of all train
        clips, for the majority baseline."""
        self._predictions_path, self._log = predictions_path, log
        self._labels, self._train_labels = labels, train_labels

    @classmethod
    def of(cls, session: Session) -> Self:
        """With the files, labels and metrics of a run."""
        train = [sample.label for sample in select(session.data.samples, Split.TRAIN)]
        return cls(session.run_dir.predictions, session.config.label_set, train, session.metrics)

    async def write(
        self, name: str, predictions: Iterable[Prediction], step: int
    ) -> WrittenEvaluation:
        """Write the predictions of a stage or arm, in the order they come, and their figures.
        ``step``: version step of the policy that answered."""
        written = await run_in_daemon_thread(self._write, name, predictions)
        self._log.write(EVALUATION, step, evaluation_figures(name, written.figures))
        return written

    def _write(self, name: str, predictions: Iterable[Prediction]) -> WrittenEvaluation:
        agreement = AgreementCount(self._labels)

        def counted() -> Iterator[Prediction]:
            for prediction in predictions:
                agreement.add(prediction)
                yield prediction

        kept = write_predictions(self._predictions_path(name), counted())
        figures = evaluate(kept, self._labels.names, self._train_labels)
        return WrittenEvaluation(figures=figures, predictions=kept, agreement=agreement.share)


def evaluation_figures(stage: str, evaluation: Evaluation) -> dict[str, float]:
    """Main figures of an evaluation, by metric name; a figure that the method lacks is left out."""
    values = {name: getattr(evaluation, name) for name in _FIGURES}
    return {f"{stage}/{name}": value for name, value in values.items() if value is not None}


def _prediction(
    sample: Sample, group: TraceGroup, labels: LabelSet, renderer: Renderer
) -> Prediction:
    completion = group.traces[0].completion if group.traces else None
    predicted = labels.answer_in(completion.text) if completion else None
    logprob = (
        renderer.answer_logprob(completion.token_ids, completion.logprobs, labels)
        if completion and predicted
        else None
    )
    return Prediction(
        sample_id=sample.id,
        label=sample.label,
        predicted=predicted,
        confidence=min(1.0, math.exp(logprob)) if logprob is not None else 0.0,
        probabilities=None,
        trace=completion.text if completion else None,
    )
