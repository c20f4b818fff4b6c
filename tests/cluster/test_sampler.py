from cluster.sampler import Sampler, epoch_order
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
