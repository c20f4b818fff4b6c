"""Staleness is bounded, every place is trained once and in order, and nothing waits for ever,
whatever ends first.

Loops, buffer and limits are the real ones. An adversary (hypothesis) holds the writing of each
group, its reward, the update and the publication of each step, and lets go of one at a time; it
also fails groups, and lets updates wait for, keep or restart what is being written.
"""

import asyncio
from collections.abc import Set
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.buffer import GroupBuffer
from cluster.config.fleet import RolloutFailureConfig
from cluster.loop import DynamicSampling, StepGroups, rollout_loop, run_until_trained, train_loop
from cluster.stages.grpo.step_limits import StepLimits
from tests.groups import make_completion, make_group, make_sample
from wire.types import (
    Failure,
    FailureKind,
    PolicyVersion,
    Sample,
    Score,
    Trace,
    TraceGroup,
    VersionChange,
)

LOST = Failure(kind=FailureKind.GENERATION, culprit="rollout-0", reason="it died")


def version(step: int) -> PolicyVersion:
    return PolicyVersion(attempt=0, step=step)


@dataclass
class Writing:
    """One trace that an engine writes: the version of each token so far."""

    versions: list[int]
    restarts: int = 0


@dataclass
class Plan:
    """A training, and what its adversary may do."""

    max_staleness: int
    groups_per_step: int
    num_steps: int
    in_flight: str
    choose: Any
    """``choose(held)``: index of the held thing that goes on."""
    failing: Set[int] = frozenset()
    """Places whose groups the fleet fails."""
    replaces: bool = False

    # what happened
    version: int = 0
    writing: dict[int, Writing] = field(default_factory=dict)
    updating: bool = False
    lags: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    restarts: dict[int, int] = field(default_factory=dict)
    stale: int = 0
    num_mixed: int = 0
    lag_of: dict[int, int] = field(default_factory=dict)
    _held: list[tuple[str, asyncio.Future[None]]] = field(default_factory=list)

    async def held(self, what: str) -> None:
        """Wait until the adversary lets go."""
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held.append((what, gate))
        await gate

    # --- the engines

    async def write(self, sample: Sample, index: int, upcoming: Sample | None = None) -> TraceGroup:
        await self.held(f"decode {index}")  # queue time: the version may change meanwhile
        while self.updating:
            await self.held(f"queue {index}")
        one = self.writing[index] = Writing([self.version])
        for _ in range(2):
            await self.held(f"write {index}")
            while self.updating and self.in_flight != "wait":
                await self.held(f"paused {index}")
            one.versions.append(self.version)
        del self.writing[index]
        self.restarts[index] = one.restarts
        await self.held(f"reward {index}")
        return self._group(sample, index, one.versions)

    def _group(self, sample: Sample, index: int, versions: list[int]) -> TraceGroup:
        if index in self.failing:
            return make_group(group_id=str(index), sample=sample, failures=(LOST,))
        changes = tuple(
            VersionChange(at, version(versions[at]))
            for at in range(1, len(versions))
            if versions[at] != versions[at - 1]
        )
        completion = replace(
            make_completion("x", num_tokens=len(versions), version=version(versions[0])),
            version_changes=changes,
        )
        trace = Trace(completion=completion, outcome=Score(total=1.0, parts={}))
        oldest = version(min(versions))
        return make_group(trace, group_id=str(index), sample=sample, policy_version=oldest)

    async def _update(self, step: int) -> None:
        """New weights into the engines, as rollout/vllm_calls/groups.py treats what they write."""
        while self.in_flight == "wait" and self.writing:
            await self.held("drain")
        self.updating = True
        await self.held("publish")
        self.version = step
        if self.in_flight == "restart":
            for one in self.writing.values():
                one.versions, one.restarts = [step] * len(one.versions), one.restarts + 1
        self.updating = False

    # --- the learner

    async def train(self, taken: StepGroups, step: int) -> None:
        limits = StepLimits(
            max_staleness=self.max_staleness,
            attempt=0,
            groups_per_step=self.groups_per_step,
            max_failure_frac=1.0,
            failure=RolloutFailureConfig(),
        )
        limits.refuse(taken)
        fresh, stale = limits.fresh(taken.trained, self.version)
        self.stale += stale
        assert step == self.version + 1
        places = [int(group.group_id) for group in taken.all]
        self.taken += sorted(places) if self.replaces else places
        for group in fresh:
            self.trained += [int(group.group_id)] * bool(group.traces)
            for one in (trace.completion for trace in group.traces):
                self.lags.append(self.version - one.policy_version.step)
                self.lag_of[int(group.group_id)] = self.lags[-1]
                self.num_mixed += bool(one.version_changes)
        await self.held("learn")
        await self._update(step)

    # --- the adversary

    async def _adversary(self) -> None:
        """Let go of one thing after another, each time when nothing goes on by itself."""
        while True:
            for _ in range(12):
                await asyncio.sleep(0)
            if not self._held:
                return  # nobody can go on any more
            _, gate = self._held.pop(self.choose([what for what, _ in self._held]))
            gate.set_result(None)

    async def _run(self) -> None:
        capacity = (self.max_staleness + 1) * self.groups_per_step
        buffer = GroupBuffer(capacity, 0, self.num_steps * self.groups_per_step)
        replacing = DynamicSampling(
            has_signal=lambda group: not group.is_dropped, max_groups=2 * self.groups_per_step
        )
        steps = range(1, self.num_steps + 1)
        filtering = replacing if self.replaces else None
        train = train_loop(buffer, self, steps, self.groups_per_step, filtering)
        loops = [
            rollout_loop(lambda i: make_sample(id=f"s{i}"), self, buffer) for _ in range(capacity)
        ]
        adversary = asyncio.create_task(self._adversary())
        training = asyncio.create_task(run_until_trained(train, loops))
        await asyncio.wait((adversary, training), return_when=asyncio.FIRST_COMPLETED)
        adversary.cancel()
        if not training.done():
            training.cancel()
            raise AssertionError(f"all wait, step {self.version + 1} of {self.num_steps}")
        await training

    def run(self) -> "Plan":
        asyncio.run(self._run())
        return self


