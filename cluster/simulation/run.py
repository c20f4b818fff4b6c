"""Simulation of a run's main loop: a scenario in, its speed, losses and limits out."""

import time
from dataclasses import replace
from pathlib import Path

from cluster.config.recipe import RunConfig
from cluster.simulation.limits import Change, scenarios_with_changes
from cluster.simulation.result import SimulatedRun
from cluster.simulation.scenario import Scenario
from cluster.simulation.session import SimulatedSession
from cluster.simulation.timings import Timings
from cluster.simulation.virtual_time import run_virtually

_FILLED_AFTER = 5  # steps, after which one is like the next


def simulate(scenario: Scenario, folder: Path | None = None) -> SimulatedRun:
    """Simulate a scenario; with faults also without, for the effective training time ratio.
    ``folder``: where a timeline of each step is written."""
    run = _simulated(scenario, folder)
    if not scenario.faults.any or run.ended:
        return run
    undisturbed = _simulated(scenario.without_faults())
    return replace(run, effective_training_time_ratio=undisturbed.seconds / run.seconds)


def what_would_help(scenario: Scenario) -> list[Change]:
    """The scenario again, without faults and with one part changed at a time: what each gains."""
    enough = _FILLED_AFTER + 2 * scenario.grpo.max_staleness
    calm = replace(scenario.without_faults(), num_steps=min(scenario.num_steps, enough))
    before = _simulated(calm).traces_per_s
    changes = []
    for part, remedy, changed in scenarios_with_changes(calm):
        after = _simulated(changed).traces_per_s
        gain = after / before - 1
        changes.append(Change(part=part, remedy=remedy, traces_per_s=after, gain=gain))
    return changes


def mean_step_s(config: RunConfig, timings: Timings) -> float:
    """Seconds of a step of a recipe with these timings, on average."""
    return _simulated(Scenario.of(config, timings, num_steps=6)).step_s


def _simulated(scenario: Scenario, folder: Path | None = None) -> SimulatedRun:
    async def main() -> SimulatedRun:
        return await SimulatedSession(scenario, folder).run()

    began = time.process_time()
    run, _ = run_virtually(main)
    cpu_ms = 1000 * (time.process_time() - began)
    return replace(run, cpu_ms_per_trace=cpu_ms / max(1, run.num_traces))
