"""Resources that do one thing after another."""

import asyncio

from cluster.simulation.resources import Serial
from cluster.simulation.virtual_time import run_virtually


def test_uses_wait_for_each_other_and_are_counted():
    async def main() -> tuple[list[float], float]:
        driver = Serial()
        ends: list[float] = []

        async def use(seconds: float) -> None:
            await driver.use(seconds)
            ends.append(asyncio.get_running_loop().time())

        await asyncio.gather(use(2.0), use(3.0), use(0.0))
        await asyncio.sleep(10)
        await use(1.0)
        return ends, driver.busy_s

    ends, busy = run_virtually(main)[0]
    assert ends == [0.0, 2.0, 5.0, 16.0]
    assert busy == 6.0
