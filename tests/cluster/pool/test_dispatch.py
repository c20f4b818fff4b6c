import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config.fleet import RolloutFailureConfig
from cluster.pool.clock import LoopClock
from cluster.pool.dispatch import Dispatcher, NoWorkers, RequestFailed, choose_worker
from cluster.pool.membership import Membership
from cluster.pool.worker_health import Cause, HealthState, WorkerLost
from tests.cluster.pool import scripted_fleet
from tests.cluster.pool.scripted_fleet import NotedEvents, version
from tests.cluster.pool.test_membership import PLACE
from tests.cluster.pool.virtual_time import run_virtually, virtually
from wire.errors import DeadlineExceeded, GenerationError

NAMES = ["r0", "r1", "r2"]
BUSY = {"r0": 3, "r1": 1, "r2": 2}


def test_the_least_busy_worker_in_service_answers():
    assert choose_worker(None, NAMES, {"r0", "r1", "r2"}, BUSY) == "r1"
    assert choose_worker(None, NAMES, {"r0", "r2"}, BUSY) == "r2"


def test_a_worker_near_the_clip_is_preferred_but_for_one_that_is_clearly_less_busy():
    def chosen(near: set[str], **busy: int) -> str:
        return choose_worker(None, NAMES, {"r0", "r1", "r2"}, busy, near)

    assert chosen({"r2"}, r0=1, r1=1, r2=1) == "r2"
    assert chosen({"r2"}, r0=0, r1=1, r2=1) == "r2", "one request more"
    assert chosen({"r2"}, r0=0, r1=1, r2=2) == "r0", "two more: an idle one is not left waiting"
    assert chosen({"r1", "r2"}, r0=3, r1=4, r2=3) == "r2", "of the near ones the less busy"
    assert chosen(set(), r0=3, r1=2, r2=3) == "r1"
    assert choose_worker(None, NAMES, {"r0"}, BUSY, {"r1"}) == "r0", "r1 is out of service"


def test_in_a_deterministic_run_workers_take_turns_however_busy():
    able = set(NAMES)
    assert [choose_worker(n, NAMES, able, BUSY) for n in range(4)] == ["r0", "r1", "r2", "r0"]
    assert choose_worker(1, NAMES, {"r0", "r2"}, BUSY) == "r2", "another one for it"


class Desk:
    """A dispatcher, and workers that answer when the test says so."""

    def __init__(self, *names: str, slots: int = 2, **failure: Any) -> None:
        pool = scripted_fleet.settings(
            max_concurrency=slots, failure=RolloutFailureConfig.model_validate(failure)
        )
        clock, self.events = LoopClock(), NotedEvents()
        self.members = Membership(pool.health, clock)
        self.members.trust(version(0))
        for name in names:
            self.serve(name)
        self.dispatcher = Dispatcher(self.members, pool, clock, self.events)
        self.asked: list[tuple[str, str]] = []
        """What was asked of whom, in order."""
        self.cancelled: list[tuple[str, str]] = []
        self._answers: dict[tuple[str, str], asyncio.Future[str]] = {}

    def serve(self, name: str) -> None:
        """Let a worker join and serve."""
        self.members.join(name)
        self.members.started(name, PLACE)
        self.members.proven(name, version(0))

    def ask(self, what: str, **options: Any) -> asyncio.Task[str]:
        async def call(name: str) -> str:
            self.asked.append((what, name))
            answer = self._answers[what, name] = asyncio.get_running_loop().create_future()
            try:
                return await answer
            except asyncio.CancelledError:
                self.cancelled.append((what, name))
                raise

        return asyncio.create_task(self.dispatcher.ask(call, what, **options))

    def answer(self, what: str, name: str, text: str = "yes") -> None:
        self._answers[what, name].set_result(text)

    def fail(self, what: str, name: str, error: Exception) -> None:
        self._answers[what, name].set_exception(error)


async def settle() -> None:
    """Let everything go on that can without a timer."""
    for _ in range(20):
        await asyncio.sleep(0)


