"""The whole pool around a scripted fleet, on virtual time."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from cluster.config.fleet import FleetHealthConfig
from cluster.pool.dispatch import NoWorkers
from cluster.pool.worker_health import Cause, WorkerLost
from tests.cluster.pool.scripted_fleet import Pool, ScriptedFleet, settings
from tests.cluster.pool.virtual_time import virtually
from wire.errors import DeadlineExceeded, GenerationError


def elastic(**changes: Any) -> Any:
    """Settings of a pool of 1 to 8 workers that starts with 2."""
    fields = {"num_workers": 2, "min_workers": 1, "max_workers": 8, "default_workers": 8}
    return settings(2, **{**fields, "start_with": 1, **changes})


def health(**changes: float) -> FleetHealthConfig:
    return FleetHealthConfig.model_validate(changes)


# deaths


@virtually
async def test_a_worker_killed_while_idle_is_dead_within_a_probes_interval_and_serves_again():
    async with Pool(ScriptedFleet(), settings(2)) as pool:
        await pool.update(1)
        pool.fleet.kill("rollout-1")
        killed = asyncio.get_running_loop().time()
        await asyncio.sleep(40)
        states = pool.events.states("rollout-1")
        assert states[-4:] == ["dead", "restarting", "stale", "healthy"]
        dead = next(e for e in pool.events.of("worker_state") if e.fields["state"] == "dead")
        assert dead.time - killed < 6.5, "no worker that is gone counts as healthy for long"
        assert dead.fields["cause"] == "engine_died"
        answers = await asyncio.gather(*[pool.ask() for _ in range(6)])
        assert set(answers) == {"rollout-0 0.1", "rollout-1 0.1"}


@virtually
async def test_requests_of_a_worker_that_dies_are_answered_by_others():
    async with Pool(ScriptedFleet(), settings(2)) as pool:
        asked = [asyncio.create_task(pool.ask(f"clip {i}")) for i in range(6)]
        await asyncio.sleep(0.5)
        pool.fleet.kill("rollout-0", Cause.ACTOR_DIED)
        assert set(await asyncio.gather(*asked)) == {"rollout-1 0.0"}
        moved = [event.subject for event in pool.events.of("request_moved")]
        assert sorted(moved) == ["clip 0", "clip 2", "clip 4"]


@virtually
async def test_an_engine_is_ended_whole_before_its_worker_starts_anew():
    """ScriptedFleet.start refuses a worker whose engine is still there."""
    async with Pool(ScriptedFleet(room=1), settings(1)) as pool:
        pool.fleet.kill("rollout-0")
        await asyncio.sleep(40)
        assert pool.state("rollout-0") == "healthy"
        assert pool.fleet.calls["stop", "rollout-0"] == 1
        assert pool.fleet.free == 0


@virtually
async def test_a_restarted_worker_that_can_only_get_weights_by_an_update_serves_after_the_next():
    async with Pool(ScriptedFleet(), settings(2)) as pool:
        pool.fleet.newest = None
        pool.fleet.kill("rollout-1")
        await asyncio.sleep(60)
        assert pool.state("rollout-1") == "stale"
        assert pool.fleet.calls["catch_up", "rollout-1"] <= 2, "asked once at the start, once now"
        assert "rollout-1" in pool.members.updatable
        await pool.update(1)
        assert pool.state("rollout-1") == "healthy"
        assert "rollout-1 0.1" in await asyncio.gather(*[pool.ask() for _ in range(4)])


# engines that hang, slow networks


@virtually
async def test_a_hung_engine_is_suspected_then_dead_and_its_requests_are_answered_by_others():
    async with Pool(ScriptedFleet(), settings(2)) as pool:
        pool.fleet.engines["rollout-0"].hangs = True
        asked = [asyncio.create_task(pool.ask(f"clip {i}")) for i in range(4)]
        await asyncio.sleep(37)
        assert pool.state("rollout-0") == "suspect"
        assert await pool.ask("new") == "rollout-1 0.0"
        assert set(await asyncio.gather(*asked)) == {"rollout-1 0.0"}
        assert asyncio.get_running_loop().time() < 10 + 5 + 3 * 31 + 5
        await asyncio.sleep(20)
        assert pool.state("rollout-0") == "healthy"
        states = pool.events.states("rollout-0")
        assert states[-5:] == ["suspect", "dead", "restarting", "stale", "healthy"]


@virtually
async def test_a_network_that_is_gone_for_a_while_costs_no_restart():
    async with Pool(ScriptedFleet(), settings(2, health=health(probe_timeout_s=2))) as pool:
        pool.fleet.engines["rollout-0"].hangs = True
        await asyncio.sleep(6.5)
        pool.fleet.engines["rollout-0"].hangs = False
        await asyncio.sleep(10)
        assert pool.events.states("rollout-0")[-2:] == ["suspect", "healthy"]
        assert pool.members["rollout-0"].restarts == 0


@virtually
async def test_an_engine_that_answers_probes_and_fails_requests_is_restarted():
    """Health stays green while each request fails: seen for hours at others."""
    async with Pool(ScriptedFleet(), settings(2)) as pool:
        pool.fleet.engines["rollout-0"].fails = True
        answers = await asyncio.gather(*[pool.ask(f"clip {i}") for i in range(60)])
        assert answers[:40] == ["rollout-1 0.0"] * 40
        states = pool.events.states("rollout-0")
        assert states[3:9] == ["suspect", "healthy", "suspect", "healthy", "dead", "restarting"]
        assert len(pool.events.of("request_moved")) == 3 * 4, "its slots, three times"


@virtually
async def test_an_engine_that_answers_requests_is_not_probed_and_an_idle_one_is():
    async with Pool(ScriptedFleet(), settings(1)) as pool:
        for index in range(30):
            await pool.ask(f"clip {index}")
        assert pool.fleet.calls["probe", "rollout-0"] == 0
        await asyncio.sleep(30)
        assert pool.fleet.calls["probe", "rollout-0"] >= 4


@virtually
async def test_no_probe_is_counted_that_an_update_overtakes():
    async with Pool(ScriptedFleet(), settings(1, health=health(probe_timeout_s=2))) as pool:
        await asyncio.sleep(4.9)
        pool.fleet.engines["rollout-0"].hangs = True  # paused for the update
        await asyncio.sleep(0.5)
        assert pool.fleet.calls["probe", "rollout-0"] == 1, "under way"
        await pool.update(1, seconds=20)
        pool.fleet.engines["rollout-0"].hangs = False
        assert pool.fleet.calls["probe", "rollout-0"] == 1, "none during the update"
        await asyncio.sleep(10)
        assert "suspect" not in pool.events.states("rollout-0")


@virtually
async def test_a_worker_that_hangs_while_it_gets_weights_is_given_up_at_the_deadline():
    options = settings(2, update_timeout_s=20, health=health(unhealthy_threshold=2))
    async with Pool(ScriptedFleet(), options) as pool:
        await pool.update(1)
        pool.fleet.kill("rollout-1")
        await asyncio.sleep(7)
        pool.fleet.catch_up_s = 1e9
        await asyncio.sleep(60)
        assert await pool.ask() == "rollout-0 0.1", "the others go on"
        pool.fleet.catch_up_s = 2
        await asyncio.sleep(60)
        assert pool.state("rollout-1") == "healthy"
        causes = [e.fields["cause"] for e in pool.events.of("worker_state")]
        assert "update_failed" in causes or "request_failed" in causes


@virtually
async def test_a_probe_that_fails_at_once_is_not_asked_again_at_once():
    async with Pool(ScriptedFleet(), settings(1)) as pool:

        async def refused(name: str) -> None:
            pool.fleet.calls["refused"] += 1
            raise GenerationError("the connection is refused")

        answered, pool.fleet.probe = pool.fleet.probe, refused  # type: ignore[method-assign]
        await asyncio.sleep(12)
        assert pool.fleet.calls["refused"] == 2
        assert pool.state("rollout-0") == "suspect"
        pool.fleet.probe = answered  # type: ignore[method-assign]
        await asyncio.sleep(6)
        assert pool.state("rollout-0") == "healthy"


@virtually
async def test_engines_that_sleep_are_not_probed_again_and_again():
    async with Pool(ScriptedFleet(), settings(1)) as pool:

        async def asleep(name: str) -> None:
            pool.fleet.calls["asleep"] += 1
            raise GenerationError("the engine sleeps until it gets new weights")

        pool.fleet.probe = asleep  # type: ignore[method-assign]
        pool.members.suspend_all()
        await asyncio.sleep(100)
        assert pool.fleet.calls["asleep"] <= 20
        assert pool.state("rollout-0") == "stale", "that is no fault of its"


@virtually
async def test_an_engine_that_dies_asleep_is_noticed():
    async with Pool(ScriptedFleet(), settings(2)) as pool:
        pool.members.suspend_all()
        pool.fleet.kill("rollout-1")
        await asyncio.sleep(7)
        assert "dead" in pool.events.states("rollout-1")


@virtually
async def test_nobody_starts_while_the_others_sleep_since_the_learner_has_the_memory():
    async with Pool(ScriptedFleet(), elastic(default_workers=2)) as pool:
        pool.members.suspend_all()
        pool.fleet.kill("rollout-1")
        starts = pool.fleet.calls["start", "rollout-1"]
        await asyncio.sleep(100)
        assert pool.state("rollout-1") == "dead"
        pool.asked = 3
        await asyncio.sleep(100)
        assert pool.fleet.calls["start", "rollout-1"] == starts
        assert len(pool.members) == 2
        await pool.update(1)
        await asyncio.sleep(100)
        assert [pool.state(f"rollout-{k}") for k in range(3)] == ["healthy"] * 3


@virtually
async def test_an_engine_that_hangs_is_found_dead_during_a_long_update_and_is_no_part_of_it():
    async with Pool(ScriptedFleet(), settings(2)) as pool:
        pool.fleet.engines["rollout-0"].hangs = True
        await asyncio.sleep(37)
        assert pool.state("rollout-0") == "suspect"
        assert pool.members.updatable == ["rollout-1"]
        await pool.update(1, seconds=200)
        assert "dead" in pool.events.states("rollout-0")
        await asyncio.sleep(20)
        assert await asyncio.gather(*[pool.ask() for _ in range(2)]) == [
            "rollout-0 0.1",
            "rollout-1 0.1",
        ]


# budgets


@virtually
async def test_a_worker_that_never_starts_is_retired_and_the_others_go_on():
    options = settings(2, health=health(max_restart_attempts=3))
    async with Pool(ScriptedFleet(), options) as pool:
        pool.fleet.start_fails = True
        pool.fleet.kill("rollout-1")
        await asyncio.sleep(300)
        assert "rollout-1" not in pool.members
        assert pool.fleet.calls["start", "rollout-1"] == 4, "once, and three restarts"
        assert [e.subject for e in pool.events.of("worker_left")] == ["rollout-1"]
        assert len(pool.members) == 1, "no other takes its place by itself"
        assert await pool.ask() == "rollout-0 0.0"
        pool.fleet.start_fails, pool.asked = False, 2
        await asyncio.sleep(30)
        assert pool.state("rollout-2") == "healthy", "the user asked for it"


@virtually
async def test_restarts_wait_longer_each_time():
    options = settings(2, health=health(backoff_base_s=8, max_restart_attempts=4))
    async with Pool(ScriptedFleet(), options) as pool:
        pool.fleet.start_fails = True
        pool.fleet.kill("rollout-1")
        await asyncio.sleep(300)
        starts = [
            event.time
            for event in pool.events.of("worker_state")
            if event.fields["state"] == "restarting"
        ]
        # each start takes 10 s, and a look comes each second
        waits = [later - earlier - 10 for earlier, later in pairwise(starts)]
        assert waits == [pytest.approx(wait + 0.6, abs=0.6) for wait in (8, 16, 30)]


@virtually
async def test_when_all_are_given_up_requests_end_at_once_by_an_error_that_says_why():
    options = settings(1, health=health(max_restart_attempts=0))
    async with Pool(ScriptedFleet(), options) as pool:
        task = asyncio.create_task(pool.ask())
        await asyncio.sleep(0.5)
        pool.fleet.kill("rollout-0", Cause.OUT_OF_MEMORY)
        with pytest.raises(NoWorkers, match=r"rollout-0 retired \(budget_spent\).*--resume"):
            await task
        assert asyncio.get_running_loop().time() < 20
        assert pool.running is not None
        with pytest.raises(NoWorkers):
            await pool.running


@virtually
async def test_with_too_few_able_workers_for_too_long_the_run_ends_by_one_error():
    options = elastic(min_workers=2, start_with=2, max_workers=2, start_timeout_s=100)
    async with Pool(ScriptedFleet(), options) as pool:
        pool.fleet.free = -1  # the node's room goes with it
        pool.fleet.kill("rollout-1", Cause.NODE_DIED)
        await asyncio.sleep(90)
        assert await pool.ask() == "rollout-0 0.0", "it goes on meanwhile"
        await asyncio.sleep(30)
        with pytest.raises(NoWorkers, match=r"1 rollout workers are able.*node_died"):
            await pool.ask()


@virtually
async def test_a_long_sleep_of_the_engines_is_no_lack_of_workers():
    async with Pool(ScriptedFleet(), settings(2, start_timeout_s=50)) as pool:
        pool.members.suspend_all()
        before = pool.fleet.calls["catch_up", "rollout-0"]
        await asyncio.sleep(500)
        assert pool.fleet.calls["catch_up", "rollout-0"] == before, "they sleep until the update"
        await pool.update(1)
        assert await pool.ask() == "rollout-0 0.1"


# the start


@virtually
async def test_a_worker_that_cannot_start_ends_the_start_by_its_error():
    fleet = ScriptedFleet()
    fleet.start_fails = True
    pool = Pool(fleet, settings(2))
    with pytest.raises(WorkerLost, match="has no model"):
        await pool.supervisor.start()
    assert asyncio.get_running_loop().time() < 12
    await pool.supervisor.stop()


@virtually
async def test_a_worker_that_does_not_start_in_time_is_named():
    fleet = ScriptedFleet()
    fleet.start_s = 1e6
    pool = Pool(fleet, settings(1, start_timeout_s=60))
    with pytest.raises(DeadlineExceeded, match="60 s for rollout-0"):
        await pool.supervisor.start()
    await pool.supervisor.stop()


@virtually
async def test_an_elastic_run_starts_with_its_least_number_and_grows_with_the_room():
    fleet = ScriptedFleet(room=1)
    async with Pool(fleet, elastic()) as pool:
        assert list(pool.members.serving) == ["rollout-0"]
        assert fleet.requested[0] == 8, "an autoscaler is asked for all"
        await asyncio.sleep(30)
        fleet.free = 3
        await asyncio.sleep(30)
        assert len(pool.members.serving) == 4
        fleet.free = 100
        await asyncio.sleep(30)
        assert len(pool.members.serving) == 8, "max_workers"


# joining and leaving


@virtually
async def test_a_joiner_gets_the_newest_weights_while_the_others_answer():
    fleet = ScriptedFleet(room=2)
    async with Pool(fleet, elastic()) as pool:
        await pool.update(1)
        fleet.catch_up_s, fleet.free = 60, 1
        await asyncio.sleep(30)
        assert pool.state("rollout-2") == "stale"
        answers = await asyncio.gather(*[pool.ask(f"clip {i}") for i in range(8)])
        assert len(answers) == 8
        assert asyncio.get_running_loop().time() < 60, "nobody waited for it"
        assert pool.members.updatable == ["rollout-0", "rollout-1"]
        await pool.update(2)
        await asyncio.sleep(125)
        assert pool.state("rollout-2") == "healthy", "it caught up again"
        assert str(pool.members["rollout-2"].version) == "0.2"


@virtually
async def test_a_joiner_that_updates_overtake_twice_gets_its_weights_by_the_next():
    fleet = ScriptedFleet(room=1)
    async with Pool(fleet, elastic(num_workers=1, max_workers=2)) as pool:
        fleet.catch_up_s, fleet.free = 15, 1
        for step in range(1, 9):
            await pool.update(step)
            await asyncio.sleep(9)
        assert pool.state("rollout-1") == "healthy"
        assert fleet.calls["catch_up", "rollout-1"] <= 2


@virtually
async def test_scaling_down_lets_workers_finish_and_scaling_up_adds_new_ones():
    fleet = ScriptedFleet()
    async with Pool(fleet, elastic(max_workers=4, default_workers=4)) as pool:
        await asyncio.sleep(30)
        assert len(pool.members.serving) == 4
        asked = [asyncio.create_task(pool.ask(f"clip {i}")) for i in range(16)]
        pool.asked = 2
        await asyncio.gather(*asked)
        await asyncio.sleep(5)
        assert [worker.name for worker in pool.members.workers] == ["rollout-0", "rollout-1"]
        assert not pool.events.of("request_moved"), "what was in work was finished there"
        left = [event.subject for event in pool.events.of("worker_left")]
        assert sorted(left) == ["rollout-2", "rollout-3"], "the youngest"
        pool.asked = 100
        await asyncio.sleep(30)
        assert len(pool.members.serving) == 4, "max_workers"
        assert "rollout-5" in pool.members, "a name comes once in a run"
        scaled = [event.fields["workers"] for event in pool.events.of("scaled")]
        assert scaled == [2, 4]


@virtually
async def test_a_leaver_hands_back_what_it_does_not_finish_in_time():
    options = elastic(max_workers=2, default_workers=2, health=health(drain_timeout_s=20))
    async with Pool(ScriptedFleet(), options) as pool:
        pool.fleet.engines["rollout-1"].hangs = True
        asked = [asyncio.create_task(pool.ask(f"clip {i}")) for i in range(4)]
        pool.asked = 1
        assert set(await asyncio.gather(*asked)) == {"rollout-0 0.0"}
        await asyncio.sleep(5)
        assert len(pool.members) == 1
        assert asyncio.get_running_loop().time() < 45


@virtually
async def test_nobody_is_ended_in_the_middle_of_an_update():
    async with Pool(ScriptedFleet(), elastic(max_workers=2, default_workers=2)) as pool:
        pool.asked = 1
        await pool.update(1, seconds=50)
        assert "rollout-1" in pool.fleet.engines, "a collective transfer would wait for it"
        await asyncio.sleep(5)
        assert "rollout-1" not in pool.fleet.engines


@virtually
async def test_a_worker_that_is_still_starting_leaves_before_one_that_serves():
    fleet = ScriptedFleet(room=2)
    async with Pool(fleet, elastic(max_workers=3, default_workers=3)) as pool:
        fleet.start_s, fleet.free = 500, 1
        await asyncio.sleep(10)
        assert pool.state("rollout-2") == "restarting"
        pool.asked = 2
        await asyncio.sleep(5)
        assert list(pool.members.serving) == ["rollout-0", "rollout-1"]
        assert len(pool.members) == 2


@virtually
async def test_of_twenty_workers_fifteen_go_in_the_morning_and_come_back_at_night():
    fleet = ScriptedFleet(room=20)
    options = settings(20, min_workers=1, start_with=1, max_workers=20)
    async with Pool(fleet, options) as pool:
        await asyncio.sleep(20)
        assert len(pool.members.serving) == 20
        fleet.free = -15
        asked = [asyncio.create_task(pool.ask(f"clip {i}")) for i in range(60)]
        await asyncio.sleep(0.5)
        for index in range(15):
            fleet.kill(f"rollout-{index}", Cause.NODE_DIED)
        answers = await asyncio.gather(*asked)
        assert {answer.split()[0] for answer in answers} <= {f"rollout-{i}" for i in range(15, 20)}
        await asyncio.sleep(3600)
        assert len(pool.members.serving) == 5
        await pool.update(1)
        fleet.free = 15
        await asyncio.sleep(60)
        assert len(pool.members.serving) == 20
        assert {str(worker.version) for worker in pool.members.workers} == {"0.1"}


# what others see


@virtually
async def test_the_fleet_is_shown_within_a_second_of_each_change_and_now_and_then():
    async with Pool(ScriptedFleet(), settings(2)) as pool:
        await asyncio.sleep(60)
        assert 5 <= len(pool.shown) <= 9
        pool.fleet.kill("rollout-1")
        await asyncio.sleep(30)
        dead = next(e for e in pool.events.of("worker_state") if e.fields["state"] == "dead")
        assert any(dead.time <= shown <= dead.time + 1.2 for shown in pool.shown)
        assert min(later - earlier for earlier, later in pairwise(pool.shown)) >= 1


@virtually
async def test_the_events_of_a_death_and_its_heal_are_a_witness():
    async with Pool(ScriptedFleet(), settings(2)) as pool:
        await pool.update(1)
        before = len(pool.events.all)
        pool.fleet.kill("rollout-1", Cause.NODE_DIED)
        await asyncio.sleep(60)
        noted = [
            (e.kind, e.fields["state"], e.fields["cause"], e.fields["version"])
            for e in pool.events.all[before:]
        ]
        assert noted == [
            ("worker_state", "dead", "node_died", None),
            ("worker_state", "restarting", "restart", None),
            ("worker_state", "stale", "started", None),
            ("worker_state", "healthy", "weights_proven", "0.1"),
        ]
        await pool.update(2)
        assert len(pool.events.all) == before + 4, "an update that goes well is routine"


# faults of this program


@virtually
async def test_an_error_that_is_no_workers_ends_the_run_and_not_one_request_waits_for_ever():
    async with Pool(ScriptedFleet(), settings(1)) as pool:

        async def broken(name: str) -> None:
            raise KeyError("a mistake of ours")

        pool.fleet.probe = broken  # type: ignore[method-assign]
        await asyncio.sleep(10)
        assert pool.running is not None
        with pytest.raises(KeyError):
            await pool.running
        with pytest.raises(NoWorkers, match="a mistake of ours"):
            await pool.ask()
