"""Timings of a measured run, for a simulation of it at another size: its metrics -> Timings.

metrics.jsonl of a finished run -> what the learner, the weights, a checkpoint took
its steps' seconds, simulated   -> how fast its engines decode: the speed at which the simulation
                                   of that very run takes as long as the run did
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean, median
from typing import Any

from cluster.config.controls import grpo_of
from cluster.config.recipe import RunConfig
from cluster.metrics.metrics_file import figures_of, is_validation, read_rows
from cluster.run_files import read_run_recipe
from cluster.simulation.timings import Timings
from wire.errors import ConfigError

_WARM_UP_STEPS = 2
_PER_SEQUENCE = {"cpu": 0.2, "gpu": 0.005}
"""Cost of a further sequence in a decoding step, in steps of one: a CPU is bound by arithmetic, a
GPU by reading the weights. One run at one size cannot tell the two apart."""
_FASTEST_S, _SLOWEST_S = 1e-7, 100.0
_TRIES = 24
_LEARNING = ("update_actor", "old_log_prob", "ref")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """A finished run and what its steps took."""

    path: Path
    config: RunConfig
    step_s: float
    """Seconds of a step, median."""
    num_steps: int
    timings: Timings
    """All but the engines' speed."""


def read_measured(path: Path) -> MeasuredRun:
    """Read a run's timings. Raises ConfigError if it has trained no steps by GRPO."""
    config = read_run_recipe(path)
    rows = [dict(figures_of(row)) for row in _grpo_rows(path)][_WARM_UP_STEPS:]
    if len(rows) < 2:
        raise ConfigError(
            f"{path} has {len(rows)} steps of GRPO after {_WARM_UP_STEPS} of warm-up; give --from "
            "a run that has trained more"
        )
    grpo, rollout = grpo_of(config), config.rollout
    traces = grpo.groups_per_step * rollout.group_size
    learning = [sum(row.get(f"timing_s/{name}") or 0.0 for name in _LEARNING) for row in rows]
    weights_gb = _median(rows, "weights/gb")
    own = _PER_SEQUENCE["gpu" if rollout.num_gpus else "cpu"]
    timings = Timings(
        decode_step_s=1.0,
        decode_per_sequence_s=own,
        response_length=max(1.5, fmean(_values(rows, "response_length/mean") or [2.0])),
        response_length_sigma=_sigma(rows, traces),
        no_signal_frac=min(0.99, fmean(_values(rows, "reward/frac_zero_std") or [0.0])),
        learner_s_per_trace=median(learning) / traces,
        learner_s_per_step=_median(rows, "timing_s/archive") + _median(rows, "timing_s/validate"),
        weights_gb=weights_gb,
        weights_sends=None,
        load_weights_s=_median(rows, "timing_s/update_weights"),
        save_s=_median([row for row in rows if "timing_s/save" in row], "timing_s/save"),
    )
    step_s = median(_values(rows, "timing_s/step"))
    return MeasuredRun(
        path=path, config=config, step_s=step_s, num_steps=len(rows), timings=timings
    )


def with_engine_speed(
    run: MeasuredRun, simulated_step_s: Callable[[RunConfig, Timings], float]
) -> Timings:
    """Timings whose engines decode so fast that the simulation of the run takes as long as the run
    did; where others held it up, the slowest that they may have been."""
    low, high = math.log(_FASTEST_S), math.log(_SLOWEST_S)
    for _ in range(_TRIES):
        middle = (low + high) / 2
        if simulated_step_s(run.config, _at_speed(run.timings, math.exp(middle))) <= run.step_s:
            low = middle
        else:
            high = middle
    return _at_speed(run.timings, math.exp(low))


def _at_speed(timings: Timings, step_s: float) -> Timings:
    per_sequence = timings.decode_per_sequence_s / timings.decode_step_s * step_s
    return timings.model_copy(
        update={"decode_step_s": step_s, "decode_per_sequence_s": per_sequence}
    )


def _grpo_rows(path: Path) -> Sequence[Any]:
    """Rows of the last attempt's steps of the stage that trained most of them."""
    rows = [
        row
        for row in read_rows(path / "metrics.jsonl")
        if "timing_s/gen" in row and not is_validation(row)
    ]
    stages = [str(row["stage"]) for row in rows]
    main = max(set(stages), key=stages.count, default="")
    rows = [row for row in rows if row["stage"] == main]
    return [row for row in rows if row["attempt"] == rows[-1]["attempt"]]


def _values(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]


def _median(rows: Sequence[dict[str, Any]], name: str) -> float:
    return median(_values(rows, name) or [0.0])


def _sigma(rows: Sequence[dict[str, Any]], traces: int) -> float:
    """Spread of the lengths' logarithm, from the mean and the longest of each step: the longest of
    n log-normal ones is about exp(mu + sigma z), z the normal's quantile at 1 - 1/n."""
    means, longest = _values(rows, "response_length/mean"), _values(rows, "response_length/max")
    if not means or traces < 2:
        return 0.0
    z = NormalDist().inv_cdf((traces - 0.375) / (traces + 0.25))
    ratio = math.log(max(1.0, median(longest) / median(means)))
    inner = max(0.0, z * z - 2 * ratio)
    return min(3.0, z - math.sqrt(inner))
