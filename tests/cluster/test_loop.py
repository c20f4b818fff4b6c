import asyncio

import pytest

from cluster.buffer import GroupBuffer
from cluster.loop import StepGroups, rollout_loop, run_until_trained, train_loop
from tests.groups import make_group, make_sample
from wire.errors import TooManyFailures
from wire.types import PolicyVersion, Sample, TraceGroup


def sample_at(index: int) -> Sample:
    return make_sample(id=f"s{index}")


class FakeWriter:
    """Writes an empty group at once."""

    def __init__(self) -> None:
        self.version, self.asked = 0, list[int]()
        self.upcoming: dict[int, str | None] = {}

    async def write(self, sample: Sample, index: int, upcoming: Sample | None = None) -> TraceGroup:
        self.asked.append(index)
        self.upcoming[index] = upcoming and upcoming.id
        version = PolicyVersion(attempt=0, step=self.version)
        await asyncio.sleep(0)
        return make_group(group_id=sample.id, sample=sample, policy_version=version)


class FakeLearner:
    """Counts steps; publishing is a number."""

    def __init__(self, writer: FakeWriter, fail_at: int = -1) -> None:
        self.writer, self.fail_at = writer, fail_at
        self.seen: list[list[str]] = []
        self.lags: list[int] = []

    async def train(self, taken: StepGroups, step: int) -> None:
        groups = taken.trained
        if step == self.fail_at:
            raise TooManyFailures("all of them")
        self.lags += [self.writer.version - group.policy_version.step for group in groups]
        self.seen.append([group.group_id for group in groups])
        self.writer.version = step


async def run(writer: FakeWriter, learner: FakeLearner, max_staleness: int, first: int = 0) -> None:
    capacity = (max_staleness + 1) * 2
    buffer = GroupBuffer(capacity, first, 10)
    train = train_loop(buffer, learner, range(1, 6), 2)
    loops = [rollout_loop(sample_at, writer, buffer) for _ in range(capacity)]
    await asyncio.wait_for(run_until_trained(train, loops), 10)


async def test_synchronous_training_is_on_policy_and_in_order():
    writer = FakeWriter()
    learner = FakeLearner(writer)
    await run(writer, learner, max_staleness=0)
    assert learner.seen == [[f"s{2 * k}", f"s{2 * k + 1}"] for k in range(5)]
    assert set(learner.lags) == {0}
    assert len(writer.asked) == 10, "nothing is asked that is not trained"


async def test_staleness_never_exceeds_its_bound():
    writer = FakeWriter()
    learner = FakeLearner(writer)
    await run(writer, learner, max_staleness=1)
    assert max(learner.lags) == 1


async def test_a_resumed_loop_asks_the_places_that_come_next():
    writer = FakeWriter()
    learner = FakeLearner(writer)
    await run(writer, learner, max_staleness=0, first=40)
    assert learner.seen[0] == ["s40", "s41"]


async def test_an_error_in_training_ends_the_rollouts_and_surfaces():
    writer = FakeWriter()
    with pytest.raises(ExceptionGroup) as caught:
        await run(writer, FakeLearner(writer, fail_at=3), max_staleness=1)
    assert caught.value.subgroup(TooManyFailures)


async def test_an_error_in_a_rollout_ends_training_and_surfaces():
    class Broken(FakeWriter):
        async def write(
            self, sample: Sample, index: int, upcoming: Sample | None = None
        ) -> TraceGroup:
            raise RuntimeError("the engine is gone")

    writer = Broken()
    with pytest.raises(ExceptionGroup, match="TaskGroup"):
        await run(writer, FakeLearner(writer), max_staleness=0)


@pytest.mark.parametrize("max_staleness", [0, 1])
async def test_a_writer_is_told_what_is_asked_a_buffer_later_and_nothing_that_never_is(
    max_staleness: int,
):
    writer = FakeWriter()
    await run(writer, FakeLearner(writer), max_staleness)
    ahead = 2 * (max_staleness + 1)
    assert writer.upcoming == {k: f"s{k + ahead}" if k + ahead < 10 else None for k in range(10)}
