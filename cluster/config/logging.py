"""Config of a run's loggers, beside ``metrics.jsonl`` and TensorBoard, which are always written."""

from typing import Literal

from pydantic import Field

from wire.config import Config


class WandbConfig(Config):
    """Weights & Biases; needs ``pip install deepintuit[wandb]``."""

    project: str = Field(min_length=1)
    """Project that the run appears in."""
    entity: str | None = None
    """Team or user; none: your default."""
    name: str | None = None
    """Of the run; none: its directory's."""
    tags: tuple[str, ...] = ()
    """Shown beside the run."""
    mode: Literal["online", "offline"] = "online"
    """offline: into RUN/wandb, for ``wandb sync`` later. Without a network, online becomes that."""


class MlflowConfig(Config):
    """MLflow; needs ``pip install deepintuit[mlflow]``."""

    experiment: str = Field(min_length=1)
    """Experiment that the run appears in; made if it is not there."""
    tracking_uri: str | None = None
    """A server, or a folder as ``file:///...``; none: MLFLOW_TRACKING_URI."""
    name: str | None = None
    """Of the run; none: its directory's."""


class LoggingConfig(Config):
    """Loggers of a run's metrics. One that fails is dropped with a warning; the run goes on."""

    wandb: WandbConfig | None = None
    """Left out: not used."""
    mlflow: MlflowConfig | None = None
    """Left out: not used."""
    prometheus: bool = True
    """Export the main figures through Ray's metrics, on every node's own endpoint."""
    verl_names: bool = False
    """Write GRPO's figures under verl's names, too, for dashboards made for them."""
