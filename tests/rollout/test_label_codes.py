import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.label_codes import code_logprobs, code_questions, tell_apart

END = (0,)


def test_only_a_code_that_begins_another_is_ended():
    codes = {"b": (7, 9), "a": (7,), "c": (8,), "d": (7, 9, 9)}
    apart = tell_apart(codes, lambda name: codes[name] + END)
    assert apart == {"b": (7, 9, 0), "a": (7, 0), "c": (8,), "d": (7, 9, 9)}
    assert list(apart) == list(codes), "in their order"


def test_an_end_that_joins_the_last_token_is_looked_at_again():
    codes = {"a": (1,), "ab": (1, 2), "a>": (3,), "b": (3, 4)}
    ended = {
        "a": (3,),
        "ab": (5,),
        "a>": (3, 0),
        "b": (6,),
    }  # "a" and its end are the token of "a>"
    apart = tell_apart(codes, ended.__getitem__)
    assert apart["a>"] == (3, 0)
    assert apart["ab"] == (1, 2)


code = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)


@given(st.lists(code, min_size=2, max_size=12, unique=True))
def test_no_code_begins_another(codes: list[tuple[int, ...]]):
    named = {str(n): code for n, code in enumerate(codes)}
    apart = tell_apart(named, lambda name: named[name] + END)
    for one in apart.values():
        assert sum(other[: len(one)] == one for other in apart.values()) == 1
    for name, one in apart.items():
        begins = any(
            other[: len(named[name])] == named[name] for other in codes if other != named[name]
        )
        assert one == named[name] + END * begins


@given(st.lists(code, min_size=1, max_size=12))
def test_what_is_asked_gives_every_code_and_nothing_is_asked_twice(codes: list[tuple[int, ...]]):
    questions = code_questions(codes)
    asked = [(*question.begun, token) for question in questions for token in question.tokens]
    assert len(asked) == len(set(asked))
    logprobs = code_logprobs(codes, {one: -float(one[-1]) for one in asked})
    assert logprobs == [-float(sum(one)) for one in codes]
    assert (len(questions) == 1) == (max(map(len, codes)) == 1)


def test_more_labels_than_a_request_may_name_are_asked_for_in_parts():
    codes = [(token,) for token in range(300)]
    assert [len(question.tokens) for question in code_questions(codes)] == [128, 128, 44]


def test_a_label_without_a_token_is_refused():
    with pytest.raises(ValueError, match="no token in its code"):
        code_questions([(1,), ()])
