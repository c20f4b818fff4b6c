import logging

import pytest

from learner.shared_prefix.exactness_check import check_layouts
from learner.shared_prefix.rows import Row, one_row_per_response
from tests.learner.builders import make_row
from wire.errors import ParityError

ROWS = [
    make_row(0, (4, 5)),
    make_row(1, (2,)),
    make_row(2, (1, 1, 1, 1, 2, 2)),
    make_row(3, (9, 9)),
]


class Scorer:
    """Logprob -1 of every token, but ``shift`` more behind a shared prompt."""

    def __init__(self, shift: float) -> None:
        self._shift = shift
        self.asked: list[Row] = []

    def __call__(self, rows: list[Row]) -> list[list[list[float]]]:
        self.asked += rows
        return [
            [
                [-1.0 + self._shift * (len(row.responses) > 1)] * len(response.token_ids)
                for response in row.responses
            ]
            for row in rows
        ]


def exact(rows: list[Row]) -> float:
    return 1e-6


def test_the_shortest_group_is_tried_with_a_few_of_its_responses():
    score = Scorer(0.0)
    assert check_layouts(ROWS, score, exact, "float32", lambda gap: gap).holds
    together, *repeated = score.asked
    assert together.prompt == ROWS[2].prompt
    assert together.responses == ROWS[2].responses[:4]
    assert repeated == one_row_per_response(together)


@pytest.mark.parametrize(
    ("shift", "dtype", "holds"),
    [(2e-4, "float32", False), (2e-4, "bfloat16", True), (0.1, "bfloat16", False)],
)
def test_the_limit_is_that_of_the_precision(
    shift: float, dtype: str, holds: bool, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        found = check_layouts(ROWS, Scorer(shift), exact, dtype, lambda gap: gap)
    assert found.holds == holds
    assert found.gap == pytest.approx(shift)
    assert [f"{shift:.2e}" in text and dtype in text for text in caplog.messages] == [True] * (
        not holds
    )


def test_one_rank_that_differs_decides_for_all():
    others = iter([0.5, 0.0, 0.0])  # gaps of another rank: logprobs, float32, repeated prompts
    assert not check_layouts(
        ROWS, Scorer(0.0), exact, "float32", lambda gap: max(gap, next(others))
    ).holds


def test_what_is_not_a_number_does_not_hold():
    assert not check_layouts(ROWS, Scorer(float("nan")), exact, "float32", lambda gap: gap).holds


def test_rows_of_one_response_are_the_naive_layout_already():
    assert check_layouts(ROWS[1:2], Scorer(0.5), exact, "float32", lambda gap: gap).gap == 0


@pytest.mark.parametrize("gap", [1e-3, float("nan")])
def test_a_gap_in_float32_leaves_shared_prefix_in_bfloat16_too(gap: float):
    def wrong_behind_one_prompt(rows: list[Row]) -> float:
        return gap if any(len(row.responses) > 1 for row in rows) else 1e-6

    check = check_layouts(ROWS, Scorer(0.0), wrong_behind_one_prompt, "bfloat16", lambda gap: gap)
    assert not check.holds


def test_attention_that_is_wrong_in_both_layouts_ends_the_run():
    with pytest.raises(ParityError, match="attention is wrong on this machine"):
        check_layouts(ROWS, Scorer(0.0), lambda rows: 1e-3, "bfloat16", lambda gap: gap)
