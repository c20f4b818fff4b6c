"""Result of a simulated run: speed, idle shares, staleness, losses, and how busy each part was."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """What a simulated run did, in virtual time.

    Example:
        SimulatedRun(workers=8, ..., steps_per_hour=41.2, traces_per_s=23.4)
    """

    workers: int
    """At the start."""
    num_steps: int
    num_traces: int
    """Traces that were trained."""
    seconds: float
    step_s: float
    """Seconds of a step, on average, without the first one, which fills an empty pipeline."""
    steps_per_hour: float
    traces_per_s: float
    """Traces that were trained."""
    tokens_per_s: float
    """Tokens of these."""
    learner_shares: Mapping[str, float]
    """Of the learner's time, by the names of a run's timings: ``gen`` (it waits for groups),
    ``update_actor``, ``update_weights``, ``save``, ``heal``."""
    idle_workers: float
    """Share of the engines' time without a sequence in work."""
    halted_workers: float
    """Share of the engines' time in which they waited for new weights."""
    idle_learner: float
    """Share of the learner's time in which it neither updates nor saves nor sends weights."""
    busy_driver: float
    """Share of the time in which the driver's process works."""
    busy_network: float
    """Share of the time in which weights leave the learner's node."""
    staleness: Mapping[int, float]
    """Versions that a trained trace lagged behind -> share of the traces."""
    lost_frac: float
    """Share of the tokens decoded that no step got: of workers that failed, of groups that were
    dropped or asked anew."""
    dropped_traces: int
    """Traces too old to be trained."""
    dropped_groups: int
    """Groups that the fleet failed for good."""
    mean_serving: float
    """Workers that served, on average over time."""
    faults: Mapping[str, int]
    """Kind of fault, and how many there were."""
    restarts: int
    """Engines started anew or joined after the start."""
    cpu_ms_per_trace: float
    """CPU of this process per trace, milliseconds: loop, buffer, pool, and the script itself."""
    ended: str = ""
    """Why it ended before its last step; empty: it did not."""
    effective_training_time_ratio: float | None = None
    """Time that the same run takes without faults, over the time that it took; None: no faults."""


@dataclass(slots=True)
class Tally:
    """Counts while a simulation goes on."""

    faults: Counter[str] = field(default_factory=Counter)
    learner_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    lags: Counter[int] = field(default_factory=Counter)
    step_ends: list[float] = field(default_factory=list)
    trained_traces: int = 0
    trained_tokens: int = 0
    dropped_traces: int = 0
    dropped_groups: int = 0
    starts: int = 0
    network_s: float = 0.0
