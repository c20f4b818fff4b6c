import asyncio

from cluster.classify.clip_memory import ClipMemory


async def test_clips_wait_while_those_before_take_too_much_and_come_in_order() -> None:
    memory, inside = ClipMemory(100), []
    leave = [asyncio.Event() for _ in range(4)]

    async def clip(number: int) -> None:
        async with memory.place() as place:
            inside.append(number)
            place.take(60)
            await leave[number].wait()

    async with asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(clip(number))
        await asyncio.sleep(0.01)
        assert (inside, memory.num_bytes) == ([0, 1], 120)
        leave[1].set()
        await asyncio.sleep(0.01)
        assert inside == [0, 1, 2]
        for event in leave:
            event.set()
    assert (inside, memory.num_bytes) == ([0, 1, 2, 3], 0)


async def test_one_clip_above_the_limit_is_answered() -> None:
    memory = ClipMemory(1)
    for _ in range(2):
        async with memory.place() as place:
            place.take(1000)


async def test_one_who_gives_up_waiting_leaves_the_others_their_turn() -> None:
    memory, inside = ClipMemory(1), []

    async def clip(number: int) -> None:
        async with memory.place():
            inside.append(number)

    async with memory.place() as place:
        place.take(1)
        tasks = [asyncio.create_task(clip(number)) for number in range(2)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
    await asyncio.wait_for(tasks[1], 5)
    assert inside == [1]
