import random

from hypothesis import given
from hypothesis import strategies as st

from rollout.sampler import Sampler, epoch_order
from wire.types import Sample, Split


def make_samples(count: int) -> list[Sample]:
    return [
        Sample(id=f"s{index:03d}", video="a.mp4", label="x", split=Split.TRAIN)
        for index in range(count)
    ]


def test_each_epoch_asks_every_sample_once():
    sampler = Sampler(make_samples(7), seed=3)
    for epoch in range(3):
        asked = {sampler.at(epoch * 7 + offset).id for offset in range(7)}
        assert len(asked) == 7


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    samples = make_samples(20)
    one, two = Sampler(samples, seed=1), Sampler(list(reversed(samples)), seed=1)
    assert [one.at(i).id for i in range(60)] == [two.at(i).id for i in range(60)]
    assert epoch_order(20, 1, 0) != epoch_order(20, 1, 1)
    assert epoch_order(20, 1, 0) != epoch_order(20, 2, 0)


def test_going_back_gives_the_same_sample():
    sampler = Sampler(make_samples(5), seed=0)
    first = sampler.at(2).id
    sampler.at(11)
    assert sampler.at(2).id == first


def make_classes(**sizes: int) -> list[Sample]:
    return [
        Sample(id=f"{label}{index}", video="a.mp4", label=label, split=Split.TRAIN)
        for label, size in sizes.items()
        for index in range(size)
    ]


@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 6), min_size=1),
    st.integers(0, 99),
    st.integers(0, 60),
)
def test_balanced_places_ask_every_label_once_a_turn(sizes: dict, seed: int, turn: int):
    sampler = Sampler(make_classes(**sizes), seed, balanced=True)
    asked = [sampler.at(turn * len(sizes) + offset).label for offset in range(len(sizes))]
    assert sorted(asked) == sorted(sizes)


def test_a_balanced_label_goes_through_its_samples_before_it_repeats_one():
    sampler = Sampler(make_classes(a=3, b=7), seed=5, balanced=True)
    asked = [sampler.at(index) for index in range(2 * 21)]
    for label, size in (("a", 3), ("b", 7)):
        own = [sample.id for sample in asked if sample.label == label]
        assert all(len(set(own[i : i + size])) == size for i in range(0, 21, size))


def test_balanced_places_are_a_function_of_the_seed_and_the_place():
    samples = make_classes(a=3, b=7, c=1)
    one, two = Sampler(samples, 1, balanced=True), Sampler(samples[::-1], 1, balanced=True)
    places = list(range(60))
    shuffled = random.Random(0).sample(places, 60)
    by_place = {index: two.at(index).id for index in shuffled}
    assert [one.at(index).id for index in places] == [by_place[index] for index in places]
    other = Sampler(samples, 2, balanced=True)
    assert [one.at(i).id for i in places] != [other.at(i).id for i in places]


def test_the_order_of_a_run_that_is_not_balanced_is_what_it_always_was():
    sampler = Sampler(make_samples(6), seed=3)
    assert [sampler.at(i).id for i in range(6)] == [f"s{i:03d}" for i in epoch_order(6, 3, 0)]
