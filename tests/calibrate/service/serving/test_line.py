"""Lines before a classifier: bounds, turns, callers that go, lines that are closed."""

import asyncio

import pytest

from calibrate.service.problems import Problem
from calibrate.service.serving.line import Admission, Line, Rate, Retired


async def test_callers_take_turns_and_background_work_comes_last() -> None:
    line, order = Line(1), list[str]()
    await line.enter("first")

    async def one(caller: str, *, background: bool = False) -> None:
        await line.enter(caller, background=background)
        order.append(caller)
        line.leave()

    batch = [asyncio.create_task(one("batch", background=True)) for _ in range(2)]
    many = [asyncio.create_task(one("many")) for _ in range(3)]
    few = [asyncio.create_task(one("few")) for _ in range(2)]
    await asyncio.sleep(0)
    assert line.num_waiting == 7
    line.leave()
    await asyncio.gather(*batch, *many, *few)
    assert order == ["many", "few", "many", "few", "many", "batch", "batch"]
    assert (line.num_inside, line.num_waiting) == (0, 0)


async def test_a_place_that_comes_as_its_caller_goes_is_not_lost() -> None:
    line = Line(1)
    await line.enter()
    going = asyncio.create_task(line.enter())
    await asyncio.sleep(0)
    line.leave()  # to the one that waits
    going.cancel()
    await asyncio.wait({going})
    assert line.num_inside == 0
    await asyncio.wait_for(line.enter(), 1)


async def test_a_closed_line_sends_those_that_wait_away_and_waits_for_those_inside() -> None:
    line = Line(1)
    await line.enter()
    waiting = asyncio.create_task(line.enter())
    await asyncio.sleep(0)
    retiring = asyncio.create_task(line.retire())
    with pytest.raises(Retired):
        await waiting
    with pytest.raises(Retired):
        await line.enter()
    assert not retiring.done()
    line.leave()
    await asyncio.wait_for(retiring, 1)


def test_background_work_fills_half_of_the_places() -> None:
    admission = Admission(4)
    with admission.waiting(background=True), admission.waiting(background=True):
        with pytest.raises(Problem, match="at most 2 may"), admission.waiting(background=True):
            pass
        with admission.waiting() as one:
            assert admission.num_waiting == 3
            one.over()
            one.over()
            assert admission.num_waiting == 2
    assert admission.num_waiting == 0


def test_the_time_to_wait_follows_from_the_measured_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rate, now = Rate(), [0.0]
    monkeypatch.setattr("calibrate.service.serving.line.time.monotonic", lambda: now[0])
    assert rate.seconds_for(100) == 5, "nothing is known yet"
    for second in range(11):
        now[0] = float(second)
        rate.note()
    assert rate.per_second == pytest.approx(1.1)
    assert rate.seconds_for(11) == 10
    assert rate.seconds_for(1000) == 60
    now[0] = 3600.0
    assert rate.seconds_for(1000) == 5, "what was an hour ago says nothing"
