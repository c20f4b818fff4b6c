"""What holds for every built-in: its parameters, and whatever a policy may write."""

import inspect
import re
import time
import tomllib
from pathlib import Path

import pytest

from reward.builtins.table import BUILTINS, PARAMS, read_params
from reward.context import RewardContext
from wire.errors import ConfigError
from wire.labels import Label, LabelSet

LABELS = LabelSet(labels=(Label(name="fall"), Label(name="walk")))
RECIPE = tomllib.loads("""
accuracy = {}
agreement = {}
brier = {}
cost_matrix = { order = ["fall", "walk"], costs = [[0, 5], [1, 0]] }
evidence_iou = {}
format = {}
hierarchical = { paths = ["person/fall", "person/walk"] }
judge = { base_url = "http://judge/v1", model = "m" }
ordinal = { order = ["walk", "fall"] }
overlong = { cache_length = 20 }
repetition = {}
synonyms = { spellings = { fall = ["falls"] } }
temporal_contrast = {}
""")
QUICK = sorted(name for name in BUILTINS if name != "judge")
PENALTIES = ("overlong", "repetition")


def score(name: str, text: str, label: str = "fall") -> float:
    context = RewardContext(
        labels=LABELS,
        extra={"spans": [[1, 3]], "shuffled_accuracy": 0.5},
        texts=(text, "<answer>fall</answer>"),
        index=0,
        num_tokens=10,
        is_truncated=False,
        max_response_length=100,
        video="clips/7.mp4",
    )
    params = read_params(name, RECIPE[name])
    params.refuse_unfit(LABELS, 100)
    value = BUILTINS[name](text, label, context, **params.arguments())
    assert isinstance(value, float)
    return value


@pytest.mark.parametrize("name", BUILTINS)
def test_the_parameters_of_a_recipe_are_those_of_the_function(name):
    signature = inspect.signature(BUILTINS[name])
    arguments = read_params(name, RECIPE[name]).arguments()
    bound = signature.bind("text", "fall", None, **arguments)
    assert len(bound.arguments) >= 3
    if name != "judge":  # it hands them on to JudgeParams
        assert set(list(signature.parameters)[3:]) == set(PARAMS[name].model_fields)


@pytest.mark.parametrize("name", BUILTINS)
def test_an_unknown_parameter_is_refused(name):
    with pytest.raises(ConfigError, match=f"params of '{name}': unknown key 'tpyo'"):
        read_params(name, {**RECIPE[name], "tpyo": 1})


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "fall", "<answer>fall", "<answer></answer>", "<think></think>", "\x00"),
        *("<answer>\u8dcc\u5012</answer>", "<answer>fall walk</answer>", "\ud800<answer>\udfff"),
        "</answer>fall<answer>",
    ],
)
def test_malformed_output_is_a_wrong_answer_and_scores_0(name, text):
    assert score(name, text) == 0.0


@pytest.mark.parametrize("name", QUICK)
def test_a_right_and_well_supported_answer_scores_best(name):
    reasoning = "<time>1-3</time> <confidence>1.0</confidence> he will fall"
    best = {"temporal_contrast": 0.3}.get(name, 0.0 if name in PENALTIES else 1.0)
    assert score(name, f"<think>{reasoning}</think><answer>fall</answer>") == best


UNITS = [
    *(" ", "\n", "<", "<think>", "<time>", "<time>1", "1", "1.", "1 ", "1-", "1 to ", "fall "),
    *("fal", "<confidence>", "<answer>", "</answer>", "a b ", "\u8dcc", "\U0001f3a5 ", "{label}"),
]


@pytest.mark.parametrize("name", QUICK)
def test_a_megabyte_of_anything_takes_no_time(name):
    for unit in UNITS:
        filling = unit * (1_000_000 // len(unit))
        for text in (filling, f"<think>{filling}</think><answer>{filling}</answer>"):
            begin = time.process_time()
            score(name, text)
            assert time.process_time() - begin < 5.0, (name, unit)


def test_every_built_in_and_parameter_is_in_the_documentation():
    page = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text()
    for name, params in PARAMS.items():
        assert f"| `{name}` |" in page, name
        unnamed = [key for key in params.model_fields if not re.search(rf"\b{key}\b", page)]
        assert not unnamed, (name, unnamed)
