"""Settings of the control arms."""

from typing import Literal, get_args

from pydantic import Field

from cluster.config.stages import TrainedConfig
from learner.config import OptimConfig
from wire.config import Config

ArmName = Literal[
    "coldstart_val",
    "rejection",
    "coldstart_2x",
    "policy_probability",
    "vote",
    "trace_accuracy",
    "blank",
    "shuffled",
    "verdict_teacher",
    "verdict_train",
    "video_only_1x",
    "video_only_3x",
    "video_only_10x",
    "verdict_blank",
    "verdict_shuffled",
    "grpo_more",
]

ARMS: tuple[ArmName, ...] = get_args(ArmName)
"""Control arms in the order in which they run: engines change their weights least so."""


class RejectionConfig(TrainedConfig):
    """Fine-tuning on the cold start's own traces that earned the full reward."""

    epochs: int = Field(default=3, ge=1)
    """Passes over the traces kept."""
    batch_size: int = Field(default=64, ge=1)
    """Traces per update, over all ranks."""
    optim: OptimConfig = OptimConfig(learning_rate=2e-5, decay="linear")
    """As the cold start's."""


class ControlsConfig(Config):
    """Control arms: measurements beside the stages, by ``deepintuit controls``."""

    arms: tuple[ArmName, ...] = ARMS
    """Those to run; none of them changes what the stages left."""
    num_votes: int = Field(default=8, ge=1)
    """Traces per clip of the majority vote, at ``rollout.temperature``."""
    rejection: RejectionConfig = RejectionConfig()
    """Rejection sampling; it writes as many traces as GRPO."""
