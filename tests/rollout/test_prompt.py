from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rollout.message import Foreign, Message
from rollout.prompt import PromptKind, Prompts, RationalePrompt, VerdictPrompt, trace_target
from rollout.prompts_config import PromptsConfig
from wire.errors import DataError
from wire.labels import Label, LabelSet
from wire.types import Sample, Split

LABELS = LabelSet(labels=(Label(name="walk"), Label(name="fall", definition="ends on the ground")))
TRACE = "<think> she slips </think><answer> Fall </answer>"
SAMPLE = Sample(id="a", video="a.mp4", label="fall", split=Split.TRAIN, trace=TRACE)

ASKS: dict[str, Callable[[Prompts, Sample], list[Message]]] = {
    "trace": lambda prompts, sample: prompts.trace(sample),
    "verdict": lambda prompts, sample: prompts.verdict(sample, TRACE),
    "label": lambda prompts, sample: prompts.label(sample),
    "rationale": lambda prompts, sample: prompts.rationale(sample, hint=True),
}
KINDS = pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())


def make_prompts(**texts: str) -> Prompts:
    return Prompts(LABELS, PromptsConfig(**texts), use_side_text=True)


def make_sample(text: str | None = None, **columns: Any) -> Sample:
    return replace(SAMPLE, text=text, extra=columns)


# --- the default texts


@KINDS
def test_a_prompt_is_one_user_turn_with_the_clip_and_every_label(ask: Any) -> None:
    (message,) = ask(Prompts(LABELS), SAMPLE)
    assert (message.role, message.has_video) == ("user", True)
    assert "- fall: ends on the ground\n- walk\n" in message.text


@KINDS
def test_side_text_adds_its_line_and_changes_nothing_else(ask: Any) -> None:
    texts = (None, "", "seen at night {0}")
    (without,), (empty,), (given,) = (ask(make_prompts(), make_sample(text)) for text in texts)
    line = "Text that came with the video: seen at night {0}\n"
    assert without == empty
    assert line in given.text
    assert given.text.replace(line, "") == without.text


@KINDS
def test_side_text_that_the_recipe_does_not_want_is_not_shown(ask: Any) -> None:
    assert ask(Prompts(LABELS), make_sample("at night")) == ask(Prompts(LABELS), SAMPLE)


def test_a_verdict_is_asked_about_the_reasoning_and_the_label_of_a_trace() -> None:
    (message,) = Prompts(LABELS).verdict(SAMPLE, TRACE)
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
    (message,) = Prompts(LABELS).verdict(SAMPLE, f" {trace}\n")
    assert f"Analysis: {trace}\nConclusion: \n" in message.text


def test_the_target_of_the_cold_start_is_the_teacher_s_trace() -> None:
    assert trace_target(SAMPLE) == TRACE


# --- texts of a recipe


def test_a_text_of_the_recipe_replaces_its_kind_and_no_other() -> None:
    prompts, default = make_prompts(trace="Which of {labels}?"), make_prompts()
    (message,) = prompts.trace(SAMPLE)
    assert message == Message("user", ("Which of ", "fall, walk", "?"), has_video=True)
    assert prompts.label(SAMPLE) == default.label(SAMPLE)
    assert prompts.verdict(SAMPLE, TRACE) == default.verdict(SAMPLE, TRACE)


def test_every_kind_is_asked_by_its_name() -> None:
    texts = {"trace": "T", "verdict": "V {reasoning}", "label": "L", "caption": "C"}
    prompts = make_prompts(**texts, rationale="R {hint}!", hint="It is {label}.")
    kinds: tuple[PromptKind, ...] = ("trace", VerdictPrompt(TRACE), "label", "caption")
    asked = [prompts.ask(kind, SAMPLE)[0].text for kind in kinds]
    assert asked == ["T", "V she slips", "L", "C"]
    told, untold = (prompts.ask(RationalePrompt(hint), SAMPLE)[0].text for hint in (True, False))
    assert (told, untold) == ("R It is fall.\n!", "R !")


# --- rationales and captions


def test_a_rationale_is_asked_for_with_the_true_label_only_where_there_is_to_be_a_hint() -> None:
    (told,), (untold,) = (Prompts(LABELS).rationale(SAMPLE, hint=hint) for hint in (True, False))
    (line,) = set(told.text.splitlines()) - set(untold.text.splitlines())
    assert "fall" in line
    assert untold.text == told.text.replace(line + "\n", "")
    assert untold == Prompts(LABELS).rationale(replace(SAMPLE, label="walk"), hint=False)[0]


def test_a_caption_is_asked_for_without_any_label() -> None:
    (message,) = make_prompts().caption(make_sample("at night"))
    assert message.has_video
    assert "at night" in message.text
    assert not any(name in message.text for name in LABELS.names)


def test_the_label_of_a_hint_is_foreign_and_its_words_are_ours() -> None:
    prompts = make_prompts(rationale="A {hint}Z", hint="it is {label}, {title}")
    (message,) = prompts.rationale(make_sample(title="x"), hint=True)
    assert message.parts == ("A ", "it is ", "fall", ", ", "x", "\n", "Z")
    foreign = [part for part in message.parts if isinstance(part, Foreign)]
    assert [(part, part.of) for part in foreign] == [("fall", "labels"), ("x", "sample")]


