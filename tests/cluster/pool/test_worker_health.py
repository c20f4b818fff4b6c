import pickle

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cluster.config.fleet import FleetHealthConfig
from cluster.pool.worker_health import (
    Cause,
    Change,
    HealthState,
    Place,
    WorkerHealth,
    WorkerLost,
    cause_of,
)
from tests.cluster.pool.scripted_fleet import version
from wire.errors import GenerationError, ParityError, WeightUpdateError, WorkerDied

PLACE = Place(node="node-0", pid=7)


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def worker(**limits: int) -> tuple[WorkerHealth, list[Change]]:
    changes: list[Change] = []
    health = WorkerHealth("r0", FleetHealthConfig(**limits), Time(), changes.append)
    return health, changes


def serving(**limits: int) -> tuple[WorkerHealth, list[Change]]:
    health, changes = worker(**limits)
    health.started(PLACE)
    health.proven(version(1), current=True)
    return health, changes


def test_a_started_engine_serves_only_after_its_weights_are_proven():
    health, _ = worker()
    assert health.state is HealthState.RESTARTING
    health.started(PLACE)
    health.probe_answered()
    health.request_answered()
    assert health.state is HealthState.STALE, "healthy is not serving"
    assert health.conditions == {"Alive": True, "WeightsCurrent": False, "Serving": False}
    health.proven(version(1), current=False)
    assert health.state is HealthState.STALE, "these weights are not the newest"
    health.proven(version(2), current=True)
    assert health.state is HealthState.HEALTHY


def test_a_restarted_engine_needs_proof_again():
    health, _ = serving()
    health.died(Cause.ENGINE_DIED)
    assert (health.version, health.place) == (None, None)
    health.restarting()
    health.started(PLACE)
    health.probe_answered()
    assert health.state is HealthState.STALE
    assert health.restarts == 1


def test_a_suspect_that_answers_a_probe_serves_again_only_with_weights_that_still_may():
    health, _ = serving()
    health.probe_failed()
    assert health.state is HealthState.SUSPECT
    health.probe_answered()
    assert health.state is HealthState.HEALTHY
    health.probe_failed()
    health.outdated()
    health.probe_answered()
    assert health.state is HealthState.STALE


def test_proof_of_older_weights_takes_a_worker_out_of_service():
    health, _ = serving()
    health.proven(version(0), current=False)
    assert (health.state, health.cause) == (HealthState.STALE, Cause.UPDATE)


def test_probes_that_fail_in_a_row_kill_and_an_answer_ends_the_row():
    health, _ = serving(unhealthy_threshold=3)
    for _ in range(5):
        health.probe_failed()
        health.probe_failed()
        health.probe_answered()
    assert health.state is HealthState.HEALTHY
    for _ in range(3):
        health.probe_failed()
    assert (health.state, health.cause) == (HealthState.DEAD, Cause.PROBE_FAILED)


def test_an_engine_that_answers_probes_and_fails_requests_dies_all_the_same():
    health, _ = serving(unhealthy_threshold=3)
    for _ in range(2):
        health.request_failed()
        assert health.state is HealthState.SUSPECT
        health.probe_answered()
        assert health.state is HealthState.HEALTHY
    health.request_failed()
    assert (health.state, health.cause) == (HealthState.DEAD, Cause.REQUEST_FAILED)


def test_requests_that_fail_together_are_one_incident():
    health, _ = serving(unhealthy_threshold=3)
    for _ in range(30):
        health.request_failed()
    assert (health.state, health.failed_requests) == (HealthState.SUSPECT, 1)


def test_updates_that_fail_in_a_row_kill():
    health, _ = serving(unhealthy_threshold=2)
    health.update_failed()
    assert (health.state, health.cause) == (HealthState.STALE, Cause.UPDATE_FAILED)
    health.probe_answered()
    assert health.state is HealthState.STALE
    health.update_failed(Cause.PARITY_FAILED)
    assert (health.state, health.cause) == (HealthState.DEAD, Cause.PARITY_FAILED)


def test_healthy_threshold_wants_so_many_answers():
    health, _ = serving(healthy_threshold=2)
    health.probe_failed()
    health.probe_answered()
    assert health.state is HealthState.SUSPECT
    health.probe_answered()
    assert health.state is HealthState.HEALTHY


def test_only_an_update_that_goes_well_is_routine():
    health, changes = serving()
    health.outdated()
    health.proven(version(2), current=True)
    health.died(Cause.NODE_DIED)
    health.restarting()
    health.started(PLACE)
    health.proven(version(2), current=True)
    routine = [change.state for change in changes if change.is_routine]
    assert routine == [HealthState.STALE, HealthState.HEALTHY], "a heal is no routine"
    assert [change.state for change in changes].count(HealthState.HEALTHY) == 3


