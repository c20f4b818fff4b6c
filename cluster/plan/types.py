"""Types of a plan (cluster/plan/run_plan.py)."""

from dataclasses import dataclass
from typing import final

from cluster.plan.model_size import EngineMemory, RankMemory
from wire.types import Split


@final  # without subclasses it is never false, and ``clips and clips.train`` has a type
@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCounts:
    """Clips of a manifest, by use."""

    train: int
    with_trace: int
    """Train clips that the cold start learns from."""
    calibration: int
    """Clips of ``calibrate.split``."""
    evaluation: int
    """Clips of ``evaluate.split``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Rollout workers or learner ranks, with the CPUs and GPUs that Ray reserves for each."""

    count: int
    cpus_each: float
    gpus_each: float
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """Plan of one stage. None: unknown without the manifest.

    Example:
        StagePlan(name="grpo", clips=600, epochs=3.2, rollouts=15360, examples=15360, updates=60,
                  steps=60, saves=2, max_prompt_tokens=737280,
                  max_response_tokens=614400)
    """

    name: str
    clips: int | None
    """Clips that the stage learns from."""
    epochs: float | None
    """Passes over the train clips in GRPO, over the examples in other stages."""
    rollouts: int | None
    """Traces that the engines write to learn from."""
    examples: int | None
    """Traces that the learner learns from, each counted once."""
    updates: int | None
    """Optimiser updates."""
    steps: int
    """Steps of GRPO: after each one the engines get new weights."""
    saves: int
    """Checkpoints written in these steps."""
    max_prompt_tokens: int | None
    """Upper bound of the rollouts' prompt tokens; a prompt counts once for its whole group."""
    max_response_tokens: int | None
    """Upper bound of the rollouts' tokens."""
    validations: int | None = 0
    """Validations while it trains, if nothing stops it early."""
    validated: int | None = 0
    """Val clips asked about in all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Evaluation at the end of a stage without a split of its own: at most one trace per clip."""

    split: Split
    clips: int
    max_prompt_tokens: int
    max_response_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """Plan of one GRPO step."""

    groups: int
    rollouts: int
    updates: int
    steps_between_saves: int
    longest_row_tokens: int
    """A prompt and all responses to it at full length: one row of the learner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTokens:
    """The largest clip that sampling lets through, as the model sees it."""

    frames: int
    max_pixels: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory held all the time. Not included: activations, buffers, CUDA, Ray's object store."""

    parameters: int
    trained_parameters: int
    rank: RankMemory
    engine: EngineMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Plan of a run."""

    model: str
    clips: ClipCounts | None
    """None: there is no manifest here."""
    rollout: Workers
    learner: Workers
    stages: tuple[StagePlan, ...]
    measurement: Measurement | None
    """None: there is no manifest here."""
    step: StepPlan | None
    """None: no stage trains by GRPO."""
    clip_tokens: ClipTokens | None
    """The largest clip; None: neither model nor recipe bounds a frame."""
    memory: Memory | None
    """Memory of the workers; None: the model is not here, and its name is not known."""
    notes: tuple[str, ...]
    """Files that are not here, and so not counted."""
    warnings: tuple[str, ...]
    """Settings that look wrong, but do not keep a run from starting."""
