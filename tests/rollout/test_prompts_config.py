import pytest
from pydantic import ValidationError

from rollout.prompts_config import (
    DEFAULT_TEXTS,
    TEXT_NAMES,
    PromptsConfig,
    own_fields,
    unknown_field,
)


@pytest.mark.parametrize("name", TEXT_NAMES)
@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("label", "would show the model the answer; {labels} lists all labels"),
        ("trace", "would show the model the answer"),
        ("video", "a file's name often tells the label"),
        ("split", "the same in training and test"),
        ("start_s", "copy them to one of another name"),
    ],
)
def test_a_field_that_gives_the_label_away_is_refused_by_name(
    name: str, field: str, said: str
) -> None:
    if (name, field) == ("hint", "label"):
        pytest.skip("the one text that names the label")
    with pytest.raises(ValidationError) as refused:
        PromptsConfig(**{name: f"Look: {{{field}}}"})
    assert f"{{{field}}} is not shown" in str(refused.value)
    assert said in str(refused.value)


def test_the_label_is_shown_by_the_hint_alone_and_the_hint_by_the_rationale() -> None:
    texts = PromptsConfig(rationale="Why? {hint}", hint="It is {label}.")
    assert (texts.rationale, texts.hint) == ("Why? {hint}", "It is {label}.")
    assert own_fields("hint") == ("labels", "definitions", "text", "side_text", "label")
    assert "hint" in own_fields("rationale")
    assert "hint" not in own_fields("trace")


@pytest.mark.parametrize("name", ["system", "trace", "label", "rationale", "hint", "caption"])
@pytest.mark.parametrize("field", ["reasoning", "conclusion"])
def test_parts_of_a_trace_are_of_the_verdicts_prompt_alone(name: str, field: str) -> None:
    with pytest.raises(ValidationError, match=f"{{{field}}} is of a verdict's prompt"):
        PromptsConfig(**{name: f"{{{field}}}"})
    assert PromptsConfig(verdict=f"{{{field}}}").verdict == f"{{{field}}}"


def test_an_empty_text_is_refused_but_for_the_systems() -> None:
    for name in set(TEXT_NAMES) - {"system"}:
        with pytest.raises(ValidationError, match="expected a text"):
            PromptsConfig(**{name: " \n"})
    assert PromptsConfig(system="").system == ""


def test_line_breaks_around_a_text_are_not_part_of_it() -> None:
    assert PromptsConfig(trace="\nA\n\nB \n").trace == "A\n\nB "


def test_the_defaults_are_templates() -> None:
    texts = DEFAULT_TEXTS.model_dump()
    assert PromptsConfig(**texts) == DEFAULT_TEXTS == PromptsConfig()


@pytest.mark.parametrize(
    ("name", "field", "near"),
    [
        ("trace", "lables", "did you mean 'labels'?"),
        ("trace", "titel", "did you mean 'title'?"),
        ("trace", "Text", "did you mean 'text'?"),
        ("verdict", "reason", "did you mean 'reasoning'?"),
        ("trace", "xyzzy", "fields: labels, definitions, text, side_text, title"),
    ],
)
def test_an_unknown_field_is_answered_with_the_nearest(name: str, field: str, near: str) -> None:
    message = unknown_field(name, field, ("title", "label"))
    assert f"prompts.{name}: the manifest has no column {field!r}" in message
    assert near in message