def test_requests_end_where_the_engine_is_gone_or_paused_and_a_retired_worker_finishes():
    health, changes = serving()
    health.outdated()
    health.update_failed()
    health.proven(version(2), current=True)
    health.probe_failed()
    health.died(Cause.ACTOR_DIED)
    health.retire(Cause.SCALED_DOWN)
    assert [(c.state, c.cause) for c in changes if c.ends_requests] == [
        (HealthState.STALE, Cause.UPDATE_FAILED),
        (HealthState.DEAD, Cause.ACTOR_DIED),
    ]


def test_conditions_keep_the_time_at_which_they_changed():
    time = Time()
    health = WorkerHealth("r0", FleetHealthConfig(), time, lambda change: None)
    time.now = 5
    health.started(PLACE)
    time.now = 8
    health.proven(version(1), current=True)
    time.now = 20
    health.probe_failed()
    assert health.flipped == {"Alive": 5, "WeightsCurrent": 8, "Serving": 20}


def test_a_wrong_step_is_refused():
    health, _ = worker()
    with pytest.raises(ValueError, match="no worker goes from restarting to healthy"):
        health._to(HealthState.HEALTHY, Cause.WEIGHTS_PROVEN)


def test_errors_say_their_cause():
    assert cause_of(WorkerLost("gone", Cause.NODE_DIED)) is Cause.NODE_DIED
    assert cause_of(WorkerDied("gone")) is Cause.ACTOR_DIED
    assert cause_of(ParityError("differs")) is Cause.PARITY_FAILED
    assert cause_of(WeightUpdateError("lost")) is Cause.UPDATE_FAILED
    assert cause_of(GenerationError("refused")) is Cause.REQUEST_FAILED
    again = pickle.loads(pickle.dumps(WorkerLost("gone", Cause.NODE_DIED)))
    assert (str(again), again.why) == ("gone", Cause.NODE_DIED)


class AnyReports(RuleBasedStateMachine):
    """Any reports in any order, beside what must have happened before each state."""

    def __init__(self) -> None:
        super().__init__()
        self.health, self.changes = worker(unhealthy_threshold=3)
        self.proof = False
        """Whether weights were proven that may still serve, since the last start."""
        self.probes = self.requests = self.updates = 0
        self.retired = False
        self.seen = 0

    @rule()
    def restarting(self) -> None:
        if self.health.state is HealthState.DEAD:
            self.proof = False
        self.health.restarting()

    @rule()
    def started(self) -> None:
        self.health.started(PLACE)

    @rule(current=st.booleans())
    def proven(self, current: bool) -> None:
        if self.health.state.runs:
            self.proof = current
            self.probes = self.requests = self.updates = 0
        self.health.proven(version(1), current=current)

    @rule()
    def outdated(self) -> None:
        self.proof = False
        self.health.outdated()

    @rule(cause=st.sampled_from([Cause.UPDATE_FAILED, Cause.PARITY_FAILED]))
    def update_failed(self, cause: Cause) -> None:
        if self.health.state.runs:
            self.proof, self.updates = False, self.updates + 1
        self.health.update_failed(cause)

    @rule()
    def probe_answered(self) -> None:
        if self.health.state.runs:
            self.probes = 0
        self.health.probe_answered()

    @rule()
    def probe_failed(self) -> None:
        self.probes += self.health.state in (HealthState.HEALTHY, HealthState.SUSPECT)
        self.health.probe_failed()

    @rule()
    def request_answered(self) -> None:
        if self.health.state.runs:
            self.requests = 0
        self.health.request_answered()

    @rule()
    def request_failed(self) -> None:
        self.requests += self.health.state is HealthState.HEALTHY
        self.health.request_failed()

    @rule(cause=st.sampled_from([Cause.ACTOR_DIED, Cause.NODE_DIED, Cause.START_FAILED]))
    def died(self, cause: Cause) -> None:
        self.health.died(cause)

    @rule()
    def retire(self) -> None:
        self.health.retire(Cause.SCALED_DOWN)
        self.retired = True

    @invariant()
    def only_proven_weights_serve(self) -> None:
        if self.health.state.serves:
            assert self.proof
            assert self.health.version is not None

    @invariant()
    def nobody_dies_of_fewer_failures_than_the_threshold(self) -> None:
        failures = {Cause.PROBE_FAILED: self.probes, Cause.REQUEST_FAILED: self.requests}
        for change in self.changes[self.seen :]:
            if change.state is HealthState.DEAD:
                assert failures.get(change.cause, 3) >= 3
                self.probes = self.requests = self.updates = 0
        self.seen = len(self.changes)
        if self.health.state.runs:
            assert max(self.probes, self.requests, self.updates) < 3

    @invariant()
    def a_retired_worker_stays_so(self) -> None:
        assert self.retired == (self.health.state is HealthState.RETIRED)

    @invariant()
    def each_change_goes_on_from_the_one_before(self) -> None:
        states = [change.state for change in self.changes]
        befores = [change.before for change in self.changes[1:]]
        assert befores == states[:-1]


TestAnyReports = AnyReports.TestCase
