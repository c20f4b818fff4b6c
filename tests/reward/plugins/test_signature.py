from collections.abc import Callable
from typing import Any

import pytest

from reward.plugins.signature import read_signature
from wire.errors import ConfigError


class Waiting:
    async def __call__(self, solution_str: str) -> float:
        return 1.0


class Prompt:
    def __call__(self, solution_str: str) -> float:
        return 1.0


async def waiting(solution_str: str) -> float:
    return 1.0


def function(parameters: str) -> Callable[..., Any]:
    made: Callable[..., Any] = eval(f"lambda {parameters}: 1.0")
    return made


@pytest.mark.parametrize(
    ("parameters", "style"),
    [
        ("data_source, solution_str, ground_truth, extra_info=None", "verl"),
        ("data_source, solution_str, ground_truth, extra_info=None, **kwargs", "verl"),
        ("solution_str, ground_truth, method='strict', score=1.0", "verl"),
        ("solution_str, **others", "verl"),
        ("data_source, extra_info", "verl"),
        ("data_sources, solution_strs, ground_truths, extra_infos", "verl_batch"),
        ("data_sources, solution_strs, ground_truths, extra_infos, **kwargs", "verl_batch"),
        ("solution_strs, ground_truths, strictness=1", "verl_batch"),
        ("ground_truths, extra_infos", "verl_batch"),
        ("prompts, completions, **kwargs", "trl"),
        ("completions, ground_truth, **kwargs", "trl"),
        ("completions, solution", "trl"),
        ("completion_ids, **kwargs", "trl"),
        ("prompts, completions, completion_ids, trainer_state, log_extra, log_metric", "trl"),
    ],
)
def test_a_signature_tells_whose_shape_it_is(parameters: str, style: str) -> None:
    assert read_signature("f", function(parameters), None).style == style


@pytest.mark.parametrize("parameters", ["**everything", "solution_str, completions", "text"])
def test_an_ambiguous_signature_is_refused_with_the_way_to_say_it(parameters: str) -> None:
    with pytest.raises(ConfigError, match=r'style = "verl" \| "verl_batch" \| "trl"'):
        read_signature("f", function(parameters), None)
    assert read_signature("f", function(parameters), "trl").style == "trl"


@pytest.mark.parametrize(
    ("judge", "is_async"),
    [(waiting, True), (function("solution_str"), False), (Waiting(), True), (Prompt(), False)],
)
def test_functions_and_callable_objects_may_be_async(
    judge: Callable[..., Any], is_async: bool
) -> None:
    assert read_signature("f", judge, None).is_async == is_async


def test_what_nobody_gives_is_missing() -> None:
    found = read_signature("f", function("solution_str, rubric, weight, scale=1.0"), None)
    assert found.missing([]) == ["rubric", "weight"]
    assert found.missing(["weight", "fps"]) == ["rubric"]


def test_ids_are_sent_to_trls_functions_that_can_take_them() -> None:
    ask = ("completions, completion_ids", "completions, **columns", "completions", "solution_str")
    assert [read_signature("f", function(it), None).wants_ids for it in ask] == [
        *(True, True, False, False)
    ]
