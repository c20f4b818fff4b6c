from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.importers.split import divide, parse_ratio
from wire.errors import ConfigError
from wire.types import Split

SHARES = {Split.TRAIN: 0.8, Split.VAL: 0.1, Split.CAL: 0.1}


def make_labels(abnormal: int, normal: int) -> dict[str, str]:
    return {f"clip{i}": "abnormal" if i < abnormal else "normal" for i in range(abnormal + normal)}


def test_a_ratio_is_read() -> None:
    assert parse_ratio("train=0.8, val=0.1,cal=0.1") == SHARES


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train=0.8", "sums to 0.8, expected 1"),
        ("train=0.8,vall=0.2", "got 'vall=0.2'.*splits train, val, cal, test"),
        ("train=much", "got 'train=much'"),
        ("train", "got 'train'"),
        ("train=0.5,train=0.5", "each split once"),
        ("train=1,val=0", "a share above 0"),
        ("train=nan", "a share above 0"),
    ],
)
def test_a_bad_ratio_says_what_is_expected(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_ratio(text)


@given(st.integers(10, 60), st.integers(10, 60), st.integers(0, 5))
def test_every_label_is_divided_alike(abnormal: int, normal: int, seed: int) -> None:
    labels = make_labels(abnormal, normal)
    found = divide(labels, SHARES, seed)
    counts = Counter((found[key], label) for key, label in labels.items())
    for label, size in (("abnormal", abnormal), ("normal", normal)):
        for split, share in SHARES.items():
            assert abs(counts[split, label] - share * size) <= 1


def test_the_order_of_the_clips_does_not_matter_and_the_seed_does() -> None:
    labels = make_labels(30, 30)
    turned = dict(reversed(labels.items()))
    assert divide(labels, SHARES, 1) == divide(turned, SHARES, 1)
    assert divide(labels, SHARES, 1) != divide(labels, SHARES, 2)


def test_a_split_that_would_stay_empty_is_named() -> None:
    with pytest.raises(ConfigError, match="gives val, cal none of the 2 clips"):
        divide(make_labels(1, 1), SHARES, 0)
