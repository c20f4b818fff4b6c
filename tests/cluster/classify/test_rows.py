"""Rows as JSON, and the summary's figures and words."""

import json
from dataclasses import replace

from calibrate.decision import Reason
from cluster.classify.rows import Controlled, Row, Summary, Versions
from video.address import View
from wire.strict_json import to_json
from wire.types import Failure, FailureKind

ROW = Row(
    id="a.mp4",
    video="/clips/a.mp4",
    label="undo",
    probabilities={"repeat": 0.2, "undo": 0.8},
    prediction_set=("undo",),
    decision="auto",
    trace="<think>left</think><answer>undo</answer>",
    frames=(0, 4, 8),
    versions=Versions(policy="0.7", classifier="c1", calibrator="d1"),
    seconds=0.12345,
)
FAILED = Row(
    id="b.mp4",
    video="/clips/b.mp4",
    versions=ROW.versions,
    truth="undo",
    failure=Failure(kind=FailureKind.DECODE, culprit="/clips/b.mp4", reason="cut"),
)


def controlled(label: str, variation: float | None) -> Row:
    control = Controlled(
        view=View.BLANK,
        label=label,
        label_changed=label != ROW.label,
        total_variation=variation,
        probabilities={},
    )
    return replace(ROW, control=control)


def test_a_row_is_plain_json_and_leaves_out_what_does_not_apply() -> None:
    values = json.loads(to_json(ROW.as_json()))
    assert values == {
        "id": "a.mp4",
        "video": "/clips/a.mp4",
        "label": "undo",
        "probabilities": {"repeat": 0.2, "undo": 0.8},
        "prediction_set": ["undo"],
        "decision": "auto",
        "reasons": [],
        "trace": "<think>left</think><answer>undo</answer>",
        "frames": [0, 4, 8],
        "versions": {"policy": "0.7", "classifier": "c1", "calibrator": "d1"},
        "seconds": 0.123,
    }
    assert "trace" not in ROW.as_json(with_trace=False)
    review = replace(ROW, reasons=(Reason(code="unparsed", text="no answer"),))
    assert review.as_json()["reasons"] == [{"code": "unparsed", "text": "no answer"}]


def test_a_summary_counts_decisions_failures_and_accuracy() -> None:
    summary = Summary()
    for row in (
        replace(ROW, truth="undo"),
        replace(ROW, truth="repeat", decision="review"),
        ROW,
        FAILED,
    ):
        summary.add(row)
    lines = "\n".join(summary.lines())
    assert "4 clips in " in lines
    assert "2 decided, 1 for review, 1 failed" in lines
    assert "failures: decode 1" in lines
    assert "accuracy: 0.333 (1 of 3 clips with a label; a failure is wrong)" in lines
    assert "of those decided 1.000 (1)" in lines
    assert "control" not in lines


def test_a_control_says_what_it_means_if_nothing_changes() -> None:
    summary = Summary()
    for row in (controlled("undo", 0.0), controlled("repeat", 0.5), controlled("undo", None)):
        summary.add(row)
    (line,) = [line for line in summary.lines() if line.startswith("control")]
    assert "grey frames: the label changed in 1 of 2 clips, probabilities by 0.250" in line
    assert "not read from the pixels" in line


def test_there_is_no_summary_of_nothing() -> None:
    assert list(Summary().lines()) == []
