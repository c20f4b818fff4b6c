import pytest
import torch

from learner.objective.aggregate import aggregate, means, spread, sums
from learner.shared_prefix.rows import StepCounts

VALUES = torch.tensor([1.0, 2.0, 3.0, 10.0])  # two responses, of three tokens and of one
LENGTHS = [3, 1]
COUNTS = StepCounts(num_tokens=8, num_responses=4, max_response_length=5)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", 16 / 8),
        ("seq-mean-token-sum", 16 / 4),
        ("seq-mean-token-mean", (2 + 10) / 4),
        ("seq-mean-token-sum-norm", 16 / (4 * 5)),
    ],
)
def test_each_mode_by_hand(mode: str, expected: float):
    assert aggregate(VALUES, LENGTHS, COUNTS, mode).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "mode",
    ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"],
)
def test_parts_of_an_update_add_up_to_the_whole(mode: str):
    whole = aggregate(VALUES, LENGTHS, COUNTS, mode)
    parts = [aggregate(VALUES[:3], [3], COUNTS, mode), aggregate(VALUES[3:], [1], COUNTS, mode)]
    assert sum(part.item() for part in parts) == pytest.approx(whole.item())


def test_a_response_is_summed_averaged_and_spread_over_its_tokens():
    assert sums(VALUES, LENGTHS).tolist() == [6.0, 10.0]
    assert means(VALUES, LENGTHS).tolist() == [2.0, 10.0]
    assert spread(means(VALUES, LENGTHS), LENGTHS).tolist() == [2.0, 2.0, 2.0, 10.0]
