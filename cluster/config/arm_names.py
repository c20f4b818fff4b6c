"""Names of the control arms, which no stage of a chain may have."""

from typing import Literal, get_args

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
