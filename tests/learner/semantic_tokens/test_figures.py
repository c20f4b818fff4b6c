import pytest
import torch

from learner.semantic_tokens.figures import Readings, figures_of, purity


def readings(*codes: tuple[int, ...]) -> Readings:
    return Readings(codes=codes, embeddings=torch.zeros(4, 2), reconstruction_error=0.25)


def test_figures_count_codes_switches_and_runs():
    figures = figures_of(readings((0, 0, 1, 1), (2, 2, 2)), [(), ()], [5, 5, 6, 7])
    assert (figures["num_clips"], figures["num_segments"], figures["codes_used"]) == (2, 7, 3)
    assert figures["codes_used_frac"] == pytest.approx(3 / 4)
    assert figures["switch_rate"] == pytest.approx(1 / 5)  # of 3 + 2 pairs of neighbours
    assert figures["mean_run_length"] == pytest.approx(7 / 3)
    assert figures["names_used"] == 2
    assert figures["named_switch_rate"] == 0  # codes 0 and 1 have one name
    assert figures["mean_named_run_length"] == pytest.approx(7 / 2)
    assert figures["reconstruction_error"] == 0.25
    assert "named_precision" not in figures  # no text


def test_agreement_with_the_texts_stands_beside_its_chance():
    # clip 0 mentions 0 and 1, clip 1 mentions 1; the code of clip 1's last segment is named 0
    figures = figures_of(readings((0, 1), (1, 0), (3,)), [(0, 1), (1,), ()], [0, 1, 1, 2])
    assert figures["named_precision"] == pytest.approx(3 / 4)
    assert figures["named_chance"] == pytest.approx((2 * 1 + 2 * 2) / (4 * 2))
    assert figures["named_recall"] == 1


def test_clips_of_one_segment_have_no_switches():
    assert figures_of(readings((1,), (2,)), [(), ()], [0] * 4)["switch_rate"] == 0


def test_purity_is_the_share_of_each_codes_most_frequent_label():
    assert purity([0, 0, 0, 1], ["a", "a", "b", "b"]) == pytest.approx(3 / 4)
    assert purity([], []) == 0
