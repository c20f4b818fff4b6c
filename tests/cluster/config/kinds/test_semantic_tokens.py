"""Stages that learn a tokenizer, and stages whose input it makes."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.config.chain import Chain, read_stage
from cluster.config.kinds.semantic_tokens import SemanticTokensStage
from rollout.config import RolloutConfig
from tests.cluster.session_fakes import make_config, make_samples
from wire.errors import ConfigError

SAMPLES = make_samples()  # 8 train, 2 val, 5 cal, 4 test
VST = {"name": "vst", "kind": "semantic_tokens"}


def chain_of(*stages: dict[str, Any]) -> Chain:
    return make_config(stages=list(stages)).chain


def sft(**settings: Any) -> dict[str, Any]:
    return {"name": "taught", "kind": "sft", "data": "labels", **settings}


def faults(**settings: Any) -> list[str]:
    return [str(fault) for fault in read_stage({**VST, **settings}, {}).data_faults(SAMPLES)]


def test_the_last_tokenizer_before_a_stage_makes_its_input():
    chain = chain_of(VST, {**VST, "name": "fine"}, sft(input="tokens"), {**VST, "name": "late"})
    assert chain.tokenizer("taught") == "fine"
    assert (
        chain_of(VST, {**VST, "name": "fine"}, sft(input="tokens", tokens="vst")).tokenizer(
            "taught"
        )
        == "vst"
    )
    assert chain_of(VST, sft()).tokenizer("taught") is None


def test_what_reads_narratives_depends_on_the_tokenizer_and_what_comes_from_that_too():
    other = {"name": "other", "kind": "sft", "data": "labels", "from": "base"}
    chain = chain_of(
        VST, sft(input="tokens"), {"name": "g", "kind": "grpo", "input": "tokens"}, other
    )
    assert chain.dependents("vst") == ("taught", "g")
    assert chain.dependents("g") == ()
    assert chain.parent("taught") == "base", "a tokenizer leaves no policy"


def test_vectors_in_place_of_codes_have_the_blank_view_alone_and_codes_all_of_them():
    for tokens, view in (
        ({"quantise": False, "render": "embeddings"}, "blank"),
        ({"quantise": False}, "random"),
        ({"render": "embeddings"}, "random"),
    ):
        measured = {"name": "e", "kind": "evaluate", "input": "tokens", "view": view}
        assert chain_of({**VST, **tokens}, measured).tokenizer("e") == "vst"


def test_a_tokenizer_is_learned_anew_when_the_texts_that_it_reads_are_written_anew():
    first = {"name": "first", "kind": "sft", "data": "labels"}
    captions = {"name": "captions", "kind": "rationales", "task": "caption"}
    reads = {**VST, "texts": "stage:captions", "from": "base"}
    chain = chain_of(first, captions, reads, sft(input="tokens", **{"from": "base"}))
    assert chain.dependents("first") == ("captions", "vst", "taught")


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([sft(input="tokens")], 'no stage of kind "semantic_tokens" stands before it; add one'),
        ([VST, sft(input="tokens", tokens="vts")], "tokens = 'vts'; did you mean 'vst'"),
        ([VST, sft(tokens="vst")], "the input is the video; set input"),
        ([sft(input="pixels")], "'video' or 'tokens'"),
        ([VST, {"name": "v", "kind": "calibrate", "input": "tokens"}], "shows clips as videos, as"),
        (
            [VST, sft(input="tokens"), {"name": "v", "kind": "calibrate"}],
            'from taught, whose input is "tokens"; start it from a stage with input = "video"',
        ),
        (
            [VST, {"name": "e", "kind": "evaluate", "view": "dropped"}],
            'use "blank", "shuffled" or "reversed", or set input',
        ),
        (
            [
                {**VST, "quantise": False, "render": "embeddings"},
                {"name": "e", "kind": "evaluate", "input": "tokens", "view": "shuffled"},
            ],
            r"stages.e.view = 'shuffled' changes codes, and vst shows none",
        ),
        ([{**VST, "texts": "captions"}], r"stages.vst: texts"),
        ([{**VST, "attributes": ["a hand", "a hand"]}], "'a hand' twice"),
        ([{**VST, "attributes": []}], r"stages.vst: attributes"),
    ],
)
def test_a_mistake_is_refused_when_the_recipe_is_read(
    stages: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        chain_of(*stages)


def test_the_section_gives_a_tokenizer_what_it_does_not_set():
    stage = read_stage({**VST, "num_codes": 9}, {"semantic_tokens": {"num_codes": 4, "dim": 8}})
    assert isinstance(stage, SemanticTokensStage)
    assert (stage.num_codes, stage.dim, stage.render) == (9, 8, "text")


def test_texts_that_no_clip_has_or_that_mention_nothing_are_missed_before_a_start():
    assert faults() == []
    assert faults(texts="trace", attributes=["undo", "never"]) == []
    without = [replace(sample, trace=None) for sample in SAMPLES]
    (fault,) = read_stage({**VST, "texts": "trace"}, {}).data_faults(without)
    assert "texts = 'trace', and no sample with split='train' has any" in str(fault)
    (fault,) = faults(texts="column:caption")
    assert "texts = 'column:caption', and no sample with split='train' has any" in fault
    (fault,) = faults(attributes=["a hand waves"])
    assert "mentions any of 'a hand waves', so codes cannot be named" in fault
    assert faults(texts="column:caption", semantic_weight=0) == [], "nothing reads them"
    (fault,) = faults(texts="column:caption", tokenizer="/a")
    assert "no tokenizer in /a" in fault, "its texts are not read"
    assert faults(texts="stage:captions") == [], "that stage has not run"


def test_its_work_is_a_look_at_the_clips():
    work = read_stage({**VST, "epochs": 7}, {}).work(SAMPLES, RolloutConfig())
    assert (work.clips, work.epochs, work.rollouts, work.updates) == (8, 7, 0, 0)
    assert not read_stage(VST, {}).leaves_policy
