"""Chains of stages: their order, what each starts from, its versions, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.chain import BASE, Chain, read_chain, read_stage
from cluster.config.kinds.evaluate import EvaluateStage
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.sft import SftStage
from cluster.config.recipe import RunConfig
from rollout.prompt import RationalePrompt
from tests.cluster.session_fakes import make_config
from video.address import View
from wire.config import validate
from wire.errors import ConfigError
from wire.types import Split

DEFAULT = ("base", "coldstart", "grpo", "calibrated")
CUSTOM: list[dict[str, Any]] = [
    {"name": "labels", "kind": "sft", "data": "labels"},
    {"name": "own", "kind": "sft", "data": "own", "epochs": 2, "from": "base"},
    {"name": "g1", "kind": "grpo"},
    {"name": "g2", "kind": "grpo", "num_steps": 5, "clips": {"splits": ["cal"]}},
    {"name": "verdict", "kind": "calibrate", "from": "g1"},
    {"name": "unseen", "kind": "evaluate", "view": "blank"},
    {"name": "asked", "kind": "evaluate", "answer": "label", "from": "labels", "split": "val"},
]

WRITES = {"name": "writes", "kind": "rationales", "num_rationales": 3}
LEARNS = {"kind": "sft", "data": "rationales"}
FROM_MANIFEST = {**LEARNS, "rationales": "manifest"}


def chain_of(*stages: dict[str, Any], **changes: Any) -> Chain:
    return make_config(stages=list(stages), **changes).chain


def steps_of(chain: Chain) -> dict[str, tuple[int, int]]:
    return {name: (chain.first_step(name), chain.last_step(name)) for name in chain.names}


# --- order, parents, versions


def test_without_stages_a_recipe_has_deepintuits_chain():
    chain = make_config().chain
    assert chain.names == DEFAULT
    assert [chain.parent(name) for name in DEFAULT] == ["base", "base", "coldstart", "grpo"]
    # the cold start is version 1, and GRPO of three steps goes on from there
    assert steps_of(chain) == {
        **{"base": (0, 0), "coldstart": (1, 1)},
        **{"grpo": (1, 4), "calibrated": (4, 4)},
    }
    assert chain.last_version_step == 4
    assert chain.candidates("calibrated") == ("grpo", "coldstart", "base")
    assert chain.dependents("coldstart") == ("grpo", "calibrated")
    assert chain.dependents("calibrated") == ()


def test_without_cold_start_grpo_has_versions_of_its_own_from_the_first():
    chain = make_config(coldstart={"epochs": 0}).chain
    assert chain.names == ("base", "grpo", "calibrated")
    assert chain.parent("grpo") == BASE
    assert steps_of(chain) == {"base": (0, 0), "grpo": (1, 4), "calibrated": (4, 4)}


def test_a_chain_of_ones_own_has_its_order_and_its_parents():
    chain = chain_of(*CUSTOM)
    assert chain.names == tuple(stage["name"] for stage in CUSTOM)
    parents = {name: chain.parent(name) for name in chain.names}
    assert parents == {
        **{"labels": "base", "own": "base", "g1": "own", "g2": "g1"},
        **{"verdict": "g1", "unseen": "g2", "asked": "labels"},
    }
    assert steps_of(chain) == {
        **{"labels": (1, 1), "own": (2, 2), "g1": (2, 5), "g2": (5, 10)},
        **{"verdict": (5, 5), "unseen": (10, 10), "asked": (1, 1)},
    }
    assert chain.candidates("verdict") == ("g1",), "what it names, and nothing else"
    assert chain.candidates("unseen") == ("g2", "g1", "own", "labels", "base")
    assert chain.dependents("own") == ("g1", "g2", "verdict", "unseen")
    assert chain.dependents("g2") == ("unseen",)


def test_a_grpo_that_goes_on_from_older_weights_serves_them_as_a_new_version():
    chain = chain_of(
        {"name": "a", "kind": "grpo"},
        {"name": "b", "kind": "grpo", "from": "base"},
        {"name": "c", "kind": "grpo", "from": "a"},
    )
    assert steps_of(chain) == {"a": (1, 4), "b": (5, 8), "c": (9, 12)}


@given(st.data())
def test_no_version_step_is_of_two_stages(data: st.DataObject):
    kinds: list[dict[str, Any]] = [
        {"kind": "sft", "data": "labels"},
        {"kind": "grpo", "num_steps": 2},
        {"kind": "calibrate"},
        {"kind": "evaluate"},
    ]
    stages: list[dict[str, Any]] = []
    leaving = [BASE]
    for number in range(data.draw(st.integers(1, 6))):
        stage = data.draw(st.sampled_from(kinds)) | {"name": f"s{number}"}
        if data.draw(st.booleans()):
            stage["from"] = data.draw(st.sampled_from(leaving))
        stages.append(stage)
        leaving += [stage["name"]] if stage["kind"] in ("sft", "grpo") else []
    chain = chain_of(*stages)
    owners: dict[int, str] = {0: BASE}
    for stage in chain:
        first, last = chain.first_step(stage.name), chain.last_step(stage.name)
        assert last <= chain.last_version_step
        for step in range(first, last + 1) if stage.num_versions else ():
            goes_on = step == first and owners.get(step) == chain.parent(stage.name)
            assert step not in owners or (goes_on and stage.num_versions > 1)
            owners[step] = stage.name


# --- settings


def test_what_a_stage_does_not_set_is_taken_from_the_section_of_its_kind():
    chain = chain_of(
        *CUSTOM,
        evaluate={"temperature": 0.5, "split": "val"},
        coldstart={"epochs": 7, "batch_size": 3, "optim": {"warmup_steps": 9}},
        grpo={"num_steps": 6, "groups_per_step": 4},
        calibrate={"num_traces": 3},
    )
    labels, own, first, second = (chain[name] for name in ("labels", "own", "g1", "g2"))
    assert isinstance(labels, SftStage)
    assert isinstance(own, SftStage)
    assert isinstance(first, GrpoStage)
    assert isinstance(second, GrpoStage)
    assert (labels.epochs, own.epochs, labels.batch_size, own.batch_size) == (7, 2, 3, 3)
    assert (own.optim.warmup_steps, own.optim.learning_rate) == (9, 2e-5)
    assert (labels.num_groups, own.num_groups) == (None, 6 * 4)
    assert (first.num_steps, second.num_steps, second.groups_per_step) == (6, 5, 4)
    assert (second.clips.splits, first.clips.splits) == ((Split.CAL,), (Split.TRAIN,))
    blank, asked = chain["unseen"], chain["asked"]
    assert isinstance(blank, EvaluateStage)
    assert isinstance(asked, EvaluateStage)
    assert (blank.view, blank.split, blank.temperature) == (View.BLANK, Split.VAL, 0.5)
    assert (asked.answer, asked.split) == ("label", Split.VAL)


def test_one_key_of_a_stages_optimiser_keeps_the_others_of_its_section():
    optim = {"learning_rate": 0.5, "warmup_steps": 4}
    stage = read_stage(
        {"name": "g", "kind": "grpo", "optim": {"warmup_steps": 2}}, {"grpo": {"optim": optim}}
    )
    assert isinstance(stage, GrpoStage)
    assert (stage.optim.learning_rate, stage.optim.warmup_steps) == (0.5, 2)
    assert stage.optim.weight_decay == 0.1


def test_rationales_are_those_of_the_last_stage_before_that_writes_them():
    captions = {"name": "captions", "kind": "rationales", "task": "caption"}
    chain = chain_of(
        *(WRITES, {"name": "a", **LEARNS}, captions, {"name": "b", **LEARNS}),
        {"name": "c", **LEARNS, "rationales": "writes", "hint": "keep", "num_rationales": 2},
        {"name": "d", **LEARNS, "rationales": "writes", "as_trace": True},
        {"name": "e", **FROM_MANIFEST},
    )
    stages = [stage for stage in chain if isinstance(stage, SftStage)]
    assert [(s.rationales, s.num_rationales) for s in stages] == [
        *(("writes", 3), ("captions", 1), ("writes", 2), ("writes", 3), ("manifest", None))
    ]
    assert [chain.rationale_kind(stage) for stage in stages] == [
        *(RationalePrompt(hint=False), "caption", RationalePrompt(hint=True), "trace"),
        RationalePrompt(hint=False),
    ]
    assert [stage.asks_labels for stage in stages] == [True, True, True, False, True]
    values = make_config(stages=[WRITES, {"name": "a", **LEARNS}]).model_dump(mode="json")
    assert list(validate(RunConfig, values, "run.json").chain) == list(read_chain(values))


def test_what_learns_rationales_is_done_anew_when_their_policy_is():
    first = {"name": "first", "kind": "sft", "data": "labels"}
    learns = {"name": "learns", **LEARNS, "from": "base"}
    after = {"name": "after", "kind": "sft", "data": "labels"}
    beside = {"name": "beside", "kind": "sft", "data": "labels", "from": "base"}
    chain = chain_of(first, WRITES, learns, after, beside)
    assert chain.dependents("first") == ("writes", "learns", "after")
    assert chain.dependents("writes") == ("learns", "after")
    assert chain.dependents("learns") == ("after",)


def test_a_chain_survives_the_run_directory():
    config = make_config(stages=CUSTOM)
    values = config.model_dump(mode="json")
    assert [stage["from"] for stage in values["stages"]] == [
        *(None, "base", None, None, "g1", None, "labels")
    ]
    again = validate(RunConfig, values, "run.json")
    assert again == config
    assert list(again.chain) == list(config.chain)
    assert list(read_chain(values)) == list(config.chain)


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"stages": "many"},
        {"stages": [3]},
        {"stages": [{"name": "a", "kind": "dpo"}]},
        {"stages": [{"name": "a", "kind": "grpo", "from": "nowhere"}]},
        {"stages": [{"kind": "grpo"}, {"kind": "grpo"}]},
        {"coldstart": {"epochs": "many"}},
        {"coldstart": 3},
        {"grpo": None, "labels": 7},
    ],
)
def test_a_recipe_that_cannot_be_read_has_the_default_chain(recipe: dict[str, Any]):
    assert read_chain(recipe).names == DEFAULT


def test_an_older_recipe_without_cold_start_is_read_without_it():
    assert read_chain({"coldstart": {"epochs": 0}}).names == ("base", "grpo", "calibrated")


# --- refusals


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"name": "a", "kind": "grop"}], r"stages\.a\.kind = 'grop'; .*'grpo'"),
        ([{"name": "a"}], r"stages\.a\.kind = None; "),
        ([{"kind": "grpo"}], r"stages\.\?: 'name' is missing; add it"),
        ([{"name": "A b", "kind": "grpo"}], r"stages\.A b: name = 'A b': "),
        (
            [{"name": "a", "kind": "grpo", "from": "b"}],
            r"stages\.a\.from = 'b'; earlier stages that leave a policy",
        ),
        (
            [{"name": "first", "kind": "grpo"}, {"name": "b", "kind": "grpo", "from": "frist"}],
            r"stages\.b\.from = 'frist'; did you mean 'first'",
        ),
        (
            [{"name": "a", "kind": "grpo", "from": "b"}, {"name": "b", "kind": "grpo"}],
            r"stages\.a\.from = 'b'; ",
        ),
        ([{"name": "a", "kind": "grpo", "from": "a"}], r"stages\.a\.from = 'a'; "),
        (
            [{"name": "v", "kind": "calibrate"}, {"name": "b", "kind": "grpo", "from": "v"}],
            r"stages\.b\.from = 'v', which leaves no policy; name one of base",
        ),
        (
            [{"name": "a", "kind": "grpo"}, {"name": "a", "kind": "evaluate"}],
            "the stage name 'a' is taken by another stage; choose another",
        ),
        ([{"name": "head", "kind": "grpo"}], "the stage name 'head' is taken by something else"),
        ([{"name": "eval", "kind": "grpo"}], "the stage name 'eval' is taken by something else"),
        ([{"name": "vote", "kind": "grpo"}], "the stage name 'vote' is taken by a control arm"),
        (
            [{"name": "v", "kind": "calibrate"}, {"name": "v_head", "kind": "evaluate"}],
            "the stage name 'v_head' is taken by the head of v; choose another",
        ),
        (
            [{"name": "v_head", "kind": "evaluate"}, {"name": "v", "kind": "calibrate"}],
            "the stage name 'v_head' is taken by the head of v; choose another",
        ),
        (
            [{"name": "a", "kind": "sft", "num_groups": 3}],
            """num_groups is for data = "own", not 'teacher'; leave it out""",
        ),
        (
            [{"name": "a", "kind": "sft", "data": "labels", "class_balanced": True}],
            """class_balanced is for data = "own", not 'labels'; leave it out""",
        ),
        (
            [{"name": "a", "kind": "sft", "data": "labels", "hint": "keep"}],
            """hint is for data = "rationales", not 'labels'; leave it out""",
        ),
        (
            [{"name": "a", "kind": "sft", "data": "rationales"}],
            "stages.a learns rationales, and no stage before it writes any; put one of kind",
        ),
        (
            [WRITES, {"name": "a", "kind": "sft", "data": "rationales", "rationales": "wrote"}],
            r"stages\.a\.rationales = 'wrote'; did you mean 'writes'",
        ),
        (
            [
                WRITES | {"task": "caption"},
                {"name": "a", "kind": "sft", "data": "rationales", "hint": "keep"},
            ],
            r"stages\.a\.hint = 'keep', but writes writes captions, whose prompt has no hint",
        ),
        (
            [{"name": "manifest", "kind": "rationales"}],
            "the stage name 'manifest' is taken by the manifest's traces; choose another",
        ),
        (
            [{"name": "a", "kind": "sft", **FROM_MANIFEST, "as_trace": True}],
            'rationales = "manifest" are traces already; set data = "teacher"',
        ),
        (
            [WRITES, {"name": "a", "kind": "sft", **LEARNS, "as_trace": True, "hint": "keep"}],
            "as_trace = true learns them in the prompt of traces, and hint = 'keep' is for that of",
        ),
        (
            [{"name": "a", "kind": "grpo", "num_stpes": 3}],
            r"stages\.a: unknown key 'num_stpes'; did you mean 'num_steps'",
        ),
        ([{"name": "a", "kind": "sft", "epochs": 0}], r"stages\.a: epochs = 0: "),
        ([{"name": "a", "kind": "sft", "data": "mine"}], r"stages\.a: data = 'mine': "),
        ([{"name": "a", "kind": "grpo", "clips": {"splits": []}}], r"stages\.a: clips\.splits"),
        (
            [{"name": "a", "kind": "evaluate", "view": "dark"}],
            r"stages\.a: view = 'dark': .*'blank'",
        ),
        (
            [{"name": "a", "kind": "grpo", "optim": {"vision_learning_rate": 1e-5}}],
            r"stages\.a\.optim\.vision_learning_rate=1e-05 is for a part that does not train",
        ),
        ("many", "stages = 'many'"),
        ([3], "stages.0 = 3"),
    ],
)
def test_a_mistake_in_a_chain_is_named_with_a_remedy(stages: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        make_config(stages=stages)


@pytest.mark.parametrize("command", ["run", "evaluate", "coldstart", "grpo", "calibrate"])
def test_a_command_runs_the_stages_of_its_kind(command: str):
    names = make_config(stages=CUSTOM).stages_of(command)
    assert names == {
        "run": tuple(stage["name"] for stage in CUSTOM),
        "evaluate": ("unseen", "asked"),
        "coldstart": ("labels", "own"),
        "grpo": ("g1", "g2"),
        "calibrate": ("verdict",),
    }.get(command)


def test_a_command_without_a_stage_is_refused_with_those_there_are():
    config = make_config(stages=CUSTOM[:2])
    with pytest.raises(ConfigError, match=r"`grpo` has no stage to run among labels, own; add one"):
        config.stages_of("grpo")
    with pytest.raises(ConfigError, match=r"coldstart\.epochs=0 leaves the cold start out"):
        make_config(coldstart={"epochs": 0}).stages_of("coldstart")
