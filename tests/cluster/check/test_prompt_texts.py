import pytest

from cluster.check.prompt_texts import text_findings
from rollout.prompt import Prompts
from rollout.prompts_config import PromptsConfig
from tests.cluster.check.builders import LABELS, levels, make_sample, only
from wire.finding import Level
from wire.labels import Label, LabelSet
from wire.types import Sample

ASKS = "Of {labels}: <think>, then <answer>."
SAMPLES = [make_sample("a", extra={"title": "x"}), make_sample("b", extra={"title": "y"})]


def found(samples: list[Sample] = SAMPLES, *, side: bool = False, **texts: str):
    return text_findings(Prompts(LABELS, PromptsConfig(**texts), side), samples)


def test_default_texts_need_no_finding_and_others_are_named_with_their_versions():
    assert found() == []
    (finding,) = found(trace=ASKS)
    assert finding.level is Level.OK
    assert "verdict 1" in finding.what
    assert "trace 1" not in finding.what


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"trace": "Of {labels}, write one."}, "does not ask for <think> and <answer>"),
        ({"trace": "Of {labels}: <think> first."}, "does not ask for <answer>"),
        ({"trace": "<think> <answer>"}, "prompts.trace does not list the labels: 3 of 3"),
        ({"label": "fall or normal?"}, "prompts.label does not list the labels: 1 of 3"),
        ({"verdict": "{labels}"}, "prompts.verdict shows nothing of the trace"),
        ({"trace": ASKS + " {{labels}}"}, "prompts.trace writes {{labels}}"),
    ],
)
def test_what_parser_and_model_need_of_a_text_is_said(texts: dict[str, str], said: str):
    assert said in only(found(**texts), Level.WARNING).what


@pytest.mark.parametrize(
    "texts",
    [
        {"trace": "Fall, brush hair, NORMAL? <think> <answer>"},
        {"system": "{definitions} <think> <answer>", "trace": "Which?", "label": "Which?"},
        {"trace": ASKS, "verdict": "{labels} {conclusion}", "label": '{{"of": "{labels}"}}'},
        {"trace": ASKS + " {title}"},
    ],
)
def test_texts_that_say_all_have_no_warning(texts: dict[str, str]):
    assert levels(found(**texts)) == [Level.OK]


def test_definitions_that_no_prompt_shows_are_said():
    labels = LabelSet(labels=(Label(name="fall", definition="down"), Label(name="run")))
    texts = {"trace": ASKS, "verdict": "{labels} {reasoning}", "label": "{labels}"}
    finding = only(text_findings(Prompts(labels, PromptsConfig(**texts)), SAMPLES), Level.WARNING)
    assert finding.what == "1 labels have a definition, and no prompt shows it"
    without_label = {"trace": ASKS, "verdict": "{labels} {reasoning}"}
    prompts = Prompts(labels, PromptsConfig(**without_label))
    assert levels(text_findings(prompts, SAMPLES)) == [Level.OK]


def test_side_text_without_a_place_is_said():
    samples = [make_sample("a", text="in a kitchen")]
    assert (
        "no place for the text" in only(found(samples, side=True, trace=ASKS), Level.WARNING).what
    )
    assert levels(found(samples, side=True, trace=ASKS + "{text}")) == [Level.OK]
    assert levels(found(samples, side=True, trace=ASKS, system="{text}")) == [Level.OK]
    assert levels(found(samples, trace=ASKS)) == [Level.OK]


def test_a_column_that_is_not_there_is_an_error_with_the_nearest():
    finding = only(found(trace=ASKS + " {titel}"), Level.ERROR)
    assert finding.what == "prompts.trace: the manifest has no column 'titel' for {titel}"
    assert finding.remedy == "did you mean 'title'?"
