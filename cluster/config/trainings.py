"""Trainings that a resume can make longer: length, unit, optimiser and schedule of a stage's.

a stage's declaration -> Training, or None for a stage that trains nothing
"""

from dataclasses import dataclass
from typing import Literal

from calibrate.config import CalibrateConfig
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.sft import SftStage
from cluster.config.kinds.stage import Stage
from learner.config import OptimConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Training of a stage.

    Example:
        Training(length=240, unit="steps", optim=OptimConfig(learning_rate=1e-6))
    """

    length: int
    """Steps or epochs that the recipe asks for."""
    unit: Literal["steps", "epochs"]
    optim: OptimConfig

    @property
    def curve(self) -> tuple[OptimConfig, int | None]:
        """All that the learning rate of an update follows from."""
        return self.optim, self.length if self.optim.follows_length else None


def training_of(stage: Stage | None) -> Training | None:
    """The training of a stage; None: it trains nothing that could go on."""
    if isinstance(stage, GrpoStage):
        return Training(length=stage.num_steps, unit="steps", optim=stage.optim)
    if isinstance(stage, SftStage):
        return Training(length=stage.epochs, unit="epochs", optim=stage.optim)
    if isinstance(stage, CalibrateStage) and "verdict" in stage.methods:
        return Training(length=stage.epochs, unit="epochs", optim=verdict_optim(stage))
    return None


def verdict_optim(config: CalibrateConfig) -> OptimConfig:
    """Optimiser and schedule of a verdict's fine-tuning."""
    return OptimConfig(
        learning_rate=config.learning_rate,
        warmup_frac=config.warmup_frac,
        decay="linear",
        weight_decay=0.0,
    )
