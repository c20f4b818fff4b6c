"""Chooses the evaluated clips of the report, and collects the stages' answers to them.

    Predictions of each stage -> the most telling clips -> ClipRecord
    archive                   -> the trace, rewards and failures of each stage

Most telling: failed, then wrong at the end, then changed between stages after the base model, then
the others; within each kind the surest first, and labels take turns, so that a frequent label does
not push out the rest.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TypeVar

from calibrate.predictions import Prediction, read_predictions
from cluster.config.chain import BASE
from cluster.report.archived import FailureFacts, TraceFacts, collect, shortened
from cluster.report.arms import Predictions
from wire.types import Purpose

_SHARE_OF_RIGHT = 0.15
"""Share of the clips kept for ones that every stage has right."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer of a stage to a clip."""

    predicted: str | None
    confidence: float
    probabilities: tuple[float, ...] | None
    text: str | None
    """The trace that the stage wrote, or that the verdict was shown."""
    written: TraceFacts | None
    """The archived trace, with its rewards; None where it is not in the archive."""
    failures: tuple[FailureFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRecord:
    """Evaluated clip with the answers of all stages."""

    sample_id: str
    label: str
    video: str | None
    """None: no archived group names it."""
    answers: dict[str, Answer]
    """By stage, in their order."""
    others: dict[str, tuple[str | None, float]]
    """Head and control arms: answer and confidence."""


def choose_clips(
    predictions: Predictions,
    failed: Mapping[str, set[str]],
    max_clips: int,
    chain: Sequence[str],
) -> list[str]:
    """Ids of the clips to show, the most telling first; ``chain``: the stages in their order."""
    stages = [name for name in chain if name in predictions]
    if not stages:
        return []
    by_stage = [{p.sample_id: p for p in predictions[name]} for name in stages]
    last = by_stage[-1]
    all_failed = set().union(*failed.values())
    # Nearly every answer changes with the cold start, which teaches the format: that tells nothing.
    steps = list(pairwise(by_stage[1:] if stages[0] == BASE and len(stages) > 2 else by_stage))
    kinds: list[list[Prediction]] = [[], [], [], []]
    for name, answer in last.items():
        changed = any(_right(a.get(name)) != _right(b.get(name)) for a, b in steps)
        kind = 0 if name in all_failed else 1 if not _right(answer) else 2 if changed else 3
        kinds[kind].append(answer)
    telling = [p for kind in kinds[:3] for p in _by_turns(kind)]
    settled = _by_turns(kinds[3])
    num_settled = max(round(_SHARE_OF_RIGHT * max_clips), max_clips - len(telling))
    chosen = telling[: max(0, max_clips - min(num_settled, len(settled)))]
    return [p.sample_id for p in (chosen + settled)[:max_clips]]


def clip_records(
    path: Path,
    predictions: Predictions,
    chosen: Sequence[str],
    archive: Path,
    chain: Sequence[str],
) -> list[ClipRecord]:
    """Records of the chosen clips, in their order. Reads texts stage by stage."""
    wanted = set(chosen)
    stages = [name for name in chain if name in predictions]
    others = [name for name in predictions if name not in stages]
    answers = {name: _by_id(_with_text(path, name), wanted) for name in stages}
    short = {name: _by_id(predictions[name], wanted) for name in others}
    written: dict[tuple[str, str], TraceFacts] = {}
    failures: dict[tuple[str, str], tuple[FailureFacts, ...]] = {}
    videos: dict[str, str] = {}
    for group in collect(
        archive,
        lambda key: (
            key.purpose == Purpose.EVALUATION and key.stage in stages and key.sample_id in wanted
        ),
    ):
        place = (group.key.stage, group.key.sample_id)  # a later attempt replaces an earlier one
        videos[group.key.sample_id] = group.sample.video
        own = [trace.failure for trace in group.traces if trace.failure]
        failures[place] = (*group.failures, *own)
        written.pop(place, None)
        if group.traces:
            written[place] = group.traces[0]
    labels = {p.sample_id: p.label for name in stages for p in answers[name].values()}
    return [
        ClipRecord(
            sample_id=name,
            label=labels[name],
            video=videos.get(name),
            answers={
                stage: _answer(
                    answers[stage][name],
                    written.get((stage, name)),
                    failures.get((stage, name), ()),
                )
                for stage in stages
                if name in answers[stage]
            },
            others={
                arm: (short[arm][name].predicted, short[arm][name].confidence)
                for arm in others
                if name in short[arm]
            },
        )
        for name in chosen
    ]


def read_light(path: Path) -> list[Prediction]:
    """Read predictions without their traces, which are most of the file."""
    return [
        Prediction(
            sample_id=p.sample_id,
            label=p.label,
            predicted=p.predicted,
            confidence=p.confidence,
            probabilities=p.probabilities,
            trace=None,
        )
        for p in read_predictions(path)
    ]


def by_turns(items: Iterable[T], labels: Iterable[str]) -> list[T]:
    """Items reordered so that labels take turns; within a label the order stays."""
    queues: dict[str, list[T]] = {}
    for item, label in zip(items, labels, strict=True):
        queues.setdefault(label, []).append(item)
    rounds = zip_longest(*(queues[label] for label in sorted(queues)))
    return [item for one in rounds for item in one if item is not None]


def _by_turns(answers: Sequence[Prediction]) -> list[Prediction]:
    surest = sorted(answers, key=lambda p: -p.confidence)
    return by_turns(surest, [p.label for p in surest])


def _with_text(path: Path, name: str) -> list[Prediction]:
    return read_predictions(path / "predictions" / f"{name}.parquet")


def _by_id(answers: Iterable[Prediction], wanted: set[str]) -> dict[str, Prediction]:
    return {p.sample_id: p for p in answers if p.sample_id in wanted}


def _answer(
    prediction: Prediction, written: TraceFacts | None, failures: tuple[FailureFacts, ...]
) -> Answer:
    return Answer(
        predicted=prediction.predicted,
        confidence=prediction.confidence,
        probabilities=prediction.probabilities,
        text=None if prediction.trace is None else shortened(prediction.trace),
        written=written,
        failures=failures,
    )


def _right(answer: Prediction | None) -> bool:
    return answer is not None and answer.predicted == answer.label