@virtually
async def test_as_many_requests_as_slots_are_in_work_and_the_others_wait_in_their_order():
    desk = Desk("r0", "r1", slots=2)
    tasks = [desk.ask(f"clip {i}") for i in range(7)]
    await settle()
    assert [name for _, name in desk.asked] == ["r0", "r1", "r0", "r1"]
    assert desk.dispatcher.num_waiting == 3
    desk.answer("clip 1", "r1")
    await settle()
    assert desk.asked[4:] == [("clip 4", "r1")]
    desk.serve("r2")
    await settle()
    assert desk.asked[5:] == [("clip 5", "r2"), ("clip 6", "r2")], "a joiner gets what waits"
    assert tasks[1].result() == "yes"


@virtually
async def test_requests_of_a_dead_worker_go_first_and_cost_a_try():
    desk = Desk("r0", "r1", slots=1, max_infra_attempts=2, backoff_base_s=5)
    dies, other, waits = desk.ask("dies"), desk.ask("other"), desk.ask("waits")
    await settle()
    desk.members["r0"].died(Cause.NODE_DIED)
    await settle()
    assert desk.cancelled == [("dies", "r0")]
    await asyncio.sleep(6)
    desk.answer("other", "r1")
    await settle()
    assert desk.asked[-1] == ("dies", "r1"), "before the one that has waited"
    desk.members["r1"].died(Cause.ACTOR_DIED)
    await settle()
    with pytest.raises(RequestFailed, match=r"dies: 2 tries failed, the last: r1 died") as raised:
        await dies
    assert raised.value.worker == "r1"
    assert await other == "yes"
    assert not waits.done()


@virtually
async def test_a_worker_that_leaves_costs_its_requests_no_try_and_no_wait():
    desk = Desk("r0", "r1", max_infra_attempts=1)
    task = desk.ask("clip")
    await settle()
    desk.members["r0"].retire(Cause.SCALED_DOWN)
    await settle()
    assert not desk.cancelled, "it may finish"
    desk.dispatcher.hand_back("r0", Cause.SCALED_DOWN)
    await settle()
    assert desk.asked == [("clip", "r0"), ("clip", "r1")]
    desk.answer("clip", "r1")
    assert await task == "yes"


@virtually
async def test_requests_of_an_engine_whose_update_failed_go_elsewhere_since_it_is_paused():
    desk = Desk("r0", "r1", max_infra_attempts=1)
    task = desk.ask("clip")
    await settle()
    desk.members.update_failed("r0")
    await settle()
    desk.answer("clip", "r1")
    assert await task == "yes"


@virtually
async def test_requests_in_work_stay_where_they_are_during_an_update():
    desk = Desk("r0")
    task = desk.ask("clip")
    await settle()
    with desk.members.updating(version(1)):
        late = desk.ask("late")
        await settle()
        assert desk.asked == [("clip", "r0")], "nobody serves"
        desk.answer("clip", "r0")
        assert await task == "yes"
        desk.members.proven("r0", version(1))
    await settle()
    desk.answer("late", "r0")
    assert await late == "yes"


@virtually
async def test_a_request_that_fails_is_tried_at_others_and_its_worker_gets_no_new_one():
    desk = Desk("r0", "r1", slots=4)
    task = desk.ask("clip")
    await settle()
    desk.fail("clip", "r0", DeadlineExceeded("waited 600 s"))
    await settle()
    assert desk.members["r0"].state is HealthState.SUSPECT
    more = [desk.ask(f"more {i}") for i in range(2)]
    await asyncio.sleep(1.5)
    assert [name for _, name in desk.asked[1:]] == ["r1"] * 3
    for what in ("clip", "more 0", "more 1"):
        desk.answer(what, "r1")
    assert await asyncio.gather(task, *more) == ["yes"] * 3