def check(plan: Plan) -> None:
    """What has to hold, however a run went."""
    assert plan.version == plan.num_steps
    assert plan.taken == list(range(len(plan.taken))), "each place once, in order"
    assert plan.trained == [place for place in plan.taken if place not in plan.failing]
    assert max(plan.lags, default=0) <= plan.max_staleness
    assert plan.stale == 0, "the bound holds without the check at training"
    # a trace that is restarted is trained before it could be restarted for ever
    assert max(plan.restarts.values(), default=0) <= plan.max_staleness
    if plan.in_flight == "wait":
        assert plan.num_mixed == 0
    if not plan.replaces:
        assert len(plan.taken) == plan.num_steps * plan.groups_per_step


@given(
    data=st.data(),
    max_staleness=st.integers(0, 3),
    groups_per_step=st.integers(1, 3),
    in_flight=st.sampled_from(["wait", "keep", "restart"]),
    failing=st.sets(st.integers(0, 20), max_size=6),
    replaces=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_no_order_of_events_breaks_the_bound_or_stops_the_run(
    data: st.DataObject,
    max_staleness: int,
    groups_per_step: int,
    in_flight: str,
    failing: set[int],
    replaces: bool,
):
    def choose(held: list[str]) -> int:
        return data.draw(st.integers(0, len(held) - 1))

    plan = Plan(max_staleness, groups_per_step, 4, in_flight, choose, failing, replaces)
    check(plan.run())


def last_of(*kinds: str) -> Any:
    """An adversary that lets go of these kinds only when nothing else is held, and else of what
    has been held longest."""

    def choose(held: list[str]) -> int:
        for index, what in enumerate(held):
            if not what.startswith(kinds):
                return index
        return 0

    return choose


@pytest.mark.parametrize("max_staleness", [1, 2, 3])
@pytest.mark.parametrize("in_flight", ["wait", "keep"])
def test_the_bound_is_reached_where_the_learner_is_slower(max_staleness: int, in_flight: str):
    plan = Plan(max_staleness, 2, 8, in_flight, last_of("learn", "publish")).run()
    check(plan)
    assert max(plan.lags) == max_staleness, "rollout runs ahead as far as it may"


@pytest.mark.parametrize("max_staleness", [1, 2])
def test_the_slowest_group_of_all_is_restarted_no_more_than_the_bound_and_is_trained_fresh(
    max_staleness: int,
):
    slow = 2 * (max_staleness + 1) - 1  # the last place of the first round
    plan = Plan(max_staleness, 2, 6, "restart", last_of(f"write {slow}")).run()
    check(plan)
    assert plan.restarts[slow] == max_staleness
    assert plan.lag_of[slow] == 0, "no token of old weights is left in it"
    kept = Plan(max_staleness, 2, 6, "keep", last_of(f"write {slow}")).run()
    check(kept)
    assert kept.lag_of[slow] == max_staleness, "kept, it counts as its oldest token"
    assert kept.num_mixed >= 1


def test_a_group_trained_as_it_finishes_would_break_the_bound_and_the_check_would_see_it():
    """The check at training is no ornament: without the order it drops what is too old."""
    limits = StepLimits(
        max_staleness=1,
        attempt=0,
        groups_per_step=2,
        max_failure_frac=0.2,
        failure=RolloutFailureConfig(),
    )
    old, new = (Plan(1, 2, 1, "keep", None)._group(make_sample(), k, [k]) for k in (2, 4))
    mixed = replace(new, traces=(*new.traces, *old.traces))
    kept, num_stale = limits.fresh([mixed, old], trained_from=4)
    assert num_stale == 2
    assert [group.traces for group in kept] == [new.traces], "the sibling is trained"
