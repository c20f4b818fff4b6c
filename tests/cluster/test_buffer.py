import asyncio

import pytest

from cluster.buffer import GroupBuffer
from tests.groups import make_group
from wire.types import PolicyVersion


async def test_groups_come_in_the_order_of_their_places_whoever_finished_first():
    buffer = GroupBuffer(2)
    first, second = await buffer.reserve(), await buffer.reserve()
    second.fill(make_group(group_id="second"))
    taking = asyncio.create_task(buffer.take(2))
    await asyncio.sleep(0)
    assert not taking.done()
    first.fill(make_group(group_id="first"))
    assert [group.group_id for group in await taking] == ["first", "second"]


async def test_a_place_is_free_only_after_release_not_after_take():
    buffer = GroupBuffer(1)
    first = await buffer.reserve()
    first.fill(make_group(group_id="a"))
    await buffer.take(1)
    waiting = asyncio.create_task(buffer.reserve())
    await asyncio.sleep(0)
    assert not waiting.done()
    buffer.release(1)
    assert (await waiting).index == 1


async def test_a_resumed_run_goes_on_counting_places():
    place = await GroupBuffer(1, first_index=96).reserve()
    assert place.index == 96


async def test_there_is_no_place_after_the_last():
    buffer = GroupBuffer(3, first_index=4, num_places=1)
    assert (await buffer.reserve()).index == 4
    waiting = asyncio.create_task(buffer.reserve())
    buffer.release(3)
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_a_replaced_group_gives_its_place_to_one_after_the_last():
    buffer = GroupBuffer(1, first_index=4, num_places=1)
    place = await buffer.reserve()
    place.fill(make_group(group_id="a"))
    await buffer.take_one()
    assert buffer.next_index == 5
    buffer.replace()
    assert (await buffer.reserve()).index == 5


async def test_the_place_of_the_next_round_is_known_as_long_as_there_is_one():
    buffer = GroupBuffer(2, first_index=4, num_places=3)
    first, second = await buffer.reserve(), await buffer.reserve()
    assert (buffer.one_round_after(first), buffer.one_round_after(second)) == (6, None)
    buffer.replace()
    assert buffer.one_round_after(second) == 7


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
async def test_staleness_is_bounded_exactly_even_with_one_very_slow_group(max_staleness: int):
    groups_per_step, steps = 4, 12
    capacity = (max_staleness + 1) * groups_per_step
    buffer, version, lags = GroupBuffer(capacity), 0, []

    async def rollout() -> None:
        while True:
            place = await buffer.reserve()
            started_at = version
            for _ in range(200 if place.index == 5 else 1 + place.index % 3):
                await asyncio.sleep(0)
            place.fill(make_group(policy_version=PolicyVersion(attempt=0, step=started_at)))

    loops = [asyncio.create_task(rollout()) for _ in range(capacity)]
    for _ in range(steps):
        groups = await buffer.take(groups_per_step)
        lags += [version - group.policy_version.step for group in groups]
        version += 1
        buffer.release(groups_per_step)
    for loop in loops:
        loop.cancel()
    assert max(lags) == max_staleness
