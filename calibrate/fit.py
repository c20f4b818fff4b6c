"""Fitting of the classifiers: the order of calibration's work, from traces that are there.

    samples -> TraceWriter -> FitTraces        a run, or a service, writes them first
    archive -> FitTraces                       `deepintuit fit` reads what a run has written

    learned, k traces each, right or wrong -> VerdictTrainer -> verdict
                                           -> FeatureReader  -> head
    val, held out, test, one trace each    -> PolicyScorer, verdict, head -> label logprobs
        -> the best of them, calibrated (calibrate/choice.py), and predictions of test

DeepIntuit's intuition calibration: a classifier is trained on the traces of the policy that it will
read in use, and on no other's. Knows no engine: they are behind ``calibrate/protocols.py``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calibrate import head as linear_head
from calibrate.calibration import Calibration
from calibrate.calibrator import Source, log_shares
from calibrate.choice import ScoredClips, choose
from calibrate.config import CalibrateConfig
from calibrate.head import Head
from calibrate.label_error_file import label_errors_of_fit
from calibrate.label_errors import LabelErrors
from calibrate.predictions import Prediction
from calibrate.protocols import FeatureReader, PolicyScorer, TraceWriter, VerdictTrainer
from calibrate.shift.features import TraceReference
from calibrate.shift.fitted import reference_of_fit
from calibrate.splits import ClipParts
from calibrate.thresholds.held_out import HeldOut, ScoredPart
from calibrate.traces import TraceSet, VerdictExamples
from calibrate.verdict import (
    TraceReport,
    check_labels,
    label_predictions,
    probabilities_from_logprobs,
    refuse_foreign_traces,
    refuse_no_traces,
    report_traces,
    training_rows,
)
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import DataError
from wire.labels import LabelSet
from wire.types import PolicyVersion, Purpose

Floats = NDArray[np.float64]
ANSWERED = ("val", "held_out", "test")
"""Parts whose clips are answered as in use."""


@dataclass(frozen=True, kw_only=True)
class FitTraces:
    """Traces that classifiers are fitted from, by the use of their clips, each in the order of
    sample ids."""

    learned: TraceSet
    """k sampled traces per clip."""
    val: TraceSet
    """One near-greedy trace per clip, as of the next two."""
    held_out: TraceSet
    test: TraceSet
    votes: Mapping[str, TraceSet] = field(default_factory=dict)
    """Sampled traces of the same clips, by the part's name; empty without a vote."""

    def sources(self, config: CalibrateConfig) -> tuple[Source, ...]:
        """The candidates of a recipe that these traces can be asked for: no vote where none was
        written. Raises DataError where the recipe names the vote."""
        if self.votes or "vote" not in config.sources:
            return config.sources
        if "vote" in config.candidates:
            raise DataError(
                "candidates has 'vote', and the archive has no sampled traces of the val, held-out "
                "and test clips; take it out of calibrate.candidates, or calibrate in a run"
            )
        return tuple(source for source in config.sources if source != "vote")

    def __getitem__(self, part: str) -> TraceSet:
        """The traces of a part, by its name."""
        traces: TraceSet = getattr(self, part)
        return traces


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationResult:
    """Classifiers fitted to a policy's traces, the best of them, and what it predicts.

    The verdict's weights are with the VerdictTrainer.
    """

    report: TraceReport
    """Quality of the traces that the classifiers learned from."""
    evaluated: TraceSet
    """The traces that they were measured by, one group per test clip."""
    calibration: Calibration
    """Of the classifier that is published."""
    head: Head | None
    """None: not among the methods."""
    held_out: HeldOut
    """Held-out and val clips with their calibrated probabilities."""
    reference: TraceReference | None
    """Features of the val and held-out traces, which served ones are compared with; None without
    any."""
    label_errors: LabelErrors | None
    """Of the clips learned from; None where they were not ranked."""
    plain: Mapping[Source, Iterator[Prediction]]
    """Predictions of the test clips by verdict and head as they come, without calibration; each to
    be taken once: traces are read as they are."""
    published: Iterator[Prediction]
    """The published classifier's, calibrated."""


