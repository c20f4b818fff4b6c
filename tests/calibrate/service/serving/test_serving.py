"""Serving by a scripted backend: who answers, what is refused, promotions, deaths, monitors."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from calibrate.decision import Evidence
from calibrate.service.problems import Problem
from calibrate.service.serving.serving import Answered
from tests.calibrate.service.fakes import ScriptedBackend
from wire.errors import GenerationError
from wire.types import Failure


def namer(answered: Answered) -> str:
    """Name of the classifier that the trace was written by."""
    return answered.evidence.trace.removeprefix("<think>").split()[0]


async def refusal(coroutine: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await coroutine
    return caught.value


async def test_the_champion_answers_and_names_itself(open_bench: Any) -> None:
    async with open_bench() as bench:
        answered = await bench.serving.classify(bench.clip())
        assert (answered.classifier.version, namer(answered)) == (1, "first")
        assert answered.control is None
        assert answered.alarm is None
        assert answered.engine_s > 0


async def test_clips_that_come_while_it_starts_wait_for_it(open_bench: Any) -> None:
    async with open_bench(ScriptedBackend(open_s=0.1)) as bench:
        assert not bench.serving.is_ready
        assert bench.serving.not_ready_because == "classifier 1 is starting"
        answered = await bench.serving.classify(bench.clip())
        assert bench.serving.is_ready
        assert answered.engine_s >= 0.05


async def test_without_a_champion_there_is_no_answer(open_bench: Any, tmp_path: Path) -> None:
    async with open_bench() as bench:
        bench.serving._champion.current = None
        bench.registry.aliases = dict
        assert "no champion" in (bench.serving.not_ready_because or "")
        problem = await refusal(bench.serving.classify(bench.clip()))
        assert (problem.status, problem.slug) == (404, "no-such-classifier")


async def test_a_control_is_of_the_same_version(open_bench: Any) -> None:
    async with open_bench() as bench:
        answered = await bench.serving.classify(bench.clip(), view="shuffled")
        assert isinstance(answered.control, Evidence)
        assert answered.control.trace.startswith("<think>first saw shuffled")
        assert answered.control.logprobs != answered.evidence.logprobs


async def test_a_clip_that_cannot_be_decoded_is_a_problem_with_its_failure(
    open_bench: Any,
) -> None:
    async with open_bench() as bench:
        problem = await refusal(bench.serving.classify(bench.clip("fail: no moov atom")))
        assert (problem.status, problem.slug) == (422, "clip-failed")
        assert problem.extra["failure"] == {"kind": "decode", "reason": "no moov atom"}
        await bench.serving.classify(bench.clip())


async def test_more_than_may_wait_are_refused_with_how_long_to_wait(open_bench: Any) -> None:
    async with open_bench(max_queue=3, max_in_flight=2) as bench:
        await bench.ready()
        slow = [
            asyncio.create_task(bench.serving.classify(bench.clip("slow: 0.3", f"{k}")))
            for k in range(5)
        ]
        await bench.asked(2)
        problem = await refusal(bench.serving.classify(bench.clip()))
        assert (problem.status, problem.slug) == (429, "queue-full")
        assert int(problem.headers["Retry-After"]) >= 1
        assert len(await asyncio.gather(*slow)) == 5
        assert bench.backend.opened[0].most_running == 2
        await bench.serving.classify(bench.clip())
        assert bench.serving.status()["refused"] == 1


async def test_a_caller_that_is_gone_takes_no_engine_time(open_bench: Any) -> None:
    async with open_bench(max_in_flight=1) as bench:
        await bench.ready()
        running, waiting = [
            asyncio.create_task(bench.serving.classify(bench.clip("slow: 5", f"{k}")))
            for k in range(2)
        ]
        await bench.asked(1)
        for task in (waiting, running):
            task.cancel()
        await asyncio.wait({running, waiting})
        assert len(bench.backend.asked) == 1, "the one that waited was never asked"
        assert bench.backend.opened[0].num_cancelled == 1
        status = bench.serving.status()
        assert (status["waiting"], status["loaded"][0]["in_flight"]) == (0, 0)
        await bench.serving.classify(bench.clip())


async def test_drain_answers_what_it_has_accepted(open_bench: Any) -> None:
    async with open_bench(max_in_flight=1) as bench:
        await bench.ready()
        accepted = [
            asyncio.create_task(bench.serving.classify(bench.clip("slow: 0.1", f"{k}")))
            for k in range(3)
        ]
        await bench.asked(1)
        draining = asyncio.create_task(bench.serving.drain())
        await asyncio.sleep(0)
        problem = await refusal(bench.serving.classify(bench.clip()))
        assert (problem.status, problem.slug) == (503, "draining")
        await draining
        assert all(task.done() for task in accepted)
        assert len([task.result() for task in accepted]) == 3


# --- deaths


async def test_clips_of_a_dead_engine_are_asked_again_after_its_restart(open_bench: Any) -> None:
    async with open_bench() as bench:
        await bench.ready()
        tasks = [
            asyncio.create_task(bench.serving.classify(bench.clip("slow: 0.2", f"{k}")))
            for k in range(8)
        ]
        await bench.asked(8)
        bench.backend.opened[0].die()
        answers = await asyncio.gather(*tasks)
        assert {namer(answer) for answer in answers} == {"first"}
        assert len(bench.backend.opened) == 2
        assert bench.serving.status()["loaded"][0]["restarts"] == 1


async def test_a_clip_that_kills_engines_ends_typed_and_the_others_are_answered(
    open_bench: Any,
) -> None:
    async with open_bench() as bench:
        await bench.ready()
        deadly_clip = bench.clip("die:", "deadly")
        deadly = asyncio.create_task(bench.serving.classify(deadly_clip))
        others = [
            asyncio.create_task(bench.serving.classify(bench.clip("slow: 0.01", f"{k}")))
            for k in range(5)
        ]
        problem = await refusal(deadly)
        assert (problem.status, problem.slug) == (503, "engine-unavailable")
        assert "3 times" in problem.detail
        assert "Retry-After" in problem.headers
        assert {namer(answer) for answer in await asyncio.gather(*others)} == {"first"}
        num_opened = len(bench.backend.opened)
        again = await refusal(bench.serving.classify(deadly_clip))
        assert (again.status, again.slug) == (422, "clip-ends-engines")
        assert len(bench.backend.opened) == num_opened


async def test_engines_that_do_not_start_again_end_typed_and_come_back_later(
    open_bench: Any,
) -> None:
    async with open_bench() as bench:
        await bench.ready()
        bench.backend.faults = [GenerationError("no room on the GPU")] * 4
        bench.backend.opened[0].die()
        problem = await refusal(bench.serving.classify(bench.clip("slow: 0.01")))
        assert (problem.status, problem.slug) == (503, "engine-unavailable")
        assert "no room on the GPU" in problem.detail
        assert bench.serving.not_ready_because == "classifier 1 is down", "strangers may read it"
        assert bench.serving.status()["loaded"][0]["fault"] == "no room on the GPU"
        at_once = await refusal(bench.serving.classify(bench.clip()))
        assert at_once.slug == "engine-unavailable"
        await bench.ready()  # after it has cooled down
        await bench.serving.classify(bench.clip())


async def test_engines_that_hang_are_given_up_and_started_again(open_bench: Any) -> None:
    async with open_bench(request_timeout_s=0.5, drain_timeout_s=1.0) as bench:
        await bench.ready()
        problem = await refusal(bench.serving.classify(bench.clip("slow: 9")))
        assert (problem.status, problem.slug) == (503, "engine-unavailable")
        assert "request_timeout_s" in problem.detail
        await bench.ready()
        assert len(bench.backend.opened) == 2
        await bench.serving.classify(bench.clip())


async def test_a_slow_clip_beside_others_that_are_answered_restarts_nothing(
    open_bench: Any,
) -> None:
    async with open_bench(request_timeout_s=2.0, drain_timeout_s=2.0) as bench:
        await bench.ready()
        slow = asyncio.create_task(bench.serving.classify(bench.clip("slow: 9")))
        while not slow.done():
            await bench.serving.classify(bench.clip())
            await asyncio.sleep(0.01)
        assert isinstance(slow.exception(), Problem)
        assert len(bench.backend.opened) == 1


# --- versions


async def test_another_version_is_not_loaded_beside_the_champion_where_one_may_be(
    open_bench: Any,
) -> None:
    async with open_bench(max_loaded=1) as bench:
        problem = await refusal(bench.serving.classify(bench.clip(), classifier="2"))
        assert (problem.status, problem.slug) == (409, "not-loaded")
        assert problem.extra["loaded"] == [1]


async def test_another_version_is_loaded_when_first_asked_for_and_the_oldest_goes(
    open_bench: Any,
) -> None:
    async with open_bench(max_loaded=2) as bench:
        for version, name in ((2, "second"), (3, "third"), (1, "first"), (3, "third")):
            answered = await bench.serving.classify(bench.clip(), classifier=str(version))
            assert namer(answered) == name
        assert [one.description.name for one in bench.backend.opened] == [
            "first",
            "second",
            "third",
        ]
        assert bench.backend.opened[1].is_ended, "second went, the champion never does"
        assert bench.backend.most_open == 2


async def test_a_version_that_does_not_start_is_a_problem_and_the_champion_answers(
    open_bench: Any,
) -> None:
    async with open_bench(max_loaded=2) as bench:
        await bench.ready()
        bench.backend.faults = [GenerationError("no room")]
        problem = await refusal(bench.serving.classify(bench.clip(), classifier="2"))
        assert (problem.status, problem.slug) == (503, "does-not-start")
        assert namer(await bench.serving.classify(bench.clip())) == "first"
        assert namer(await bench.serving.classify(bench.clip(), classifier="2")) == "second"


@pytest.mark.parametrize("max_loaded", [1, 2, 3])
async def test_no_request_fails_or_mixes_versions_while_champions_change(
    open_bench: Any, max_loaded: int
) -> None:
    backend = ScriptedBackend(delay_s=0.002, open_s=0.01)
    async with open_bench(backend, max_loaded=max_loaded, max_in_flight=4) as bench:
        await bench.ready()
        going, answers = True, []

        async def client(number: int) -> None:
            clip = bench.clip(f"clip {number}", f"{number}")
            while going:
                answers.append(
                    await bench.serving.classify(clip, view="blank", caller=f"{number % 3}")
                )

        clients = [asyncio.create_task(client(number)) for number in range(16)]
        names = {1: "first", 2: "second", 3: "third"}
        for version in (2, 3, 1, 3, 2):
            seen = len(answers)
            await bench.until(lambda seen=seen: len(answers) > seen + 5)
            promotion = await bench.serving.promote(version, by="test")
            assert promotion.champion == version
            after = await bench.serving.classify(bench.clip())
            assert after.classifier.version == version
        rolled = await bench.serving.roll_back(by="test")
        assert rolled.champion == 3
        going = False
        await asyncio.gather(*clients)
        assert {answer.classifier.version for answer in answers} == {1, 2, 3}
        for answer in answers:
            assert isinstance(answer.control, Evidence)
            name = names[answer.classifier.version]
            assert answer.evidence.trace.startswith(f"<think>{name} ")
            assert answer.control.trace.startswith(f"<think>{name} ")
        assert bench.backend.most_open <= max_loaded


@pytest.mark.parametrize("max_loaded", [1, 2])
async def test_a_version_that_does_not_start_is_not_promoted_and_the_old_one_answers(
    open_bench: Any, max_loaded: int
) -> None:
    async with open_bench(max_loaded=max_loaded) as bench:
        await bench.ready()
        bench.backend.faults = [GenerationError("no room")]
        meanwhile = asyncio.create_task(bench.serving.classify(bench.clip("slow: 0.02")))
        await bench.asked(1)
        problem = await refusal(bench.serving.promote(2, by="test"))
        assert problem.slug == "does-not-start"
        assert bench.registry.aliases()["champion"] == 1
        assert namer(await meanwhile) == "first"
        assert namer(await bench.serving.classify(bench.clip())) == "first"


async def test_a_version_that_is_being_promoted_makes_no_room_for_another(open_bench: Any) -> None:
    async with open_bench(ScriptedBackend(open_s=0.02), max_loaded=2) as bench:
        await bench.ready()
        promotion = asyncio.create_task(bench.serving.promote(2, by="test"))
        await bench.until(lambda: bench.backend.num_starts == 2)
        other = asyncio.create_task(refusal(bench.serving.classify(bench.clip(), classifier="3")))
        await promotion
        async with asyncio.timeout(5):
            assert namer(await bench.serving.classify(bench.clip())) == "second"
        assert (await other).slug == "not-loaded"
        assert namer(await bench.serving.classify(bench.clip(), classifier="3")) == "third"


async def test_a_promotion_against_another_champion_loads_nothing(open_bench: Any) -> None:
    async with open_bench(max_loaded=2) as bench:
        await bench.ready()
        problem = await refusal(bench.serving.promote(2, by="test", expected_champion=3))
        assert problem.status == 409
        assert [one.description.name for one in bench.backend.opened] == ["first"]


# --- shift


async def feed_of(bench: Any, ref: str = "champion") -> Any:
    _, feed = await bench.serving.shift_of(ref)
    return feed


async def test_the_monitor_is_fed_and_survives_a_restart(open_bench: Any) -> None:
    async with open_bench() as bench:
        for number in range(5):
            await bench.serving.classify(bench.clip(f"clip {number}"), view="blank")
        await bench.serving.classify(bench.clip("unparsed:"))
        await bench.serving.classify(bench.clip("clip 1"), watched=False)
        state = await (await feed_of(bench)).state()
        assert state["num_served"] == 6, "views and replays are no served traces"
    async with open_bench() as bench:
        state = await (await feed_of(bench, "1")).state()
        assert state["num_served"] == 6
        state = await (await feed_of(bench, "2")).state()
        assert state["num_served"] == 0


async def test_a_shift_alarms_until_it_is_acknowledged(open_bench: Any) -> None:
    async with open_bench() as bench:
        feed = await feed_of(bench)
        problem = await refusal(feed.acknowledge())
        assert (problem.status, problem.slug) == (409, "no-alarm")
        for number in range(60):
            await bench.serving.classify(bench.clip(f"unparsed: {number}"))
        state = await feed.state()
        assert "parsed" in state["alarm"]
        assert (await bench.serving.classify(bench.clip())).alarm == state["alarm"]
    async with open_bench() as bench:  # it stands after a restart
        assert (await bench.serving.classify(bench.clip())).alarm == state["alarm"]
        feed = await feed_of(bench)
        assert (await feed.acknowledge())["alarm"] == state["alarm"]
        assert (await bench.serving.classify(bench.clip())).alarm is None


async def test_failures_are_no_served_traces(open_bench: Any) -> None:
    async with open_bench() as bench:
        await refusal(bench.serving.classify(bench.clip("fail: damaged")))
        answered = await bench.serving.classify(bench.clip())
        assert not isinstance(answered.evidence, Failure)
        state = await (await feed_of(bench)).state()
        assert state["num_served"] == 1
