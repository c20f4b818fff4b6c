"""Evaluations are written from values alone, without a session."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from calibrate.predictions import Prediction, read_predictions
from cluster.stages.evaluation import EvaluationWriter, readable
from tests.cluster.session_fakes import make_samples
from wire.labels import Label, LabelSet

LABELS = LabelSet(labels=(Label(name="a"), Label(name="b")))


class Log:
    """Keeps the lines it is given."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, dict[str, float]]] = []

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self.lines.append((stage, step, dict(values)))


def prediction(sample_id: str, label: str, predicted: str | None) -> Prediction:
    return Prediction(
        sample_id=sample_id,
        label=label,
        predicted=predicted,
        confidence=0.5 if predicted else 0.0,
        probabilities=None,
        trace=None,
    )


async def test_predictions_and_their_figures_are_written_under_the_name_and_step(
    tmp_path: Path,
) -> None:
    log = Log()
    writer = EvaluationWriter(
        lambda name: tmp_path / f"{name}.parquet", LABELS, ["b", "b", "a"], log
    )
    predictions = [
        replace(prediction("1", "a", "a"), trace="<answer>a</answer>"),
        replace(prediction("2", "b", "a"), trace="<answer>b</answer>"),
        prediction("3", "b", None),
    ]
    written = await writer.write("second_grpo", iter(predictions), 7)
    figures = written.figures
    assert written.predictions == [replace(one, trace=None) for one in predictions]
    assert written.agreement == 1 / 2
    assert figures.accuracy == pytest.approx(1 / 3)
    assert figures.majority_baseline == pytest.approx(2 / 3)
    assert read_predictions(tmp_path / "second_grpo.parquet") == predictions
    ((stage, step, values),) = log.lines
    assert (stage, step) == ("eval", 7)
    assert values["second_grpo/accuracy"] == figures.accuracy
    assert values["second_grpo/unparsed_frac"] == pytest.approx(1 / 3)
    assert "second_grpo/brier" not in values  # needs probabilities of all labels


def test_quarantined_clips_are_not_asked_about() -> None:
    first, second = make_samples()[:2]
    assert readable([first, second], {first.video}) == [second]
