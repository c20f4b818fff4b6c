import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from reward.plugins.calls import answer, read_value
from reward.plugins.plugin import Plugin
from reward.plugins.signature import read_signature
from tests.reward.plugins.user_rewards import ask


def replies(
    function: Callable[..., Any], *texts: str, style: str = "trl", **fields: Any
) -> list[dict[str, Any]]:
    """What the child would send for these texts."""
    signature = read_signature("f", function, style)
    plugin = Plugin(
        **{
            "function": function,
            "signature": signature,
            "params": {},
            "as_messages": False,
            **fields,
        }
    )
    question = json.loads(
        ask(*texts, columns={"fps": 2}).to_json(range(len(texts)), with_ids=signature.wants_ids)
    )
    found: list[dict[str, Any]] = []
    with asyncio.Runner() as loop:
        answer(plugin, question, loop, found.append)
    return found


def test_trls_columns_are_lists_and_only_those_that_it_takes() -> None:
    def f(completions: list[str], fps: list[int], solution: list[str]) -> list[float]:
        assert (fps, solution) == ([2, 2], ["normal", "normal"])
        return [float(len(text)) for text in completions]

    assert replies(f, "a", "bb") == [{"batch": [{"value": 1.0}, {"value": 2.0}]}]


def test_trls_kwargs_take_everything() -> None:
    def f(**kwargs: Any) -> list[float]:
        assert kwargs.keys() >= {"prompts", "completions", "completion_ids", "trainer_state", "fps"}
        assert kwargs["completion_ids"] == [[7, 9]]
        assert kwargs["trainer_state"].global_step == 3
        return [1.0]

    assert replies(f, "a") == [{"batch": [{"value": 1.0}]}]


def test_completions_and_prompts_may_be_chat_messages() -> None:
    def f(prompts: Any, completions: Any) -> list[float]:
        assert prompts == [[{"role": "user", "content": "Which label?"}]]
        return [float(len(completion[0]["content"])) for completion in completions]

    assert replies(f, "abc", as_messages=True) == [{"batch": [{"value": 3.0}]}]
    (failed,) = replies(f, "abc")
    assert failed["retry"]


def test_text_for_a_function_of_messages_names_the_remedy() -> None:
    def f(completions: Any) -> list[float]:
        return [float(len(completion[0]["content"])) for completion in completions]

    assert 'completion_format = "messages"' in replies(f, "abc")[0]["error"]


def test_what_is_logged_joins_the_extras() -> None:
    def f(completions: list[str], log_extra: Any, log_metric: Any) -> Any:
        log_extra("words", [1, "two"])
        log_metric("mean/words", 1.5)
        return np.array([1.0, 2.0])

    assert replies(f, "a", "b") == [
        {
            "batch": [
                {"value": 1.0, "extras": {"words": 1.0, "mean_words": 1.5}},
                {"value": 2.0, "extras": {"mean_words": 1.5}},
            ]
        }
    ]


def test_an_async_batch_is_awaited() -> None:
    async def f(completions: list[str]) -> list[float | None]:
        await asyncio.sleep(0)
        return [None for _ in completions]

    assert replies(f, "a") == [{"batch": [{"value": None}]}]


def test_verls_function_gets_what_it_names_and_parameters_win() -> None:
    def f(solution_str: str, fps: int, scale: float = 1.0) -> float:
        return len(solution_str) * fps * scale

    assert replies(f, "abc", style="verl", params={"scale": 10.0}) == [{"index": 0, "value": 60.0}]


def test_verls_extra_info_has_columns_and_origin() -> None:
    def f(data_source: str, solution_str: str, ground_truth: str, extra_info: Any) -> float:
        assert (data_source, ground_truth) == ("", "normal")
        assert extra_info == {
            "fps": 2,
            "sample_id": "train-1",
            "split": "train",
            "is_truncated": False,
            "policy_version": "0.3",
        }
        return 1.0

    assert replies(f, "a", style="verl") == [{"index": 0, "value": 1.0}]


def test_a_column_that_a_sample_has_not_is_an_error_that_names_it() -> None:
    def f(solution_str: str, rubric: str) -> float:
        return 1.0

    assert replies(f, "a", style="verl") == [
        {"index": 0, "error": "needs ['rubric'], which sample train-1 has not"}
    ]


def test_a_long_message_leaves_room_for_its_place() -> None:
    def f(solution_str: str) -> float:
        raise ValueError("x" * 10_000)

    (reply,) = replies(f, "a", style="verl")
    assert f" at {__file__}:" in reply["error"][:500]


@pytest.mark.parametrize(
    "value", [1, 1.0, True, np.float32(1), np.int64(1), np.bool_(True), {"score": 1}]
)
def test_numbers_are_read(value: object) -> None:
    assert read_value(value) == {"value": 1.0}


def test_none_is_not_applicable() -> None:
    assert read_value(None) == {"value": None}
    assert read_value({"score": None, "words": 3}) == {"value": None, "extras": {"words": 3.0}}


def test_further_numbers_of_a_dict_are_kept_and_the_rest_left() -> None:
    value = {"score": 1, "words": 3, "why": "short", "nan": float("nan"), "all": np.zeros(3)}
    assert read_value(value) == {"value": 1.0, "extras": {"words": 3.0}}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "inf"),
        (np.float64("nan"), "nan"),
        ("1.0", "'1.0' (str)"),
        ([1.0], "list"),
        (1j, "complex"),
        ({"reward": 1.0}, "without 'score'"),
        ({"score": "high"}, "'high' (str)"),
    ],
)
def test_what_is_no_finite_number_is_an_error(value: object, words: str) -> None:
    assert words in read_value(value)["error"]


def test_an_array_of_several_numbers_is_said_to_be_one_and_not_blamed_on_our_file() -> None:
    error = read_value(np.array([1.0, 2.0]))["error"]
    assert "array([1., 2.]) (ndarray), expected a number" in error
    assert "calls.py" not in error


def test_verls_batch_manager_gets_lists_of_verls_four() -> None:
    def f(
        data_sources: list[str],
        solution_strs: list[str],
        ground_truths: list[str],
        extra_infos: list[dict[str, Any]],
        fps: list[int],
        scale: float = 1.0,
    ) -> list[Any]:
        assert (data_sources, ground_truths, fps) == (["", ""], ["normal", "normal"], [2, 2])
        assert [info["sample_id"] for info in extra_infos] == ["train-1", "train-1"]
        assert extra_infos[0] == {**extra_infos[1]}
        extra_infos[0]["fps"] = 9
        assert extra_infos[1]["fps"] == 2
        return [{"score": scale * len(solution_strs[0]), "words": 1}, len(solution_strs[1])]

    assert replies(f, "a", "bb", style="verl_batch", params={"scale": 3.0}) == [
        {"batch": [{"value": 3.0, "extras": {"words": 1.0}}, {"value": 2.0}]}
    ]


def test_verls_batch_manager_may_take_a_part_of_them_or_any() -> None:
    def some(solution_strs: list[str]) -> Any:
        return np.array([len(text) for text in solution_strs])

    async def every(**given: Any) -> list[float]:
        assert set(given) == {"data_sources", "solution_strs", "ground_truths", "extra_infos"}
        return [1.0] * len(given["solution_strs"])

    assert replies(some, "a", "bb", style="verl_batch") == [{"batch": [{"value": 1}, {"value": 2}]}]
    assert replies(every, "a", style="verl_batch") == [{"batch": [{"value": 1.0}]}]
