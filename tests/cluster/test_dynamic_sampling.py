"""Groups without signal are replaced, up to a bound; order, staleness and resume stay as they were.

Loop and buffer are the real ones; writer and learner count.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.buffer import GroupBuffer
from cluster.config.fleet import RolloutFailureConfig
from cluster.loop import DynamicSampling, StepGroups, rollout_loop, run_until_trained, train_loop
from cluster.stages.grpo.figures import filter_figures
from cluster.stages.grpo.step_limits import replacing_of
from tests.cluster.session_fakes import make_config
from tests.groups import make_group, make_trace
from wire.types import PolicyVersion, Sample, Split, TraceGroup

Signal = Callable[[int], bool]


def place_of(group: TraceGroup) -> int:
    return int(group.sample.id)


@dataclass
class Run:
    """One run of the loops; which places have signal is a function of the place."""

    signal: Signal
    max_staleness: int
    groups_per_step: int
    max_groups: int
    num_steps: int
    first_step: int = 1
    first_index: int = 0
    slow: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        self.version = self.first_step - 1
        self.asked: list[int] = []
        self.steps: list[tuple[list[int], list[int]]] = []
        """Places trained and replaced."""
        self.lags: list[int] = []
        self.cursors: list[int] = []

    async def write(self, sample: Sample, index: int, upcoming: Sample | None = None) -> TraceGroup:
        self.asked.append(index)
        version = PolicyVersion(attempt=0, step=self.version)
        for _ in range(self.slow.choice([0, 1, 2, 60])):
            await asyncio.sleep(0)
        return make_group(group_id=sample.id, sample=sample, policy_version=version)

    async def train(self, taken: StepGroups, step: int) -> None:
        await asyncio.sleep(0)
        self.lags += [self.version - group.policy_version.step for group in taken.all]
        self.steps.append(
            ([place_of(g) for g in taken.trained], [place_of(g) for g in taken.replaced])
        )
        self.cursors.append(self.buffer.next_index)
        self.version = step

    async def _loops(self) -> None:
        capacity = (self.max_staleness + 1) * self.groups_per_step
        num_steps = self.num_steps - self.first_step + 1
        self.buffer = GroupBuffer(capacity, self.first_index, num_steps * self.groups_per_step)
        filtering = DynamicSampling(
            has_signal=lambda group: self.signal(place_of(group)), max_groups=self.max_groups
        )
        steps = range(self.first_step, self.num_steps + 1)
        train = train_loop(self.buffer, self, steps, self.groups_per_step, filtering)
        loops = [rollout_loop(sample_at, self, self.buffer) for _ in range(capacity)]
        await asyncio.wait_for(run_until_trained(train, loops), 20)

    def go(self) -> "Run":
        asyncio.run(self._loops())
        return self


def sample_at(index: int) -> Sample:
    return Sample(id=str(index), video="a.mp4", label="x", split=Split.TRAIN)


def expected_steps(run: Run) -> list[tuple[list[int], list[int]]]:
    """The rule, without a loop: places in order until there are enough, or the bound."""
    place, found = run.first_index, []
    for _ in range(run.first_step, run.num_steps + 1):
        trained, replaced = list[int](), list[int]()
        while len(trained) < run.groups_per_step and len(trained + replaced) < run.max_groups:
            (trained if run.signal(place) else replaced).append(place)
            place += 1
        found.append((trained, replaced))
    return found


def at_random(seed: int, share: float) -> Signal:
    return lambda place: random.Random(seed * 100_003 + place).random() < share


runs = st.builds(
    lambda seed, share, staleness, size, batches, slow: Run(
        at_random(seed, share), staleness, size, size * batches, 7, slow=random.Random(slow)
    ),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 1000),
)


@given(runs)
@settings(deadline=None, max_examples=150)
def test_steps_train_the_groups_with_signal_in_the_order_of_their_places(run: Run):
    assert run.go().steps == expected_steps(run)


@given(runs)
@settings(deadline=None, max_examples=150)
def test_staleness_never_exceeds_its_bound_whatever_is_replaced(run: Run):
    assert max(run.go().lags) <= run.max_staleness


@given(runs)
@settings(deadline=None, max_examples=50)
def test_a_synchronous_run_asks_nothing_that_it_does_not_use(run: Run):
    run.max_staleness = 0
    run.go()
    assert run.asked == list(range(run.cursors[-1]))


@given(runs, st.integers(1, 6))
@settings(deadline=None, max_examples=50)
def test_a_run_resumed_at_its_cursor_takes_the_same_steps(run: Run, done: int):
    run.go()
    rest = Run(
        run.signal,
        run.max_staleness,
        run.groups_per_step,
        run.max_groups,
        run.num_steps,
        first_step=done + 1,
        first_index=run.cursors[done - 1],
    )
    assert rest.go().steps == run.steps[done:]


@pytest.mark.parametrize(
    ("rewards", "kept"), [((1.0, 0.0), True), ((1.0, 1.0), False), ((None, 1.0), False)]
)
def test_the_recipes_filter_looks_at_rewards(rewards: Sequence[float | None], kept: bool):
    assert replacing_of(make_config().grpo, RolloutFailureConfig()) is None
    config = make_config(grpo={"groups_per_step": 4, "filter_groups": {"enable": True}})
    filtering = replacing_of(config.grpo, RolloutFailureConfig())
    assert filtering is not None
    assert filtering.max_groups == 40
    assert filtering.has_signal(make_group(*map(make_trace, rewards))) == kept


def test_replaced_groups_are_counted_by_label():
    group = make_group(make_trace(1.0))
    found = filter_figures(StepGroups(trained=[group], replaced=[group, group]))
    assert found == {
        "filter_groups/num_trained": 1.0,
        "filter_groups/num_replaced": 2.0,
        "filter_groups/replaced/x": 2.0,
    }
