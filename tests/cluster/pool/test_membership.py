import asyncio
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cluster.config.fleet import FleetHealthConfig
from cluster.pool.membership import Membership
from cluster.pool.worker_health import CATCH_UPS, Cause, Change, HealthState, Place
from tests.cluster.pool.scripted_fleet import version
from wire.types import PolicyVersion

PLACE = Place(node="node-0", pid=7)
NAMES = ["r0", "r1", "r2"]


class StoppedClock:
    """Always the same moment."""

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def members(*names: str, step: int = 0) -> Membership:
    """Members that serve the version of a step."""
    made = Membership(FleetHealthConfig(), StoppedClock())
    made.trust(version(step))
    for name in names:
        made.join(name)
        made.started(name, PLACE)
        made.proven(name, version(step))
    return made


def test_nobody_serves_during_an_update_of_the_whole_model_before_it_has_the_weights():
    pool = members("r0", "r1")
    with pool.updating(version(1)):
        assert not pool.serving
        assert pool.num_able == 2, "an update is no fault"
        pool.proven("r0", version(1))
        assert list(pool.serving) == ["r0"], "it does not wait for the others"
    assert list(pool.serving) == ["r0"]
    assert pool["r1"].state is HealthState.STALE


def test_with_an_adapter_all_go_on_until_the_update_is_over():
    pool = members("r0", "r1")
    with pool.updating(version(1), others_serve=True):
        assert list(pool.serving) == ["r0", "r1"]
        pool.proven("r0", version(1))
    assert list(pool.serving) == ["r0"]


def test_weights_that_an_update_overtook_do_not_serve():
    pool = members("r0")
    pool.join("r1")
    pool.started("r1", PLACE)
    with pool.updating(version(1)):
        pool.proven("r0", version(1))
        pool.proven("r1", version(0))
        assert list(pool.serving) == ["r0"], "r1 caught up with what is old by now"
    pool.proven("r1", version(0))
    assert list(pool.serving) == ["r0"]
    pool.proven("r1", version(1))
    assert list(pool.serving) == ["r0", "r1"]


def test_an_update_is_sent_to_all_that_run_and_hold_nobody_up():
    pool = members("r0", "r1", "r2", "r3")
    pool["r1"].catches_up = True
    pool["r2"].died(Cause.ENGINE_DIED)
    pool["r3"].probe_failed()
    assert pool.updatable == ["r0"]
    assert pool.running == ["r0", "r1", "r3"]


def test_a_worker_that_failed_an_update_catches_up_by_itself_or_is_in_the_next_if_it_cannot():
    pool = members("r0", "r1")
    pool.update_failed("r0")
    assert pool.updatable == ["r1"], "it may hang for as long as a deadline lasts"
    pool["r0"].overtaken = CATCH_UPS
    assert pool.updatable == ["r0", "r1"]
    pool["r0"].overtaken = 0
    pool["r1"].died(Cause.ENGINE_DIED)
    assert pool.updatable == ["r0"], "better than none"


def test_an_update_that_raises_is_over_too():
    pool = members("r0")

    def fail() -> None:
        with pool.updating(version(1)):
            assert pool.is_updating
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not pool.is_updating
    asyncio.run(pool.between_updates())


def test_sleeping_engines_serve_after_the_next_update_only():
    pool = members("r0")
    pool.suspend_all()
    assert not pool.serving
    assert pool.num_able == 1
    with pool.updating(version(1)):
        pool.proven("r0", version(1))
    assert list(pool.serving) == ["r0"]


def test_the_epoch_counts_changes_of_the_engines_that_run_and_no_update():
    pool = members("r0", "r1")
    before = pool.epoch
    with pool.updating(version(1)):
        for name in pool.updatable:
            pool.proven(name, version(1))
    pool["r0"].probe_failed()
    pool["r0"].probe_answered()
    assert pool.epoch == before
    pool["r0"].died(Cause.NODE_DIED)
    assert pool.epoch == before + 1
    pool["r0"].restarting()
    pool.started("r0", PLACE)
    assert pool.epoch == before + 2, "the same names are another group"