async def write_traces(
    clips: ClipParts, writer: TraceWriter, config: CalibrateConfig, policy: PolicyVersion
) -> FitTraces:
    """Write the traces of a fit. ``policy``: the version that is served, whose weights must have
    written every trace. Raises DataError for traces of another policy; TooManyFailures."""
    learned = await writer.write(
        clips.learned, config.num_traces, config.temperature, Purpose.CALIBRATION
    )
    refuse_foreign_traces(learned, policy, writer.weights)
    parts = {name: getattr(clips, name) for name in ANSWERED}
    every = {sample.id: sample for part in parts.values() for sample in part}
    samples = [every[name] for name in sorted(every)]
    answers = await writer.write_evaluation(samples)
    ids = {name: {sample.id for sample in part} for name, part in parts.items()}
    votes: dict[str, TraceSet] = {}
    if "vote" in config.sources:
        sampled = await writer.write(
            samples, config.num_traces, config.temperature, Purpose.CALIBRATION
        )
        votes = {name: sampled.of_samples(ids[name]) for name in ANSWERED}
    return FitTraces(
        learned=learned,
        **{name: answers.of_samples(ids[name]) for name in ANSWERED},
        votes=votes,
    )


async def fit_classifiers(
    traces: FitTraces,
    *,
    config: CalibrateConfig,
    labels: LabelSet,
    verdict: VerdictTrainer | None,
    features: FeatureReader,
    policy: PolicyScorer,
    test_name: str = "test",
) -> CalibrationResult:
    """Fit the methods of ``config`` to traces, whoever wrote them, choose the best classifier on
    val, calibrate it, and predict the test clips.

    ``verdict``: None where it is not among the methods; ``test_name``: the split of the test clips.
    Learner's work in its order: the policy's scores, the head's features, the verdict. Raises
    DataError without a trace to learn from.
    """
    names, sources = labels.names, traces.sources(config)
    learned = training_rows(traces.learned, names)
    for part in ANSWERED:
        check_labels(traces[part].samples, names)
    if len(traces.test):
        refuse_no_traces(traces.test)
    head, errors, scores = None, None, await _answer_scores(traces, sources, names, policy)
    if "head" in config.methods:
        head, errors = await _fit_head(traces.learned, learned, config, names, features)
        scores["head"] = {
            part: await _head_logprobs(head, traces[part], features) for part in ANSWERED
        }
    if "verdict" in config.methods:
        assert verdict is not None, "the verdict is among the methods"
        await verdict.train(learned, config)
        scores["verdict"] = {
            part: await _verdict_logprobs(verdict, traces[part], names) for part in ANSWERED
        }
    parts = {
        part: ScoredClips(
            samples=traces[part].samples,
            label_names=names,
            logprobs={source: scores[source][part] for source in sources},
            parsed=np.array([facts.num_parsed > 0 for facts in traces[part].facts], np.bool_),
        )
        for part in ANSWERED
    }
    curve, num = verdict.curve if verdict else None, len(traces.learned)
    calibration = await run_in_daemon_thread(choose, parts, config, num, curve, test_name)
    return CalibrationResult(
        report=report_traces(traces.learned),
        evaluated=traces.test,
        calibration=calibration,
        head=head,
        held_out=_scored(parts, calibration, names),
        reference=reference_of_fit(_calibrated_on(traces, parts, calibration), labels),
        label_errors=errors,
        plain={
            source: predictions_of(traces.test, scores[source]["test"], names)
            for source in config.methods
        },
        published=_published(traces.test, calibration, parts["test"], names),
    )


async def _answer_scores(
    traces: FitTraces, sources: Sequence[Source], names: tuple[str, ...], policy: PolicyScorer
) -> dict[Source, dict[str, Floats]]:
    """Label logprobs of the policy's own answers, where they are candidates, by part."""
    scores: dict[Source, dict[str, Floats]] = {}
    if "policy" in sources:
        scores["policy"] = {part: await policy.label_logprobs(traces[part]) for part in ANSWERED}
    if "vote" in sources:
        scores["vote"] = {part: vote_logprobs(traces, part, names) for part in ANSWERED}
    return scores


async def ask_verdict(
    verdict: VerdictTrainer, traces: TraceSet, labels: LabelSet
) -> Iterator[Prediction]:
    """The verdict's prediction for each group's sample, from its trace; a group without a trace
    counts as wrong."""
    refuse_no_traces(traces)
    logprobs = await _verdict_logprobs(verdict, traces, labels.names)
    return predictions_of(traces, logprobs, labels.names)