@virtually
async def test_a_worker_that_fails_at_once_is_no_black_hole():
    """The next request in line would meet it, the least busy of all, each time."""
    desk = Desk("bad", "good", slots=1)

    async def call(name: str) -> str:
        desk.asked.append(("", name))
        if name == "bad":
            raise WorkerLost("its tunnel is dead", Cause.ACTOR_DIED)
        await asyncio.sleep(1)
        return name

    asks = [desk.dispatcher.ask(call, f"clip {i}") for i in range(20)]
    assert await asyncio.gather(*asks) == ["good"] * 20
    assert Counter(name for _, name in desk.asked)["bad"] == 1


@virtually
async def test_a_request_that_fails_everywhere_harms_no_worker_for_good_and_ends():
    """Bad data is no bad fleet."""
    desk = Desk("r0", max_infra_attempts=5, backoff_base_s=0)

    async def refuse(name: str) -> str:
        desk.asked.append(("", name))
        raise GenerationError("the engine refused the request")

    task = asyncio.create_task(desk.dispatcher.ask(refuse, "bad clip"))
    for _ in range(5):
        await settle()
        desk.members["r0"].probe_answered()
    with pytest.raises(RequestFailed, match=r"5 tries failed.*refused"):
        await task
    assert len(desk.asked) == 5
    assert desk.members["r0"].failed_requests == 1, "one bad request counts once"
    assert desk.members["r0"].state is HealthState.HEALTHY


@virtually
async def test_an_answer_that_tells_of_a_failure_is_tried_again_and_the_last_one_returned():
    desk = Desk("r0", "r1", max_infra_attempts=2)

    async def call(name: str) -> str:
        return f"failure of {name}"

    def failure_of(answer: str) -> str | None:
        return answer if answer.startswith("failure") else None

    answer = await desk.dispatcher.ask(call, "clip", failure_of=failure_of)
    assert answer == "failure of r1"
    assert desk.dispatcher.num_failed == 1
    assert [w.state for w in desk.members.workers] == [HealthState.SUSPECT] * 2


@virtually
async def test_only_the_engines_answers_are_signs_of_its_life():
    desk = Desk("r0")
    await asyncio.sleep(10)
    prompt, trace = desk.ask("prompt", by_engine=False), desk.ask("trace")
    await settle()
    desk.answer("prompt", "r0")
    await prompt
    assert desk.members["r0"].last_heard == 0
    desk.answer("trace", "r0")
    await trace
    assert desk.members["r0"].last_heard == 10


@virtually
async def test_a_cancelled_request_gives_its_slot_back():
    desk = Desk("r0", slots=1)
    first, second, third = desk.ask("first"), desk.ask("second"), desk.ask("third")
    await settle()
    second.cancel()
    first.cancel()
    await settle()
    assert desk.asked == [("first", "r0"), ("third", "r0")]
    assert desk.cancelled == [("first", "r0")]
    desk.answer("third", "r0")
    assert await third == "yes"
    assert desk.dispatcher.busy("r0") == 0


@virtually
async def test_a_request_that_is_cancelled_as_it_gets_its_slot_gives_it_back():
    desk = Desk("r0", slots=1)
    first, second = desk.ask("first"), desk.ask("second")
    await settle()
    desk.answer("first", "r0")
    await asyncio.sleep(0)
    while desk.dispatcher.num_waiting:
        await asyncio.sleep(0)
    second.cancel()
    with suppress(asyncio.CancelledError):
        await second
    assert await first == "yes"
    assert desk.dispatcher.busy("r0") == 0


@virtually
async def test_when_no_worker_will_come_all_requests_end_by_the_error_that_says_so():
    desk = Desk()
    task = desk.ask("clip")
    await settle()
    desk.dispatcher.end("no worker is left")
    with pytest.raises(NoWorkers, match="no worker is left"):
        await task
    with pytest.raises(NoWorkers, match="no worker is left"):
        await desk.ask("late")


