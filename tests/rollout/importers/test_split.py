from collections import Counter
from random import Random

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from rollout.importers.split import divide, link, parse_ratio
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


shares = st.sampled_from(
    [
        SHARES,
        {Split.TRAIN: 0.6, Split.TEST: 0.4},
        {Split.VAL: 0.25, Split.TRAIN: 0.25, Split.CAL: 0.25, Split.TEST: 0.25},
        {Split.TRAIN: 0.7, Split.VAL: 0.15, Split.TEST: 0.15},
    ]
)
label_counts = st.lists(st.integers(1, 12), min_size=1, max_size=25)


def make_many(counts: list[int]) -> dict[str, str]:
    return {f"{label}-{n}": f"label{label}" for label, c in enumerate(counts) for n in range(c)}


def divide_or_skip(
    labels: dict[str, str], ratio: dict[Split, float], seed: int, groups: dict[str, str]
) -> dict[str, Split]:
    try:
        return divide(labels, ratio, seed, groups)
    except ConfigError:  # too few clips for every split to get one
        reject()


@settings(deadline=None)
@given(label_counts, shares, st.integers(0, 3))
def test_many_small_labels_are_divided_alike_and_add_up(
    counts: list[int], ratio: dict[Split, float], seed: int
) -> None:
    labels = make_many(counts)
    found = divide_or_skip(labels, ratio, seed, {})
    assert set(found) == set(labels)
    sizes = Counter((found[key], label) for key, label in labels.items())
    for label, size in enumerate(counts):
        for split, share in ratio.items():
            assert abs(sizes[split, f"label{label}"] - share * size) < 1
        largest = max(ratio.values())
        assert any(sizes[split, f"label{label}"] for split in ratio if ratio[split] == largest)
    if min(counts) >= 4:  # no label so small that its only clip must go to the largest split
        totals = Counter(found.values())
        for split, share in ratio.items():
            assert abs(totals[split] - share * len(labels)) < len(ratio)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=120),
    shares,
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_no_group_crosses_splits_and_sizes_stay_within_a_group(
    rows: list[tuple[int, int]], ratio: dict[Split, float], seed: int, random: Random
) -> None:
    labels = {f"clip{n}": f"label{label}" for n, (label, _) in enumerate(rows)}
    groups = {f"clip{n}": f"group{group}" for n, (_, group) in enumerate(rows)}
    found = divide_or_skip(labels, ratio, seed, groups)
    assert set(found) == set(labels)
    of_group: dict[str, set[Split]] = {}
    for key, split in found.items():
        of_group.setdefault(groups[key], set()).add(split)
    assert all(len(splits) == 1 for splits in of_group.values())
    most = max(Counter(groups.values()).values())
    totals = Counter(found.values())
    for split, share in ratio.items():
        exact = share * len(labels)
        if most > 1:
            assert exact - (len(ratio) - 1) * most <= totals[split] < exact + most
    shuffled = list(labels.items())
    random.shuffle(shuffled)
    assert divide(dict(shuffled), ratio, seed, groups) == found


def test_groups_are_as_even_in_labels_as_they_can_be() -> None:
    labels = {f"{g}-{n}": "ab"[g % 2] for g in range(40) for n in range(5)}
    groups = {key: key.split("-")[0] for key in labels}
    found = divide(labels, {Split.TRAIN: 0.8, Split.TEST: 0.2}, 0, groups)
    counts = Counter((found[key], label) for key, label in labels.items())
    assert counts == {
        (Split.TRAIN, "a"): 80,
        (Split.TRAIN, "b"): 80,
        (Split.TEST, "a"): 20,
        (Split.TEST, "b"): 20,
    }


def test_the_only_clip_of_a_label_is_trained_on() -> None:
    labels = {**make_labels(30, 30), "lonely": "rare"}
    assert all(divide(labels, SHARES, seed)["lonely"] is Split.TRAIN for seed in range(20))


def test_more_groups_than_one_that_leave_a_split_empty_are_counted() -> None:
    labels = make_labels(5, 5)
    groups = {key: f"g{n % 2}" for n, key in enumerate(labels)}
    with pytest.raises(ConfigError, match="none of the 10 clips in 2 groups; raise its share"):
        divide(labels, SHARES, 0, groups)


def test_keys_are_linked_through_others() -> None:
    files = {"a": "1", "b": "1", "c": "2", "d": "3"}
    people = {"a": "x", "b": "y", "c": "y", "d": "z"}
    assert link("abcd", [files, people]) == {"a": "a", "b": "a", "c": "a", "d": "d"}
    turned = {key: people[key] for key in "dcba"}
    assert link("dcba", [files, turned]) == link("abcd", [files, people])
