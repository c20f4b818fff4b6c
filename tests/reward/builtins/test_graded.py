"""Cases worked by hand; the best value only for the label itself; nothing for no answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.builtins.graded import (
    CostMatrixParams,
    HierarchicalParams,
    OrdinalParams,
    cost_matrix,
    hierarchical,
    ordinal,
)
from wire.config import validate
from wire.errors import ConfigError

TREE = HierarchicalParams(
    paths=("person/accident/fall", "person/accident/trip", "person/walk", "object/drop")
)
SCALE = OrdinalParams(order=("none", "mild", "moderate", "severe", "fatal"))
COSTS = CostMatrixParams(
    order=("normal", "odd", "abnormal"), costs=((0, 1, 2), (1, 0, 2), (8, 4, 0))
)


def answering(answer: str) -> str:
    return f"<think>x</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("answer", "label", "value"),
    [
        ("fall", "fall", 1.0),
        ("trip", "fall", 2 * 2 / (3 + 3)),
        ("walk", "fall", 2 * 1 / (2 + 3)),
        ("FALL ", "walk", 2 * 1 / (2 + 3)),
        ("drop", "fall", 0.0),
        ("accident", "fall", 0.0),  # an ancestor, but no label: a wrong answer
        ("", "fall", 0.0),
    ],
)
def test_hierarchical_pays_for_shared_ancestors(make_context, answer, label, value):
    context = make_context("fall", "trip", "walk", "drop")
    assert hierarchical(answering(answer), label, context, **TREE.arguments()) == value


def test_an_answer_that_is_the_label_s_ancestor_is_nearly_right(make_context):
    params = HierarchicalParams(paths=("person", "person/fall"))
    context = make_context("person", "fall")
    assert hierarchical(answering("person"), "fall", context, **params.arguments()) == 2 / 3


def test_a_label_may_hold_the_slash_under_another_separator(make_context):
    params = HierarchicalParams(paths=("door > open/close", "door > knock"), separator=">")
    context = make_context("open/close", "knock")
    params.refuse_unfit(context.labels, None)
    assert hierarchical(answering("knock"), "open/close", context, **params.arguments()) == 0.5


@pytest.mark.parametrize(
    ("answer", "value"),
    [("mild", 1.0), ("none", 1 / 2), ("moderate", 1 / 2), ("severe", 1 / 3), ("fatal", 0.0)],
)
def test_ordinal_is_one_over_gap_plus_one_up_to_the_cutoff(make_context, answer, value):
    context = make_context(*SCALE.order)
    assert ordinal(answering(answer), "mild", context, **SCALE.arguments()) == value


def test_a_cutoff_of_0_is_the_exact_label(make_context):
    context = make_context("low", "high")
    params = OrdinalParams(order=("low", "high"), max_gap=0)
    assert ordinal(answering("high"), "low", context, **params.arguments()) == 0.0
    assert ordinal(answering("low"), "low", context, **params.arguments()) == 1.0


@pytest.mark.parametrize(
    ("answer", "label", "value"),
    [
        ("normal", "normal", 1.0),
        ("abnormal", "normal", 1 - 2 / 8),  # a false alarm is cheap
        ("normal", "abnormal", 0.0),  # a miss is the worst there is
        ("odd", "Abnormal", 1 - 4 / 8),
    ],
)
def test_a_cost_is_that_of_the_row_of_the_true_label(make_context, answer, label, value):
    context = make_context(*COSTS.order)
    assert cost_matrix(answering(answer), label, context, **COSTS.arguments()) == value


@pytest.mark.parametrize("text", ["", "mild", "<answer>mild", "<answer>mil</answer>", "\u0000" * 9])
def test_malformed_output_is_a_wrong_answer(make_context, text):
    context = make_context(*SCALE.order)
    assert ordinal(text, "mild", context, **SCALE.arguments()) == 0.0
    context = make_context("fall", "trip", "walk", "drop")
    assert hierarchical(text, "fall", context, **TREE.arguments()) == 0.0
    context = make_context(*COSTS.order)
    assert cost_matrix(text, "odd", context, **COSTS.arguments()) == 0.0


@settings(deadline=None)  # a busy machine
@given(
    groups=st.lists(st.lists(st.sampled_from("abc"), max_size=3), min_size=2, max_size=6),
    data=st.data(),
)
def test_hierarchical_is_symmetric_and_1_for_the_label_only(make_context, groups, data):
    names = [f"label{i}" for i in range(len(groups))]
    paths = tuple("/".join([*group, name]) for group, name in zip(groups, names, strict=True))
    context, arguments = make_context(*names), HierarchicalParams(paths=paths).arguments()
    one, other = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
    there = hierarchical(answering(one), other, context, **arguments)
    assert there == hierarchical(answering(other), one, context, **arguments)
    assert 0 <= there <= 1
    assert (there == 1) == (one == other)


@settings(deadline=None)  # a busy machine
@given(size=st.integers(2, 8), max_gap=st.integers(0, 9), data=st.data())
def test_ordinal_falls_with_the_gap(make_context, size, max_gap, data):
    order = tuple(f"level {i}" for i in range(size))
    true = data.draw(st.integers(0, size - 1))
    params, context = OrdinalParams(order=order, max_gap=max_gap), make_context(*order)
    values = [
        ordinal(answering(name), order[true], context, **params.arguments()) for name in order
    ]
    upwards, downwards = values[true:], values[true::-1]
    assert upwards == sorted(upwards, reverse=True)
    assert downwards == sorted(downwards, reverse=True)
    assert values[true] == 1
    assert min(values) >= 0


@pytest.mark.parametrize(
    ("model", "values", "words"),
    [
        (CostMatrixParams, {"order": ["a", "b"], "costs": [[0, 1]]}, "1 rows of lengths"),
        (CostMatrixParams, {"order": ["a", "b"], "costs": [[0, 1], [1]]}, "expected 2 rows of 2"),
        (CostMatrixParams, {"order": ["a", "b"], "costs": [[0, -1], [1, 0]]}, "not negative"),
        (CostMatrixParams, {"order": ["a", "b"], "costs": [[0, float("inf")], [1, 0]]}, "finite"),
        (CostMatrixParams, {"order": ["a", "b"], "costs": [[0, float("nan")], [1, 0]]}, "finite"),
        (CostMatrixParams, {"order": ["a", "b"], "costs": [[1, 1], [1, 0]]}, "diagonal"),
        (CostMatrixParams, {"order": ["a", "b"], "costs": [[0, 0], [0, 0]]}, "all costs are 0"),
        (OrdinalParams, {"order": ["a", "b"], "max_gap": -1}, "greater than or equal to 0"),
        (OrdinalParams, {"order": ["a", "b"], "maxgap": 1}, "did you mean 'max_gap'"),
        (HierarchicalParams, {"paths": ["a//b", "c"]}, "empty name"),
        (HierarchicalParams, {"path": ["a", "c"]}, "did you mean 'paths'"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(model, values, words):
    with pytest.raises(ConfigError, match=words):
        validate(model, values, "recipe")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (OrdinalParams(order=("low", "hihg")), "did you mean 'high'"),
        (OrdinalParams(order=("low", "LOW", "high")), "more than once"),
        (HierarchicalParams(paths=("x/low", "x/y")), "'y', which is no label"),
        (CostMatrixParams(order=("high", "higher"), costs=((0, 1), (1, 0))), "no label"),
    ],
)
def test_parameters_are_checked_against_the_labels(make_context, params, words):
    with pytest.raises(ConfigError, match=words):
        params.refuse_unfit(make_context("low", "high").labels, None)


def test_a_label_that_the_parameters_forget_is_named(make_context):
    with pytest.raises(ConfigError, match=r"lacks the labels \['fatal'\]"):
        OrdinalParams(order=("mild", "severe")).refuse_unfit(
            make_context("mild", "severe", "fatal").labels, None
        )
