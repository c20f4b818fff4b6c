"""Config of the guards that end a training which learns nothing."""

from pydantic import Field

from wire.config import Config


class GuardsConfig(Config):
    """Limits beyond which a training that learns nothing ends with an error. Each sign is warned of
    with its remedy before that (docs/troubleshooting.md)."""

    max_skipped_frac: float = Field(default=0.5, ge=0, le=1)
    """Share of a stage's updates that may be left out because their gradient is not finite (NaN,
    infinity). 1: any."""
    max_skipped_in_a_row: int = Field(default=10, ge=0)
    """Such updates one after another; 0: any number."""
    max_zero_gradients_in_a_row: int = Field(default=20, ge=0)
    """Updates one after another whose gradient is exactly 0; 0: any number. In GRPO those of groups
    without signal do not count."""
    max_steps_without_signal: int = Field(default=50, ge=0)
    """GRPO: steps one after another that teach nothing, because no group has signal (the traces of
    each clip earn the same), or because all traces are one text; 0: any number."""
