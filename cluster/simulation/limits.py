"""Limits of a simulated run: the same run again with one part changed, and what that would gain."""

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.simulation.scenario import Scenario
from cluster.simulation.timings import Timings

_HALF = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One part changed, and what the run then reaches.

    Example:
        Change(part="the engines' decoding", remedy="decoding twice as fast", traces_per_s=31.0,
               gain=0.42)
    """

    part: str
    remedy: str
    traces_per_s: float
    gain: float
    """Of traces per second, as a share of the run's own."""


def scenarios_with_changes(scenario: Scenario) -> Iterator[tuple[str, str, Scenario]]:
    """The part, the change in words, and the scenario with it; without faults, whose chance would
    hide small gains."""
    timings, workers = scenario.timings, scenario.workers
    faster: tuple[tuple[str, str, tuple[str, ...]], ...] = (
        ("the engines", "decoding twice as fast", ("decode_step_s", "decode_per_sequence_s")),
        ("the prompts", "prompts and vision towers twice as fast", ("prompt_s",)),
        ("the learner", "updates twice as fast", ("learner_s_per_trace", "learner_s_per_step")),
        ("the driver's process", "half the driver's work per trace", ("driver_s_per_trace",)),
        ("rewards", "rewards twice as fast", ("reward_s",)),
        ("the archive", "archive twice as fast", ("archive_s",)),
        ("checkpoints", "checkpoints twice as fast", ("save_s",)),
    )
    for part, remedy, names in faster:
        if any(getattr(timings, name) for name in names):
            yield part, remedy, scenario.with_timings(_halved(timings, names))
    yield (
        "the weights' way to the engines",
        "weights sent and loaded twice as fast",
        _weights(scenario),
    )
    if timings.response_length_sigma:
        even = timings.model_copy(update={"response_length_sigma": 0.0})
        yield "the longest answers", "no long tail of answers", scenario.with_timings(even)
    yield (
        "the number of workers",
        f"twice as many workers ({2 * workers:,})",
        (scenario.with_workers(2 * workers)),
    )
    groups = scenario.grpo.groups_per_step
    yield (
        "groups per step",
        f"grpo.groups_per_step = {2 * groups:,}",
        scenario.with_grpo(groups_per_step=2 * groups),
    )
    lag = scenario.grpo.max_staleness + 1
    yield (
        "waiting of engines and learner for each other",
        f"grpo.max_staleness = {lag}",
        (scenario.with_grpo(max_staleness=lag)),
    )


def _weights(scenario: Scenario) -> Scenario:
    timings = scenario.timings
    halved = _halved(timings, ("load_weights_s",))
    return scenario.with_timings(
        halved.model_copy(update={"network_gbit": 2 * timings.network_gbit})
    )


def _halved(timings: Timings, names: tuple[str, ...]) -> Timings:
    return timings.model_copy(update={name: _HALF * getattr(timings, name) for name in names})
