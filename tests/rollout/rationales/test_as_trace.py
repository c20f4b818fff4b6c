"""Traces made of rationales: what stays of them, and that they are whole."""

import pytest

from rollout.rationales.as_trace import trace_of
from wire.labels import Label, LabelSet, reasoning_in

LABELS = LabelSet(labels=(Label(name="normal"), Label(name="abnormal")))


@pytest.mark.parametrize(
    "rationale",
    [
        "A dog barks.",
        "A dog barks.\nClassification: normal",
        "A dog barks.\n\n**Classification:** Normal.\n",
        "<think>A dog barks.</think><answer>normal</answer>",
        "A dog barks. <answer>normal</answer>",
        "A dog barks.</think>",
        "A dog <answer>barks.",
    ],
)
def test_a_rationale_becomes_the_reasoning_of_a_trace_with_the_clips_label(rationale: str):
    trace = trace_of(rationale, "abnormal", LABELS, "Classification")
    assert trace == "<think>A dog barks.</think><answer>abnormal</answer>"
    assert (LABELS.answer_in(trace), reasoning_in(trace)) == ("abnormal", "A dog barks.")


def test_only_the_last_line_that_names_a_label_goes():
    text = "Classification: hard.\nA dog barks.\nVerdict: normal"
    trace = trace_of(text, "normal", LABELS, "Verdict")
    assert reasoning_in(trace) == "Classification: hard.\nA dog barks."
