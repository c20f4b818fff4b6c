"""Timings of a simulated run: how long each part of the work takes, and how long answers are."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from cluster.simulation.engine import EngineSpeed
from wire.config import Config
from wire.types import stable_seed


class Timings(Config):
    """Timings of a run's parts: measured, estimated, or given (``--time NAME=VALUE``)."""

    decode_step_s: float = Field(gt=0)
    """Seconds of an engine's decoding step with one sequence in it."""
    decode_per_sequence_s: float = Field(default=0.0, ge=0)
    """Seconds that each further sequence adds to a decoding step."""
    prompt_s: float = Field(default=0.0, ge=0)
    """Seconds in which an engine computes a group's prompt, the vision tower with it."""
    response_length: float = Field(gt=1)
    """Tokens of an answer, on average; lengths are log-normal, cut at
    ``rollout.max_response_length``."""
    response_length_sigma: float = Field(default=0.6, ge=0, le=3)
    """Standard deviation of the logarithm of the lengths: 0.6 is a long tail, 0 none."""
    no_signal_frac: float = Field(default=0.0, ge=0, lt=1)
    """Share of groups without signal, which dynamic sampling replaces."""
    reward_s: float = Field(default=0.0, ge=0)
    """Seconds in which a group is judged."""
    archive_s: float = Field(default=0.0, ge=0)
    """Seconds in which a group is written to the archive."""
    driver_s_per_trace: float = Field(default=0.0, ge=0)
    """Seconds of the driver's one process per trace: calls, rewards' bookkeeping, rows, archive."""
    learner_s_per_trace: float = Field(default=0.0, ge=0)
    """Seconds of an update per trace, of all ranks together."""
    learner_s_per_step: float = Field(default=0.0, ge=0)
    """Seconds of a step that do not grow with its traces: optimiser, metrics, archive compacted."""
    weights_gb: float = Field(default=0.0, ge=0)
    """Weights that each node with engines gets after a step."""
    network_gbit: float = Field(default=100.0, gt=0)
    """Network of a node, Gbit/s."""
    weights_sends: float | None = Field(default=None, ge=0)
    """How often the weights go through the busiest node's network; none: once for each node with
    engines beside the learner's (``object_store``), or once (``nccl``)."""
    load_weights_s: float = Field(default=0.0, ge=0)
    """Seconds in which an engine loads weights that have arrived and proves them, and all that an
    update takes however many engines there are."""
    save_s: float = Field(default=0.0, ge=0)
    """Seconds of a checkpoint."""
    engine_start_s: float = Field(default=60.0, ge=0)
    """Seconds in which an engine starts, for the first time or anew."""
    learner_restart_s: float = Field(default=120.0, ge=0)
    """Seconds in which all ranks start anew from a checkpoint after one died."""

    def engine_speed(self, max_num_seqs: int) -> EngineSpeed:
        """The engines' speed."""
        return EngineSpeed(
            step_s=self.decode_step_s,
            per_sequence_s=self.decode_per_sequence_s,
            prompt_s=self.prompt_s,
            max_num_seqs=max_num_seqs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Lengths of answers: the same for a place however and when it is written."""

    mean: float
    sigma: float
    longest: int
    seed: int

    def of(self, place: int, count: int) -> Sequence[int]:
        """Lengths of a place's ``count`` answers, in tokens."""
        draw = random.Random(stable_seed("lengths", self.seed, place))
        # the mean of a log-normal is exp(mu + sigma^2 / 2)
        mu = math.log(self.mean) - self.sigma**2 / 2
        return [
            max(1, min(self.longest, round(draw.lognormvariate(mu, self.sigma))))
            for _ in range(count)
        ]
