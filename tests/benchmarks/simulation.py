"""The simulation: does it predict the real Ray loop, and what does orchestration cost at 1,000
workers?

    python -m tests.benchmarks.simulation [--json FILE] [--steps 8] [--workers 1 2 4]
                                          [--only prediction|orchestration]

*Prediction*: the same scenario twice, once by `deepintuit simulate`'s code in virtual time, once by
the real loop in real time: Ray actors, RolloutPool, GroupWriter, rewards and archive of a run, with
scripted engines in the actors (tests/benchmarks/simulation_ray.py). Both know the same answers'
lengths; the simulation knows nothing of what Ray, rewards and archive take. The figure is a step's
seconds, simulated over measured.

*Orchestration*: CPU per trace of loop, buffer, dispatcher, membership and supervisor for 1,000
workers in virtual time, the scripted engines included; and of the real driver's process in the loop
above: Ray's calls, rewards, archive, all of its threads.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.config.recipe import RunConfig, read_recipe
from cluster.simulation.faults import FaultRates
from cluster.simulation.run import simulate
from cluster.simulation.scenario import Scenario
from cluster.simulation.timings import Timings
from tests.benchmarks.figures import Figure, report

RECIPES = Path(__file__).parents[2] / "recipes"
MOST_OFF = 0.15
MOST_CPU_MS = 1.0
BY_SECOND = Timings(
    decode_step_s=0.01,
    decode_per_sequence_s=0.0002,
    prompt_s=0.05,
    response_length=120,
    response_length_sigma=0.5,
    learner_s_per_step=1.0,
    load_weights_s=0.3,
    engine_start_s=1.0,
)
"""Answers of one or two seconds, so that a run takes half a minute."""
LARGE = Timings(
    decode_step_s=0.01,
    decode_per_sequence_s=0.0001,
    prompt_s=0.1,
    response_length=600,
    learner_s_per_step=30.0,
    load_weights_s=3.0,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--only", choices=("prediction", "orchestration"))
    options = parser.parse_args()
    return report(_figures(options.only, options.steps, options.workers), options.json)


def _figures(only: str | None, steps: int, workers: Sequence[int]) -> Iterator[Figure]:
    if only != "prediction":
        yield from orchestration()
    if only != "orchestration":
        yield from prediction(steps, workers)


def orchestration() -> Iterator[Figure]:
    """CPU per trace at 1,000 workers: all well, and with engines that die or hang."""
    settings = ["rollout.num_workers=1000", "grpo.groups_per_step=2048", "grpo.max_staleness=1"]
    config = read_recipe(RECIPES / "smarthome-7b.toml", settings)
    calm = Scenario.of(config, LARGE, num_steps=4)
    run = simulate(calm)
    yield Figure(
        "orchestration, 1,000 workers", run.cpu_ms_per_trace, "ms/trace", MOST_CPU_MS, "below"
    )
    faulty = Scenario.of(
        config, LARGE, num_steps=4, faults=FaultRates(worker_mtbf_s=3600.0, hang_frac=0.2)
    )
    run = simulate(faulty)
    yield Figure("  engines that failed", sum(run.faults.values()), "")
    yield Figure(
        "orchestration, with failures", run.cpu_ms_per_trace, "ms/trace", MOST_CPU_MS, "below"
    )


def prediction(steps: int, workers: Sequence[int]) -> Iterator[Figure]:
    """A step's seconds, simulated over measured, for each number of workers."""
    from tests.benchmarks.simulation_ray import run_on_ray

    for count in workers:
        config = _small(count)
        scenario = Scenario.of(config, BY_SECOND, num_steps=steps)
        simulated = simulate(scenario)
        measured = asyncio.run(run_on_ray(config, scenario))
        name = f"{count} worker(s)"
        yield Figure(f"{name}: step, measured", measured.step_s, "s")
        yield Figure(f"{name}: step, simulated", simulated.step_s, "s")
        off = abs(simulated.step_s / measured.step_s - 1)
        yield Figure(f"{name}: prediction off by", off, "", MOST_OFF, "below")
        total = sum(measured.staleness.values())
        yield Figure(
            f"{name}: traces a version old, measured", _old(measured.staleness) / total, ""
        )
        yield Figure(
            f"{name}: traces a version old, simulated", simulated.staleness.get(1, 0.0), ""
        )
        yield Figure(
            f"{name}: the driver's CPU",
            measured.driver_ms_per_trace,
            "ms/trace",
            MOST_CPU_MS,
            "below",
        )


def _old(staleness: dict[int, int]) -> int:
    return sum(count for lag, count in staleness.items() if lag)


def _small(workers: int) -> RunConfig:
    """The demo's recipe with steps of a few seconds, on that many workers."""
    return read_recipe(
        RECIPES / "demo.toml",
        [
            f"rollout.num_workers={workers}",
            "rollout.num_cpus=0.1",
            "rollout.max_concurrency=4",
            "rollout.max_response_length=400",
            "rollout.group_size=8",
            "learner.num_cpus=0.1",
            "grpo.groups_per_step=16",
            "grpo.max_staleness=1",
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
