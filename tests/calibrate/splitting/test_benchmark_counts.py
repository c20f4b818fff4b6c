from dataclasses import replace
from pathlib import Path

import pytest

from calibrate.splitting.benchmark import read_side
from calibrate.splitting.benchmark_counts import PUBLISHED, count, differences
from tests.calibrate.splitting.layouts import write_layout


def test_a_side_is_counted(tmp_path: Path):
    counts = count(read_side(write_layout(tmp_path / "data"), "A"))
    assert (counts.groups, counts.single_groups, counts.fine_labels) == (5, 1, 11)
    assert (counts.targets, counts.base_labels, counts.kept_labels) == (2, 8, 6)
    assert (counts.new_labels, counts.new_labels_with_clips) == (5, 5)
    assert (counts.train_clips, counts.val_clips) == (22, 33)
    assert (counts.mean_train_clips, counts.mean_val_clips) == (5.0, 7.5)
    assert counts.chance == pytest.approx(100 * (1 / 3 + 1 / 2) / 2)
    assert counts.majority == pytest.approx(100 * (1 / 3 + 1 / 2) / 2)
    assert (counts.modifiers, counts.alignment_pairs) == (5, 2 + 5 + 5 + 1)


def test_counts_that_differ_from_the_published_ones_are_named(tmp_path: Path):
    side = read_side(write_layout(tmp_path / "SSv2-Split"), "A")
    named = differences(side, count(side))
    assert "targets: 2, published 27" in named
    assert "shared clips: 0, published 0" not in named


def test_equal_counts_have_no_differences(tmp_path: Path):
    side = read_side(write_layout(tmp_path / "SSv2-Split"), "A")
    published = replace(count(side), **PUBLISHED["SSv2-Split", "A"])
    assert differences(side, published) == []


def test_a_data_set_of_another_name_has_no_published_counts(tmp_path: Path):
    side = read_side(write_layout(tmp_path / "ours"), "A")
    assert differences(side, count(side)) == []


def test_published_counts_of_a_data_sets_sides_agree_with_each_other():
    for name in ("SSv2-Split", "FineGym-Split"):
        a, b = PUBLISHED[name, "A"], PUBLISHED[name, "B"]
        assert a["fine_labels"] == a["new_labels"] + b["new_labels"] + a["single_groups"]
        assert a["groups"] == a["targets"] + b["targets"] + a["single_groups"]
        for one, other in ((a, b), (b, a)):
            namesakes = one["fine_labels"] - one["new_labels"] - one["kept_labels"]
            assert one["modifiers"] == other["new_labels"] - namesakes
            assert one["base_labels"] == one["targets"] + one["kept_labels"]
