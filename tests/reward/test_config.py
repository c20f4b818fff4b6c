from typing import Any

import pytest

from reward.config import RewardConfig, RewardTerm
from wire.config import validate
from wire.errors import ConfigError


def test_default_is_accuracy_plus_format() -> None:
    terms = RewardConfig().terms
    assert [(t.function, t.part, t.weight, t.timeout_s) for t in terms] == [
        ("accuracy", "accuracy", 1.0, 10.0),
        ("format", "format", 1.0, 10.0),
    ]
    assert RewardConfig().max_failure_frac == 0.2


def test_a_plugin_is_named_after_its_function_unless_named() -> None:
    assert RewardTerm(function="a/b.py:brevity").part == "brevity"
    assert RewardTerm(function="a/b.py:compute_score", name="short").part == "short"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"terms": [{"function": "acuracy"}]}, "did you mean 'accuracy'"),
        ({"terms": [{"function": "rewards.py"}]}, "path/to/file.py:function"),
        ({"terms": [{"function": "pkg-1.mod:f"}]}, "package.module:function"),
        ({"terms": [{"function": "a.py:f", "style": "trlx"}]}, "'verl', 'verl_batch' or 'trl'"),
        ({"terms": [{"function": "accuracy", "concurrency": 2}]}, "'concurrency' does nothing"),
        ({"terms": [{"function": "accuracy", "params": {"x": 1}}]}, "'x'; it takes none"),
        ({"terms": [{"function": "a.py:f", "gated_by": "f"}]}, "is no other term"),
        (
            {"terms": [{"function": "accuracy", "gated_by": "fromat"}, {"function": "format"}]},
            "did you mean 'format'",
        ),
        ({"combine": "mean"}, "'sum' or 'product'"),
        ({"terms": []}, "at least 1"),
        ({"terms": [{"function": "a.py:f"}, {"function": "b.py:f"}]}, "give each its own name"),
        ({"terms": [{"function": "accuracy", "weight": float("nan")}]}, "finite"),
        ({"terms": [{"function": "accuracy", "timeout_s": 0}]}, "greater than 0"),
        ({"terms": [{"function": "a.py:f", "name": "a/b"}]}, "pattern"),
        ({"terms": [{"function": "accuracy", "wieght": 2}]}, "unknown key"),
        ({"max_failure_frac": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_wrong_recipe_is_refused_with_a_remedy(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate(RewardConfig, values, source="recipe.toml")


def test_a_function_may_be_named_by_its_module() -> None:
    term = RewardTerm(function="my.rewards:brevity", params={"limit": 3}, style="trl")
    assert (term.part, term.is_builtin) == ("brevity", False)


def test_defaults_written_out_are_accepted_for_a_built_in() -> None:
    written = RewardConfig().model_dump(mode="json")
    assert validate(RewardConfig, written, source="config.json") == RewardConfig()


def test_terms_that_are_all_only_logged_are_refused() -> None:
    with pytest.raises(ValueError, match="every reward term has weight = 0"):
        RewardConfig(terms=(RewardTerm(function="format", weight=0.0),))


def test_only_functions_of_the_user_are_spread() -> None:
    mine = (RewardTerm(function="a/b.py:brevity"),)
    assert RewardConfig(terms=mine, placement="spread").is_spread
    assert not RewardConfig(terms=mine).is_spread
    assert not RewardConfig(placement="spread").is_spread
