"""Scripted engine: how long continuous batching takes."""

import asyncio

import pytest

from cluster.simulation.engine import EngineDied, EngineSpeed, ScriptedEngine
from cluster.simulation.virtual_time import run_virtually

SPEED = EngineSpeed(step_s=0.01, per_sequence_s=0.001, prompt_s=0.5, max_num_seqs=4)


def now() -> float:
    return asyncio.get_running_loop().time()


async def end_of(engine: ScriptedEngine, lengths: list[int]) -> float:
    await engine.write(lengths)
    return now()


def test_one_sequence_takes_its_prompt_and_a_step_per_token():
    async def main() -> float:
        return await end_of(ScriptedEngine(SPEED), [100])

    assert run_virtually(main)[0] == pytest.approx(0.5 + 100 * 0.01)


def test_sequences_of_a_step_slow_each_other_until_they_end():
    async def main() -> float:
        return await end_of(ScriptedEngine(SPEED), [100, 300])

    # 100 steps of two sequences, 200 of one
    assert run_virtually(main)[0] == pytest.approx(0.5 + 100 * 0.011 + 200 * 0.01)


def test_sequences_over_the_most_wait_for_a_place():
    async def main() -> float:
        return await end_of(ScriptedEngine(SPEED), [100] * 5)

    # four together, then the fifth alone
    assert run_virtually(main)[0] == pytest.approx(0.5 + 100 * 0.013 + 100 * 0.01)


def test_a_second_request_joins_the_first_while_it_is_written():
    async def main() -> list[float]:
        engine = ScriptedEngine(SPEED)
        first = asyncio.create_task(end_of(engine, [100]))
        await asyncio.sleep(0.5 + 50 * 0.01)  # half of it is there
        second = asyncio.create_task(end_of(engine, [100]))
        return [await first, await second]

    first, second = run_virtually(main)[0]
    # the prompt of the second holds up the first, then both decode together
    assert first == pytest.approx(1.0 + 0.5 + 50 * 0.011)
    assert second == pytest.approx(first + 50 * 0.01)


def test_a_halt_is_added_to_what_is_being_written():
    async def main() -> float:
        engine = ScriptedEngine(SPEED)
        writing = asyncio.create_task(end_of(engine, [100]))
        await asyncio.sleep(1.0)
        engine.halt()
        await asyncio.sleep(7.0)
        assert not writing.done()
        engine.go_on()
        return await writing

    assert run_virtually(main)[0] == pytest.approx(1.5 + 7.0)


def test_all_requests_of_an_engine_that_ends_fail():
    async def main() -> None:
        engine = ScriptedEngine(SPEED)
        requests = [asyncio.create_task(engine.write([100] * 3)) for _ in range(2)]
        await asyncio.sleep(1.0)
        engine.end()
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert [type(one) for one in outcomes] == [EngineDied, EngineDied]
        assert not engine.is_busy

    run_virtually(main)


def test_a_request_that_is_cancelled_leaves_its_place_to_others():
    async def main() -> float:
        engine = ScriptedEngine(SPEED)
        cancelled = asyncio.create_task(engine.write([1000] * 4))
        await asyncio.sleep(0)
        other = asyncio.create_task(end_of(engine, [100]))
        await asyncio.sleep(1.0)  # both prompts
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        return await other

    assert run_virtually(main)[0] == pytest.approx(1.0 + 100 * 0.01)


def test_busy_seconds_and_tokens_are_counted():
    async def main() -> tuple[float, float]:
        engine = ScriptedEngine(SPEED)
        await engine.write([100, 100])
        await asyncio.sleep(10)
        await engine.write([50])
        return engine.busy_s, engine.num_tokens

    busy, tokens = run_virtually(main)[0]
    assert busy == pytest.approx(0.5 + 100 * 0.011 + 0.5 + 50 * 0.01)
    assert tokens == pytest.approx(250)


def test_traces_begin_with_the_weights_of_their_moment():
    async def main() -> list[list[int]]:
        engine = ScriptedEngine(SPEED, version=3)
        first = asyncio.create_task(engine.write([100]))
        await asyncio.sleep(1.0)
        engine.halt()
        engine.version = 4
        engine.go_on("keep")
        second = asyncio.create_task(engine.write([100]))
        return [list(await first), list(await second)]

    assert run_virtually(main)[0] == [[3], [4]]


def test_a_restart_writes_what_is_not_written_yet_anew_with_the_new_weights():
    async def main() -> tuple[list[int], float, float]:
        engine = ScriptedEngine(SPEED, version=3)
        writing = asyncio.create_task(engine.write([50, 100]))
        await asyncio.sleep(0.5 + 50 * 0.011 + 0.1)  # the first is written, ten tokens more
        engine.halt()
        engine.version = 4
        engine.go_on("restart")
        return list(await writing), now(), engine.lost_tokens

    versions, end, lost = run_virtually(main)[0]
    assert versions == [3, 4]
    assert end == pytest.approx(0.5 + 50 * 0.011 + 0.1 + 100 * 0.01)
    assert lost == pytest.approx(60)


def test_tokens_of_an_engine_that_ends_are_lost_those_that_it_gave_are_not():
    async def main() -> tuple[float, float]:
        engine = ScriptedEngine(SPEED)
        await engine.write([100])
        failing = asyncio.create_task(engine.write([20, 100]))
        await asyncio.sleep(0.5 + 20 * 0.011 + 30 * 0.01)
        engine.end()
        await asyncio.gather(failing, return_exceptions=True)
        return engine.num_tokens, engine.lost_tokens

    decoded, lost = run_virtually(main)[0]
    assert decoded == pytest.approx(100 + 20 + 50)
    assert lost == pytest.approx(20 + 50)