def predictions_of(
    traces: TraceSet, logprobs: Floats, label_names: tuple[str, ...]
) -> Iterator[Prediction]:
    """Predictions from logprobs [G, L] of a part's groups; one without a trace counts as wrong."""
    has_trace = [bool(facts.answers) for facts in traces.facts]
    return label_predictions(
        traces.samples,
        traces.examples(),
        probabilities_from_logprobs(logprobs[has_trace]),
        label_names,
    )


def vote_logprobs(traces: FitTraces, part: str, label_names: tuple[str, ...]) -> Floats:
    """[G, L]: log of each label's share of the answers of sampled traces, smoothed:
    (count + 1 / L) / (k + 1); a clip without a trace has a row of NaN."""
    counted = {facts.sample.id: facts.answers for facts in traces.votes[part].facts}
    rows = [log_shares(counted.get(sample.id, ()), label_names) for sample in traces[part].samples]
    return np.array(rows).reshape(-1, len(label_names))


def _scored(
    parts: Mapping[str, ScoredClips], calibration: Calibration, names: tuple[str, ...]
) -> HeldOut:
    """Held-out and val clips as the published classifier scores them."""
    held_out, val = (
        ScoredPart(
            truth=parts[part].truth,
            probabilities=calibration.calibrator.probabilities(parts[part].logprobs),
            read=~parts[part].unread(calibration.calibrator),
        )
        for part in ("held_out", "val")
    )
    return HeldOut(label_names=names, held_out=held_out, val=val)


def _calibrated_on(
    traces: FitTraces, parts: Mapping[str, ScoredClips], calibration: Calibration
) -> Iterator[tuple[TraceSet, Floats]]:
    """Val and held-out traces with their calibrated probabilities."""
    for part in ("val", "held_out"):
        yield traces[part], calibration.calibrator.probabilities(parts[part].logprobs)


async def _fit_head(
    traces: TraceSet,
    learned: VerdictExamples,
    config: CalibrateConfig,
    names: tuple[str, ...],
    features: FeatureReader,
) -> tuple[Head, LabelErrors | None]:
    """A linear classifier over the policy's hidden state (``config.head_features``), and the label
    errors of the clips that it learned from, where they are to be ranked."""
    read = await features.features(traces)
    labels, ids = zip(*((one.label, one.id) for one in learned.samples), strict=True)
    head = await run_in_daemon_thread(linear_head.fit, read, labels, names, ids)
    if not config.label_errors:
        return head, None
    return head, await run_in_daemon_thread(label_errors_of_fit, head, read, learned.samples)


async def _head_logprobs(head: Head, traces: TraceSet, features: FeatureReader) -> Floats:
    if not traces.num_traces:
        return per_group(traces, np.empty((0, len(head.label_names))))
    read = await features.features(traces)
    probabilities = await run_in_daemon_thread(head.probabilities, read)
    with np.errstate(divide="ignore"):  # a label without training data has probability 0
        return per_group(traces, np.log(probabilities))


async def _verdict_logprobs(
    verdict: VerdictTrainer, traces: TraceSet, names: tuple[str, ...]
) -> Floats:
    if not traces.num_traces:
        return per_group(traces, np.empty((0, len(names))))
    return per_group(traces, await verdict.label_logprobs(traces.examples()))


def per_group(traces: TraceSet, rows: Floats) -> Floats:
    """Rows of traces [N, L] as rows of groups of at most one trace [G, L], NaN without a trace."""
    has_trace = np.array([bool(facts.answers) for facts in traces.facts], np.bool_)
    every = np.full((len(has_trace), rows.shape[1]), np.nan)
    every[has_trace] = rows
    return every


def _published(
    traces: TraceSet, calibration: Calibration, clips: ScoredClips, names: tuple[str, ...]
) -> Iterator[Prediction]:
    has_trace = [bool(facts.answers) for facts in traces.facts]
    probabilities = calibration.calibrator.probabilities(clips.logprobs)
    return label_predictions(traces.samples, traces.examples(), probabilities[has_trace], names)
