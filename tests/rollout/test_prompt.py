import pytest

from rollout.prompt import label_prompt, trace_prompt, trace_target, verdict_prompt
from wire.labels import Label, LabelSet
from wire.types import Sample, Split

LABELS = LabelSet(labels=(Label(name="walk"), Label(name="fall", definition="ends on the ground")))
TRACE = "<think> she slips </think><answer> Fall </answer>"

PROMPTS = {
    "trace": lambda side: trace_prompt(LABELS, side),
    "verdict": lambda side: verdict_prompt(LABELS, TRACE, side),
    "label": lambda side: label_prompt(LABELS, side),
}


@pytest.mark.parametrize("make", PROMPTS.values(), ids=PROMPTS.keys())
def test_a_prompt_is_one_user_turn_with_the_clip_and_every_label(make) -> None:
    (message,) = make(None)
    assert (message.role, message.has_video) == ("user", True)
    assert "- fall: ends on the ground\n- walk\n" in message.text


@pytest.mark.parametrize("make", PROMPTS.values(), ids=PROMPTS.keys())
def test_side_text_adds_its_line_and_changes_nothing_else(make) -> None:
    (without,), (empty,), (given,) = make(None), make(""), make("seen at night {0}")
    line = "Text that came with the video: seen at night {0}\n"
    assert without == empty
    assert line in given.text
    assert given.text.replace(line, "") == without.text


def test_a_verdict_is_asked_about_the_reasoning_and_the_label_of_a_trace() -> None:
    (message,) = verdict_prompt(LABELS, TRACE)
    assert "Analysis: she slips\nConclusion: fall\n" in message.text


@pytest.mark.parametrize(
    "trace",
    [
        "she slips, so fall",
        "<think> she slips <answer>fall</answer>",
        "<think> she slips </think><answer>swim</answer>",
        "<think> she slips </think>",
        "",
    ],
)
def test_a_trace_that_cannot_be_parsed_is_shown_whole_with_an_empty_conclusion(trace: str) -> None:
    (message,) = verdict_prompt(LABELS, f" {trace}\n")
    assert f"Analysis: {trace}\nConclusion: \n" in message.text


def test_the_target_of_the_cold_start_is_the_teacher_s_trace() -> None:
    sample = Sample(id="a", video="a.mp4", label="fall", split=Split.TRAIN, trace=TRACE)
    assert trace_target(sample) == TRACE
