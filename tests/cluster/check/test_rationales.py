from typing import Any

import pytest

from cluster.check.rationales import length_findings, rationale_findings
from cluster.config.recipe import RunConfig
from tests.cluster.check.builders import make_sample
from tests.cluster.session_fakes import make_config
from wire.finding import Level
from wire.types import Split


def make(stage: dict[str, Any] | None = None, **texts: str) -> RunConfig:
    stages = [{"name": "why", "kind": "rationales", **(stage or {})}]
    return make_config(stages=stages, prompts=texts)


def whats(config: RunConfig) -> list[str]:
    findings = rationale_findings(config, ["why"])
    assert all(one.level is Level.WARNING for one in findings)
    return [one.what for one in findings]


def test_the_default_texts_need_no_finding():
    assert whats(make()) == whats(make({"hint": False})) == whats(make({"task": "caption"})) == []


@pytest.mark.parametrize(
    ("stage", "text", "said"),
    [
        ({}, "Why? {hint}", 'neither for a line "Classification: ..." nor for <answer>'),
        ({"closing": "Answer"}, "Why? {hint}Classification: {labels}", 'line "Answer: ..."'),
        ({"hint": False}, "Why? End with Classification: X", "does not list the labels"),
    ],
)
def test_what_the_filters_read_must_be_asked_for(stage: dict[str, Any], text: str, said: str):
    (what,) = whats(make(stage, rationale=text))
    assert said in what


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        ({"filters": {"parse": False}}, "Why? {hint}"),
        ({}, "Why? {hint}Then <answer>"),
        ({"closing": "LABEL"}, "Why? {hint}Then Label: X"),
        ({"hint": False}, "Why? {labels} Classification: X"),
        ({"task": "caption"}, "Why?"),
    ],
)
def test_texts_that_ask_for_it_have_no_finding(stage: dict[str, Any], text: str):
    assert whats(make(stage, rationale=text)) == []


def test_stages_that_are_not_to_run_are_not_looked_at():
    assert rationale_findings(make(rationale="Why? {hint}"), []) == []


def test_prompts_that_may_be_too_long_are_said_with_the_longest_text_about_the_largest_clip():
    config = make(rationale="{hint}", hint="{label} {note} Classification:")
    notes = {"a": "x", "b": "x" * 400, "c": "x" * 900}
    samples = [
        make_sample(name, label="undo", extra={"note": note}) for name, note in notes.items()
    ]
    samples[2] = make_sample("c", label="undo", split=Split.TEST, extra={"note": "x" * 900})
    limit = config.rollout.max_prompt_length

    def characters(messages: Any) -> int:
        return sum(len(one.text) for one in messages)

    length = len("undo " + notes["b"] + " Classification:\n")
    assert length_findings(config, ["why"], samples, characters, limit - length) == []
    (finding,) = length_findings(config, ["why"], samples, characters, limit - length + 1)
    assert f"up to {limit + 1} tokens" in finding.what
    assert finding.level is Level.WARNING
