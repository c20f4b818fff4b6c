import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.builtins.penalties import (
    OverlongParams,
    RepetitionParams,
    overlong,
    overlong_punishment,
    repetition,
)
from wire.config import validate
from wire.errors import ConfigError


@pytest.mark.parametrize(
    ("num_tokens", "value"),
    [(0, 0.0), (80, 0.0), (81, -1 / 20), (90, -0.5), (100, -1.0), (101, -1.0), (10_000, -1.0)],
)
def test_overlong_is_dapo_s_equation_13(num_tokens, value):
    assert overlong_punishment(num_tokens, 100, 20) == value


@settings(deadline=None)  # a busy machine
@given(
    limit=st.integers(1, 5000), share=st.floats(0, 1), one=st.integers(0, 9999), more=st.integers(0)
)
def test_a_longer_completion_is_never_punished_less(limit, share, one, more):
    cache = max(1, round(limit * share))
    short = overlong_punishment(one, limit, cache)
    long = overlong_punishment(one + more, limit, cache)
    assert -1 <= long <= short <= 0


def test_the_limit_of_the_run_holds_unless_the_recipe_sets_one(make_context):
    context = make_context("a", "b", num_tokens=95, max_response_length=100)
    assert overlong("", "a", context, max_response_length=None, cache_length=10) == -0.5
    assert overlong("", "a", context, max_response_length=200, cache_length=10) == 0.0
    free = make_context("a", "b", max_response_length=None)
    assert overlong("", "a", free, max_response_length=None, cache_length=10) is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cache_length": 0}, "greater than 0"),
        ({"cache_length": -5}, "greater than 0"),
        ({"cache_length": 5, "max_response_length": -1}, "greater than 0"),
        ({"cache_length": 11, "max_response_length": 10}, "choose a part of it"),
        ({"cache_len": 1}, "did you mean 'cache_length'"),
    ],
)
def test_lengths_that_cannot_be_meant_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        validate(OverlongParams, values, "recipe")


def test_the_cache_is_checked_against_the_limit_of_the_run(make_context):
    labels = make_context("a", "b").labels
    OverlongParams(cache_length=100).refuse_unfit(labels, 100)
    with pytest.raises(ConfigError, match="limit of 100 tokens"):
        OverlongParams(cache_length=101).refuse_unfit(labels, 100)
    OverlongParams(cache_length=101, max_response_length=200).refuse_unfit(labels, 100)


@pytest.mark.parametrize(
    ("text", "size", "value"),
    [
        ("a b c d", 2, 0.0),
        ("a b a b", 2, -(1 - 2 / 3)),  # ab ba ab
        ("go go go go go", 1, -(1 - 1 / 5)),
        ("Go go GO", 1, -(1 - 1 / 3)),
        ("a b", 3, 0.0),  # shorter than one n-gram
        ("", 1, 0.0),
        ("\u00e9 \u00c9", 1, -0.5),
    ],
)
def test_repetition_is_the_share_of_n_grams_met_before(make_context, text, size, value):
    params = RepetitionParams(ngram_size=size)
    got = repetition(text, "a", make_context("a", "b"), **params.arguments())
    assert got == pytest.approx(value)
    assert str(got) != "-0.0"


def test_characters_repeat_where_there_are_no_words(make_context):
    text, context = "\u8dcc\u5012\u8dcc\u5012\u8dcc\u5012", make_context("a", "b")
    words = RepetitionParams(ngram_size=2)
    characters = RepetitionParams(ngram_size=2, unit="character")
    assert repetition(text, "a", context, **words.arguments()) == 0.0
    assert repetition(text, "a", context, **characters.arguments()) == -(1 - 2 / 5)


@settings(deadline=None)  # a busy machine
@given(
    text=st.text(st.sampled_from("ab \n\u00df"), max_size=200),
    size=st.integers(1, 5),
    worst=st.floats(-3, 0),
)
def test_repetition_stays_between_its_worst_and_0(make_context, text, size, worst):
    params = RepetitionParams(ngram_size=size, max_penalty=worst)
    assert worst <= repetition(text, "a", make_context("a", "b"), **params.arguments()) <= 0


@settings(deadline=None)  # a busy machine
@given(units=st.lists(st.sampled_from("abcd"), min_size=3, max_size=30))
def test_saying_everything_again_is_punished_more(make_context, units):
    context, arguments = make_context("a", "b"), RepetitionParams().arguments()
    once, twice = " ".join(units), " ".join(units + units)
    assert repetition(twice, "a", context, **arguments) < 0
    assert repetition(twice, "a", context, **arguments) <= repetition(
        once, "a", context, **arguments
    )


@pytest.mark.parametrize(
    "values",
    [{"ngram_size": 0}, {"max_penalty": 1.0}, {"max_penalty": float("nan")}, {"unit": "x"}],
)
def test_penalties_that_would_reward_are_refused(values):
    with pytest.raises(ConfigError):
        validate(RepetitionParams, values, "recipe")


def test_a_megabyte_is_counted_at_once(make_context):
    text, context = "ab cd ef " * 110_000, make_context("a", "b")
    begin = time.perf_counter()
    repetition(text, "a", context, **RepetitionParams(ngram_size=20).arguments())
    assert time.perf_counter() - begin < 10.0
