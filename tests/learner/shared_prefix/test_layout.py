"""Who sees whom, written once more in the plainest way and compared."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from learner.shared_prefix.layout import Call, Layout

GROUPS = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(1, 7), min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


def sees(groups: list[tuple[int, list[int]]]) -> np.ndarray:
    """By definition, bool [L, L]: of one's own group, before oneself, prompt or same response."""
    named = [
        (number, part)
        for number, (prompt, responses) in enumerate(groups)
        for part, length in enumerate([prompt, *responses])
        for _ in range(length)
    ]
    return np.array(
        [
            [
                key <= query and of[0] == by[0] and of[1] in (0, by[1])
                for key, of in enumerate(named)
            ]
            for query, by in enumerate(named)
        ]
    )


def drawn(calls: list[Call], length: int) -> np.ndarray:
    """The pairs that kernel calls make, how often each."""
    found = np.zeros((length, length), int)
    for (a, b), (c, d), causal in calls:
        block = np.ones((b - a, d - c), int)
        found[a:b, c:d] += np.tril(block) if causal else block
    return found


def test_a_group_of_two_worked_by_hand():
    layout = Layout.of([(2, [2, 1]), (1, [2])])
    assert layout.num_tokens == 8
    assert layout.calls == (
        Call((0, 2), (0, 2), True),
        Call((2, 5), (0, 2), False),
        Call((2, 4), (2, 4), True),
        Call((4, 5), (4, 5), True),
        Call((5, 8), (5, 8), True),
    )
    assert layout.predict_at.tolist() == [1, 2, 1, 5, 6]
    assert layout.sight.tolist() == [
        [0, 0, 0, 0, 0, 5, 5, 5],
        [2, 2, 2, 2, 2, 6, 6, 6],
        [0, 0, 2, 2, 4, 5, 6, 6],
    ]


@given(GROUPS)
def test_kernel_calls_make_every_pair_that_sees_each_other_once(groups: list):
    layout = Layout.of(groups)
    assert np.array_equal(drawn(list(layout.calls), layout.num_tokens), sees(groups).astype(int))


@given(GROUPS, st.integers(1, 9))
def test_blocks_count_the_pairs_in_them(groups: list, size: int):
    layout = Layout.of(groups)
    pairs = sees(groups).astype(int)
    edges = np.arange(0, layout.num_tokens, size)
    expected = np.add.reduceat(np.add.reduceat(pairs, edges, axis=0), edges, axis=1)
    assert np.array_equal(layout.seen_in_blocks(size), expected)
