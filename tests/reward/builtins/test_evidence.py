import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.builtins.evidence import evidence_iou, spans_in, temporal_iou
from wire.errors import DataError


def score(make_context, reasoning: str, spans: object) -> float | None:
    context = make_context("a", "b", extra={"spans": spans})
    text = f"<think>{reasoning}</think><answer>a</answer>"
    return evidence_iou(text, "a", context, column="spans")


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("<time>1.5-3.0</time>", [(1.5, 3.0)]),
        ("<time> 1.5 s to 3 s </time> and <TIME>7,9</TIME>", [(1.5, 3.0), (7.0, 9.0)]),
        ("from 1.5s to 3.0s he falls", [(1.5, 3.0)]),
        ("between 2 \u2013 4 seconds", [(2.0, 4.0)]),
        ("1.5s until\n3 sec", [(1.5, 3.0)]),
        ("<time>1-2</time> while 5s to 6s is dull", [(1.0, 2.0)]),  # tags win
        ("3 to 4 people", []),  # no unit
        ("at 3s", []),
        ("<time>3-1</time>", []),  # ends before it begins
        ("<time>2-2</time>", []),
        ("version 1.2.3-4 seconds", []),
        ("<time>-1-2</time>", []),
        ("<time>1-nan</time><time>1e9-2e9</time>", []),
        ("", []),
    ],
)
def test_the_spans_that_a_text_names(text, spans):
    assert spans_in(text) == spans


@pytest.mark.parametrize(
    ("named", "true", "value"),
    [
        ([(1, 3)], [(1, 3)], 1.0),
        ([(1, 3)], [(2, 4)], 1 / 3),
        ([(0, 10)], [(4, 5)], 0.1),
        ([(1, 2)], [(2, 3)], 0.0),
        ([(0, 2), (1, 3)], [(0, 3)], 1.0),  # a union, not a sum
        ([(0, 1), (4, 5)], [(0, 1), (8, 10)], 1 / 4),
        ([], [(1, 2)], 0.0),
        ([], [], 0.0),
    ],
)
def test_iou_of_the_unions(named, true, value):
    assert temporal_iou(named, true) == pytest.approx(value)


TIMES = st.integers(0, 40).map(lambda quarter: quarter / 4)
SPANS = st.lists(
    st.tuples(TIMES, TIMES).filter(lambda span: span[0] < span[1]), min_size=1, max_size=5
)


@settings(deadline=None)  # a busy machine
@given(named=SPANS, true=SPANS)
def test_iou_is_symmetric_and_1_for_the_same_seconds_only(named, true):
    value = temporal_iou(named, true)
    assert value == temporal_iou(true, named)
    ours, theirs = (
        {q for a, b in spans for q in range(int(4 * a), int(4 * b))} for spans in (named, true)
    )
    assert value == pytest.approx(len(ours & theirs) / len(ours | theirs))


def test_the_spans_are_those_of_the_reasoning(make_context):
    assert score(make_context, "<time>1-3</time>", [[1, 3]]) == 1.0
    assert score(make_context, "<time>1-3</time>", [1, 3]) == 1.0  # a single span
    context = make_context("a", "b", extra={"spans": [[1, 3]]})
    outside = "<think>x</think><time>1-3</time><answer>a</answer>"
    assert evidence_iou(outside, "a", context, column="spans") == 0.0


@pytest.mark.parametrize("spans", [None, [], ()])
def test_a_sample_without_spans_is_not_judged(make_context, spans):
    assert score(make_context, "<time>1-3</time>", spans) is None


@pytest.mark.parametrize("text", ["", "<think><time>1-3</time>", "<time>1-3</time>", "\ud800"])
def test_a_completion_without_evidence_scores_0_where_there_is_some(make_context, text):
    context = make_context("a", "b", extra={"spans": [[1, 3]]})
    assert evidence_iou(text, "a", context, column="spans") == 0.0


@pytest.mark.parametrize(
    "spans", ["1-3", [[3, 1]], [[1]], [["1", "3"]], [[-1, 2]], 7, [[0, float("inf")]], [True, 2]]
)
def test_a_column_that_holds_no_spans_is_the_manifest_s_fault(make_context, spans):
    with pytest.raises(DataError, match="column 'spans'"):
        score(make_context, "<time>1-3</time>", spans)
