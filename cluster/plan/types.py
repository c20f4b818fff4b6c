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
class Disk:
    """Bytes on disks: the run directory's file system, and each node's clip cache."""

    checkpoint: int
    """One checkpoint."""
    run: int
    """Models and checkpoints that a whole run keeps at once."""
    archive: int
    """Traces at full length, before compression, of all stages whose counts are known."""
    unknown: tuple[str, ...]
    """Stages whose traces are not in it: their counts need the manifest."""
    clip: int | None
    """The largest clip in the clip cache; None: unknown without the model."""
    cache: int
    """Bound of each node's clip cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What one phase of a GRPO step sends through the busiest node's network, one way."""

    name: str
    link: str
    num_bytes: int
    """0 where it is arithmetic alone."""
    seconds: float
    remedy: str = ""
    """What makes it shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Share of a resource that is held all the time; above 1 it does not suffice."""

    name: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """Plan of a run on a given cluster (cluster/plan/fleet.py)."""

    nodes: int
    gpus_per_node: int
    gpus_unused: int
    network_gbit: float
    gpu_tflops: float
    engines: tuple[int, ...]
    """Engines on each node."""
    ranks: tuple[int, ...]
    """Learner ranks on each node."""
    shares: tuple[Share, ...]
    phases: tuple[Phase, ...]
    node_memory_bytes: int
    """Memory of the fullest node, beside the processes' own."""
    saturates: str


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
    disk: Disk | None
    """None: as for the memory."""
    fleet: FleetPlan | None
    """None: no cluster was named, or the model's sizes are not known."""
    notes: tuple[str, ...]
    """Files that are not here, and so not counted."""
    warnings: tuple[str, ...]
    """Settings that look wrong, but do not keep a run from starting."""