@virtually
async def test_a_leaver_is_waited_for_until_it_is_empty_and_busy_seconds_are_counted():
    desk = Desk("r0")
    task = desk.ask("clip")
    await asyncio.sleep(7)
    assert desk.dispatcher.busy_s("r0") == 7
    emptied = asyncio.create_task(desk.dispatcher.emptied("r0"))
    await settle()
    assert not emptied.done()
    desk.answer("clip", "r0")
    await asyncio.gather(task, emptied)
    await asyncio.sleep(5)
    assert desk.dispatcher.busy_s("r0") == 7
    await desk.dispatcher.emptied("r0")
    desk.dispatcher.forget("r0")
    assert desk.dispatcher.busy_s("r0") == 0


@virtually
async def test_turns_are_counted_over_the_members_that_stay():
    desk = Desk("r0", "r1", "r2")
    desk.members["r1"].retire(Cause.SCALED_DOWN)
    for turn in range(4):
        desk.ask(f"clip {turn}", turn=turn)
    await settle()
    assert [name for _, name in desk.asked] == ["r0", "r2", "r0", "r2"]


class Chaos:
    """Workers to whom anything happens while requests are in work."""

    def __init__(self) -> None:
        self.desk = Desk("r0", "r1", slots=2, max_infra_attempts=3)
        self.tasks: list[asyncio.Task[str]] = []
        self.held, self.failing = Counter[str](), set[str]()
        self.step = 0

    async def call(self, name: str) -> str:
        self.held[name] += 1
        assert self.held[name] <= 2, "never more than it has slots"
        try:
            await asyncio.sleep(1 + 0.1 * self.held[name])
            if name in self.failing:
                raise GenerationError(f"{name} fails")
            return name
        finally:
            self.held[name] -= 1

    def ask(self, number: int) -> None:
        for index in range(number):
            asked = self.desk.dispatcher.ask(self.call, f"clip {index}")
            self.tasks.append(asyncio.create_task(asked))

    async def happen(self, kind: str, which: int) -> None:
        members = self.desk.members
        worker = members.workers[which % len(members)]
        match kind:
            case "fail":
                self.failing ^= {worker.name}
            case "die":
                worker.died(Cause.ENGINE_DIED)
            case "pause":
                members.update_failed(worker.name)
            case "retire":
                worker.retire(Cause.SCALED_DOWN)
                self.desk.dispatcher.hand_back(worker.name, Cause.SCALED_DOWN)
            case "update":
                await self.update()
            case "probe":
                worker.probe_answered()
            case "cancel":
                self.tasks[which % len(self.tasks)].cancel()
            case "join":
                self.join()

    async def update(self) -> None:
        self.step += 1
        members = self.desk.members
        with members.updating(version(self.step)):
            await asyncio.sleep(0.5)
            for name in members.running:
                members.proven(name, version(self.step))

    def join(self) -> None:
        members = self.desk.members
        name = f"r{len(members)}"
        members.join(name)
        members.started(name, PLACE)
        members.proven(name, version(self.step))


KINDS = ["fail", "die", "pause", "retire", "update", "probe", "cancel", "join"]
FAULTS = st.tuples(st.sampled_from(KINDS), st.integers(0, 3), st.floats(0, 3))


@settings(max_examples=60, deadline=None)
@given(st.lists(FAULTS, max_size=30), st.integers(1, 12))
def test_whatever_happens_to_workers_every_request_ends(
    faults: list[tuple[str, int, float]], number: int
):
    async def main() -> None:
        chaos = Chaos()
        chaos.ask(number)
        for kind, which, wait in faults:
            await asyncio.sleep(wait)
            await chaos.happen(kind, which)
        chaos.failing.clear()
        chaos.join()
        dispatcher = chaos.desk.dispatcher
        for end in await asyncio.gather(*chaos.tasks, return_exceptions=True):
            assert isinstance(end, (str, RequestFailed, asyncio.CancelledError)), repr(end)
        assert not any(chaos.held.values())
        assert not any(dispatcher.busy(worker.name) for worker in chaos.desk.members.workers)
        assert dispatcher.num_waiting == 0

    run_virtually(main(), limit_s=1000)
