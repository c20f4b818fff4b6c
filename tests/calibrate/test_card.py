import re
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from calibrate.calibration import Calibration
from calibrate.calibrator import Calibrator
from calibrate.card import model_card
from calibrate.description import AnswerSettings, ArchiveFacts
from tests.calibrate.classifiers import (
    make_calibration,
    make_description,
    make_provenance,
    measured_calibration,
    measured_evaluation,
    publish,
)


def card(calibration: Calibration | None = None, **changes) -> str:
    values = {
        "description": make_description(),
        "calibration": calibration or measured_calibration(),
        "provenance": make_provenance(),
        "evaluation": measured_evaluation(),
    }
    return model_card(**{**values, **changes})


def test_the_hub_reads_its_front_matter_and_the_figures_are_those_of_test():
    read = ModelCard(card())
    assert read.data.library_name == "deepintuit"
    assert read.data.pipeline_tag == "video-classification"
    after = measured_calibration().figures[0].after
    results = {one.metric_type: one.metric_value for one in read.data.eval_results}
    assert results == {
        "accuracy": round(after.accuracy, 4),
        "f1": round(after.macro_f1, 4),
        "ece": round(after.ece, 4),
    }
    assert read.data.eval_results[0].dataset_split == "test"


@pytest.mark.parametrize(
    "text",
    [card(), card(make_calibration(), evaluation=None), card(measured_calibration(12, 0.01))],
    ids=["whole", "without figures", "of few clips"],
)
def test_no_part_is_empty_and_no_value_is_missing(text: str):
    parts = re.split(r"^##+ .*$", text, flags=re.MULTILINE)
    titles = re.findall(r"^##+ .*$", text, flags=re.MULTILINE)
    empty = [title for title, part in zip(titles, parts[1:], strict=True) if not part.strip()]
    assert empty == []
    assert not re.search(r"\b(nan|inf|None|null)\b|\{|\}", text)
    assert not re.search(r"\d\.\d{5,}", text)
    assert max(map(len, re.findall(r"\n{2,}", text))) == 2
    widths = [line.count("|") - line.count("\\|") for line in text.splitlines() if line[:1] == "|"]
    assert min(widths) >= 3


def test_candidates_stand_beside_the_chosen_one():
    text = card()
    assert "| **policy+verdict** (chosen) | 0." in text
    assert "| policy | 0." in text
    assert "Choice: policy+verdict has the best nll on 400 val clips" in text
    assert "val nll was still improving when training ended" in text


def with_weights(**weights: float) -> Calibration:
    """A measured calibration, whose calibrator has these weights."""
    names = make_description().label_names
    calibrator = Calibrator(label_names=names, weights=weights)
    return replace(measured_calibration(), calibrator=calibrator)


def test_a_temperature_and_a_pool_are_said_with_their_numbers():
    assert "added as 0.8 x policy + 0.4 x verdict" in card(with_weights(policy=0.8, verdict=0.4))
    verdict = make_description(sources=("verdict",))
    text = card(with_weights(verdict=0.8), description=verdict)
    assert "scaled by a temperature of 1.25" in text
    votes = make_description(sources=("vote",), answers=AnswerSettings(num_votes=8))
    assert "ends one of 8 sampled traces" in card(with_weights(vote=1.0), description=votes)


def test_before_and_after_calibration_are_explained():
    text = card(with_weights(policy=0.8, verdict=0.4))
    assert "the same pool without a temperature (0.667 x policy + 0.333 x verdict: " in text
    assert "not labels" in text
    one = card(with_weights(verdict=0.8), description=make_description(sources=("verdict",)))
    assert "Before calibration: with a temperature of 1." in one


def test_figures_on_the_clips_it_was_fitted_to_are_said_to_be_too_good():
    measured = measured_calibration()
    val = replace(measured.figures[0], split="val")
    text = card(replace(measured, figures=(val, *measured.figures)))
    assert text.count("a little too good") == 1


def test_without_val_clips_no_temperature_is_claimed():
    text = card(make_calibration())
    assert "as they come: without val clips, no temperature was fitted" in text
    assert "fitted on the val clips" not in text


def test_a_group_below_the_promise_is_named():
    text = card()
    assert re.search(r"\*\*Below the promise:\*\* .*new looks \(marginal: 0\.\d{3}\)", text)
    kept = replace(
        measured_calibration(),
        coverage=tuple(c for c in measured_calibration().coverage if c.group == "old looks"),
    )
    assert "Below the promise" not in card(kept)


def test_errors_of_automatic_decisions_stand_beside_the_promise():
    text = card()
    assert "| clips | n | automatic | promised error | measured error |" in text
    assert re.search(r"\| test, new looks \| \d+ \| \d+ \| 0\.300 \| 0\.\d{3}", text)
    assert "**More errors than promised:** new looks." in text
    known = measured_calibration().automatic[2:]
    assert [one.group for one in known] == ["old looks"]
    assert "More errors" not in card(replace(measured_calibration(), automatic=known))
    every = measured_calibration().automatic[0]  # 0.30 promised, the interval from 0.25 to 0.34
    missed = replace(every, measured=replace(every.measured, error=0.32))
    text = card(replace(measured_calibration(), automatic=(missed,)))
    assert "More errors than promised, maybe by chance: all." in text


def test_a_threshold_that_is_not_attainable_is_an_answer():
    text = card(measured_calibration(12, 0.01))
    assert re.search(r"is not attainable with these \d+ held-out clips", text)
    assert "No decision is automatic: every one goes to a person." in text


def test_foreign_traces_are_marked():
    archive = ArchiveFacts(name="other", foreign="policy 0.40 wrote them, 0.82 is served")
    text = card(provenance=make_provenance(archive=archive))
    assert "**It was fitted to traces of another policy:** policy 0.40 wrote them" in text


def test_definitions_and_names_cannot_break_a_table():
    labels = tuple(
        one.model_copy(update={"definition": "a | b\n\nsecond line " + "x" * 400})
        for one in make_description().labels
    )
    text = card(description=make_description(labels=labels))
    row = next(line for line in text.splitlines() if line.startswith("| abnormal"))
    assert "a \\| b second line" in row
    assert len(row) < 340


def test_the_directory_holds_its_card_and_its_evaluation(tmp_path: Path):
    weights = measured_calibration().calibrator.weights
    assert set(weights) == {"policy", "verdict"}
    out = publish(
        tmp_path, calibration=measured_calibration(), evaluation=measured_evaluation()
    ).path
    assert (out / "README.md").read_text() == card()
    assert '"recall"' in (out / "evaluation.json").read_text()


def test_a_source_of_no_weight_is_not_shown_as_read():
    policy = make_description(sources=("policy",))
    text = card(with_weights(policy=0.5, verdict=0.0), description=policy)
    assert "scaled by a temperature of 2," in text


def test_only_a_head_that_reads_traces_is_bound_to_those_of_its_policy():
    said_of = {
        features: card(
            with_weights(head=1.0),
            description=make_description(sources=("head",), label_codes={}, head_features=features),
        )
        for features in ("trace", "video")
    }
    assert "It reads traces of this policy" in said_of["trace"]
    assert "It reads traces of this policy" not in said_of["video"]
