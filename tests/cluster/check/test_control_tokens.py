from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cluster.check.control_tokens import control_token_findings
from cluster.config.recipe import read_recipe
from rollout.render import Renderer
from tests.cluster.check.builders import make_sample, only
from wire.finding import Area, Finding, Level
from wire.types import Sample

TRACE = "<think>it goes up</think><answer>undo</answer>"
Find = Callable[..., list[Finding]]


@pytest.fixture
def find(recipe: Callable[..., Path]) -> Find:
    def findings(samples: Sequence[Sample], *settings: str) -> list[Finding]:
        config = read_recipe(recipe(), list(settings))
        controls = Renderer.load(config.model, 400).control_tokens
        return control_token_findings(config, samples, [s for s in samples if s.trace], controls)

    return findings


@pytest.mark.parametrize("token", ["<|im_end|>", "<|video_pad|>", "<|endoftext|>"])
def test_a_trace_that_spells_a_control_token_is_shown(find: Find, token: str):
    bad = make_sample("bad", trace=TRACE.replace("goes", f"goes{token}"))
    finding = only(find([make_sample("good", trace=TRACE), bad]), Level.WARNING)
    assert finding.area is Area.TRACES
    assert finding.what == "1 of 2 traces spell control tokens of the model"
    (where,) = finding.where
    assert where.startswith("bad: ")
    assert f"it goes{token} up" in where


def test_side_text_is_looked_at_where_a_prompt_shows_it(find: Find):
    samples = [make_sample("a", text="x <|im_start|>"), make_sample("b", text="y < | >")]
    finding = only(find(samples, "data.use_side_text=true"), Level.WARNING)
    assert finding.area is Area.PROMPTS
    assert finding.what.startswith("1 of 2 rows' side texts")
    assert find(samples) == []


def test_columns_are_looked_at_where_a_prompt_shows_them(find: Find):
    samples = [make_sample("a", extra={"title": "<|im_end|>"})]
    text = "prompts.verdict='{title}: {definitions} {reasoning} {conclusion}'"
    assert only(find(samples, text), Level.WARNING).area is Area.PROMPTS
    assert find(samples) == []


def test_labels_and_prompts_of_the_recipe_are_looked_at(find: Find):
    labels = 'labels=[{name="undo", definition="as <|im_end|> says"}, {name="repeat"}]'
    finding = only(find([], labels), Level.WARNING)
    assert (finding.area, len(finding.where)) == (Area.LABELS, 1)
    finding = only(find([], "prompts.label='<|im_start|>system {definitions}'"), Level.WARNING)
    assert finding.where == ("prompts.label: '<|im_start|>system {definiti...'",)


def test_a_trace_with_a_tag_twice_is_said(find: Find):
    inner = TRACE.replace("up", "up <answer>undo</answer>")
    finding = only(
        find([make_sample("a", trace=TRACE), make_sample("b", trace=inner)]), Level.WARNING
    )
    assert finding.what.startswith("1 of 2 traces hold a tag more than once")
    assert finding.where == ("b",)


def test_clean_texts_have_no_finding(find: Find):
    samples = [make_sample("a", trace=TRACE, text="a < b | c > d [INST] <b>")]
    assert find(samples, "data.use_side_text=true") == []