def test_a_member_leaves_when_it_is_retired_and_reports_about_it_change_nothing_then():
    pool = members("r0", "r1")
    with pytest.raises(ValueError, match="only a retired worker leaves"):
        pool.leave("r0")
    pool["r0"].retire(Cause.SCALED_DOWN)
    assert [worker.name for worker in pool.staying] == ["r1"]
    pool.leave("r0")
    pool.proven("r0", version(0))
    pool.update_failed("r0")
    assert len(pool) == 1
    with pytest.raises(ValueError, match="a member already"):
        pool.join("r1")


class AnyEvents(RuleBasedStateMachine):
    """Any events of three workers and of updates, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = members()
        self.step, self.epoch = 0, 0
        self.update: Any = None
        self.others_serve = False
        self.engine: dict[str, PolicyVersion] = {}
        """Weights that each running engine was proven to have."""
        self.changes: list[Change] = []
        self.pool.listen(self.changes.append)

    def there(self, name: str) -> bool:
        return name in self.pool

    @rule(name=st.sampled_from(NAMES))
    def join(self, name: str) -> None:
        if not self.there(name):
            self.pool.join(name)

    @rule(name=st.sampled_from(NAMES))
    def start(self, name: str) -> None:
        if self.there(name):
            self.pool[name].restarting()
            if self.pool[name].state is HealthState.RESTARTING:
                self.engine.pop(name, None)
            self.pool.started(name, PLACE)

    @rule(name=st.sampled_from(NAMES), back=st.integers(0, 2))
    def proven(self, name: str, back: int) -> None:
        weights = version(max(0, self.step - back))
        if self.there(name) and self.pool[name].state.runs:
            self.engine[name] = weights
        self.pool.proven(name, weights)

    @rule(name=st.sampled_from(NAMES))
    def update_failed(self, name: str) -> None:
        self.pool.update_failed(name)

    @rule(name=st.sampled_from(NAMES), failed=st.booleans())
    def probe(self, name: str, failed: bool) -> None:
        if self.there(name):
            worker = self.pool[name]
            worker.probe_failed() if failed else worker.probe_answered()

    @rule(name=st.sampled_from(NAMES), failed=st.booleans())
    def request(self, name: str, failed: bool) -> None:
        if self.there(name):
            worker = self.pool[name]
            worker.request_failed() if failed else worker.request_answered()

    @rule(name=st.sampled_from(NAMES))
    def die(self, name: str) -> None:
        if self.there(name):
            self.pool[name].died(Cause.ENGINE_DIED)

    @rule(name=st.sampled_from(NAMES))
    def leave(self, name: str) -> None:
        if self.there(name):
            self.pool[name].retire(Cause.SCALED_DOWN)
            self.pool.leave(name)

    @rule(others_serve=st.booleans())
    def begin_update(self, others_serve: bool) -> None:
        if self.update is None:
            self.step += 1
            self.others_serve = others_serve
            self.update = self.pool.updating(version(self.step), others_serve=others_serve)
            self.update.__enter__()

    @rule()
    def end_update(self) -> None:
        if self.update is not None:
            self.update.__exit__(None, None, None)
            self.update = None

    @rule()
    def suspend(self) -> None:
        if self.update is None:
            self.pool.suspend_all()

    @invariant()
    def who_serves_is_who_is_healthy(self) -> None:
        healthy = {w.name for w in self.pool.workers if w.state is HealthState.HEALTHY}
        assert set(self.pool.serving) == healthy

    @invariant()
    def who_serves_has_the_newest_weights_or_the_last_before_while_an_adapter_is_sent(self) -> None:
        for name, worker in self.pool.serving.items():
            assert worker.version == self.engine[name]
            if worker.version != version(self.step):
                assert self.update is not None
                assert self.others_serve
                assert worker.version == version(self.step - 1)

    @invariant()
    def the_epoch_grows_with_each_change_of_the_engines_that_run(self) -> None:
        runs = [c.state.runs != (c.before is not None and c.before.runs) for c in self.changes]
        assert self.pool.epoch == sum(runs)
        assert self.pool.epoch >= self.epoch
        self.epoch = self.pool.epoch


TestAnyEvents = AnyEvents.TestCase
