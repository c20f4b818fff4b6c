import asyncio
import random

from cluster.classify.turns import Turns


async def test_turns_come_in_the_order_in_which_they_were_taken_whatever_takes_long():
    turns, came = Turns(), list[int]()

    async def one(number: int, fails: bool) -> None:
        try:
            await asyncio.sleep(random.Random(number).random() / 100)
            if fails:
                return
            await turns.comes(number)
            came.append(number)
        finally:
            turns.end(number)

    numbers = [turns.take() for _ in range(40)]
    await asyncio.wait_for(asyncio.gather(*[one(n, n % 7 == 3) for n in numbers]), 10)
    assert came == [n for n in numbers if n % 7 != 3]


async def test_a_turn_that_is_given_up_while_it_waits_holds_nobody_up():
    turns = Turns()
    first, second, third = (turns.take() for _ in range(3))
    task = asyncio.create_task(turns.comes(second))
    await asyncio.sleep(0)
    task.cancel()
    turns.end(second)
    turns.end(first)
    await asyncio.wait_for(turns.comes(third), 1)