def test_a_column_of_the_hint_is_asked_of_a_sample_only_where_there_is_one() -> None:
    prompts = make_prompts(hint="{label}: {reason}")
    assert prompts.columns == {"reason": ("hint",)}
    assert prompts.rationale(SAMPLE, hint=False)
    with pytest.raises(DataError, match="'reason'"):
        prompts.rationale(SAMPLE, hint=True)


def test_a_column_called_hint_is_a_column_in_other_texts() -> None:
    prompts = make_prompts(trace="Which? {hint}")
    assert prompts.columns == {"hint": ("trace",)}
    assert prompts.trace(make_sample(hint="dark"))[0].text == "Which? dark"
    assert "dark" not in prompts.rationale(make_sample(hint="dark"), hint=False)[0].text
    system, _ = make_prompts(system="{hint}").rationale(make_sample(hint="dark"), hint=True)
    assert system.text == "dark"


def test_the_version_of_a_rationales_prompt_says_whether_there_is_a_hint_and_which() -> None:
    def versions(**texts: str) -> tuple[str, str]:
        prompts = make_prompts(**texts)
        told, untold = (prompts.version(RationalePrompt(hint)) for hint in (True, False))
        return told, untold

    assert versions() == ("rationale-1+hint-1", "rationale-1")
    other_hint, other_text = versions(hint="It is {label}."), versions(rationale="Why? {hint}")
    assert other_hint[1] == "rationale-1"
    assert len({*versions(), *other_hint, *other_text}) == 5
    assert make_prompts().version("caption") == "caption-1"


@KINDS
def test_a_system_text_is_a_turn_of_its_own_before_the_clip(ask: Any) -> None:
    system, user = ask(make_prompts(system="You judge {title}."), make_sample(title="x"))
    assert system == Message("system", ("You judge ", "x", "."))
    assert (user.role, user.has_video) == ("user", True)


def test_all_that_came_with_the_data_is_foreign_and_what_the_model_wrote_is_not() -> None:
    text = "{labels}{definitions}{text}{side_text}{title}|{reasoning}{conclusion}"
    sample = make_sample("t", title="x")
    (message,) = make_prompts(verdict=text).verdict(sample, TRACE)
    bar = message.parts.index("|")
    assert [isinstance(part, Foreign) for part in message.parts] == [True] * bar + [False] * 3


def test_columns_of_the_manifest_are_shown_plainly_and_their_braces_stay() -> None:
    text = "{id}|{title}|{score}|{people}|{tags}|{night}|{sticker text}"
    columns = {
        **{"title": "a {labels} b", "score": 0.25, "people": 3.0, "tags": ["x", 2]},
        **{"night": True, "sticker text": ""},
    }
    (message,) = make_prompts(trace=text).trace(make_sample(**columns))
    assert message.text == "a|a {labels} b|0.25|3|x, 2|true|"


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_sample_without_a_shown_value_is_named_with_the_column(value: Any) -> None:
    with pytest.raises(DataError, match="sample 'a' has no value in column 'title'"):
        make_prompts(trace="{title}").trace(make_sample(title=value))


def test_a_column_is_asked_of_a_sample_only_where_its_kind_of_prompt_shows_it() -> None:
    prompts = make_prompts(verdict="{title}: {reasoning}")
    assert prompts.trace(SAMPLE)
    assert prompts.columns == {"title": ("verdict",)}
    with pytest.raises(DataError):
        prompts.verdict(SAMPLE, TRACE)


def test_a_bare_prompt_knows_nothing_of_a_sample() -> None:
    prompts = make_prompts(trace="{definitions}\n{title}\n{side_text}Go.", system="{camera}")
    system, user = prompts.bare()
    assert (system.text, user.text) == ("", "- fall: ends on the ground\n- walk\n\nGo.")


# --- versions


def test_the_default_texts_have_the_version_that_older_archives_hold() -> None:
    texts = ("trace", "verdict", "label", "rationale", "hint", "caption")
    assert Prompts(LABELS).versions == dict.fromkeys(texts, "1")
    again = PromptsConfig()
    assert make_prompts(trace=again.trace + "\n").version("trace") == "1"


def test_a_version_changes_with_the_text_of_its_kind_the_system_text_and_the_definitions() -> None:
    one, same = make_prompts(trace="A {definitions}"), make_prompts(trace="A {definitions}\n")
    assert one.version("trace") == same.version("trace") != "1"
    assert len(one.version("trace")) == 12
    assert one.version("label") == one.version(VerdictPrompt("x")) == "1"
    other_labels = replace(
        one, labels=LabelSet(labels=(Label(name="walk"), Label(name="fall", definition="down")))
    )
    others = [make_prompts(trace="B {definitions}"), make_prompts(system="S"), other_labels]
    versions = {prompts.version("trace") for prompts in (one, *others)}
    assert len(versions) == 4
    assert make_prompts(system="S").version("label") != "1"
