"""Work of a stage in numbers, for plans."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWork:
    """The work of a stage in numbers; None: unknown without the manifest.

    Example:
        StageWork(clips=600, epochs=3.2, groups=1920, rollouts=15360, examples=15360, updates=60)
    """

    clips: int | None = 0
    """Clips that it learns from."""
    epochs: float | None = 0
    """Passes over the clips in GRPO, over the examples elsewhere."""
    groups: int | None = 0
    """Prompts that the engines answer to learn from."""
    rollouts: int | None = 0
    """Traces that they write to these prompts."""
    max_length: int | None = None
    """Most tokens of one; None: ``rollout.max_response_length``."""
    examples: int | None = 0
    """Traces or labels that the learner learns from, each counted once."""
    updates: int | None = 0
    """Optimiser updates."""
    steps: int = 0
    """Steps of GRPO: after each one the engines get new weights."""
    saves: int = 0
    """Checkpoints written in these steps."""
    validations: int | None = 0
    """Validations while it trains."""
