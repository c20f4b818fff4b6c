"""Base of every kind of stage: its name, where it starts, and what it says about itself."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from cluster.config.stage_work import StageWork
from cluster.config.stages import num_updates
from cluster.config.validation import LABEL_METRICS, ValidateConfig, ValidatedConfig
from rollout.config import RolloutConfig
from wire.config import Config
from wire.errors import UserError
from wire.types import Sample

_LABELS = {  # in charts
    "base": "Base model",
    "coldstart": "Cold start",
    "grpo": "GRPO",
    "calibrated": "Calibrated verdict",
    "head": "Linear head",
    "classifier": "Published classifier",
}


class Stage(Config):
    """One stage of a chain."""

    command: ClassVar[str]
    """The command that runs the stages of this kind alone."""
    section: ClassVar[str]
    """The table of the recipe that gives what the stage does not set itself."""
    answer_metrics: ClassVar[tuple[str, ...]] = ()
    """Metrics of a validation by written answers, where it trains a policy that writes."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """What it is called in commands, metrics and the run directory."""
    kind: str
    """What it does; chooses this table."""
    from_: str | None = Field(default=None, alias="from")
    """The earlier stage whose policy it starts from, or "base", the recipe's model; not set: the
    last stage before it that leaves a policy."""
    title: str = ""
    """What tables and the report say of it; not set: its kind and settings."""

    @property
    def text(self) -> str:
        """A line about it for tables."""
        return self.title or self.describe()

    def describe(self) -> str:
        """Its kind and settings in words."""
        return self.kind

    @property
    def label(self) -> str:
        """Its name for charts."""
        return label_of(self.name)

    @property
    def leaves_policy(self) -> bool:
        """Whether a later stage can start from what it leaves."""
        return False

    @property
    def loads_engines(self) -> bool:
        """Whether the rollout engines must hold the weights that it starts from."""
        return True

    @property
    def asks_labels(self) -> bool:
        """Whether a model is asked for labels by their tokens."""
        return False

    @property
    def reads_features(self) -> bool:
        """Whether it reads the features of a vision tower, which then has to stay as it is."""
        return False

    @property
    def kept_checkpoints(self) -> int:
        """Checkpoints that it keeps at once."""
        return 0

    @property
    def validated(self) -> ValidateConfig:
        """How it is validated while it trains; off, if it trains nothing."""
        if isinstance(self, ValidatedConfig) and self.validation_metrics:
            return self.validation
        return ValidateConfig()

    @property
    def validation_metrics(self) -> tuple[str, ...]:
        """Metrics that its validations log, but those of reward parts; empty: it trains nothing."""
        return LABEL_METRICS if self.asks_labels else self.answer_metrics

    @property
    def num_versions(self) -> int:
        """Versions of the policy that it serves: the last is what it leaves, and of several the
        first is what it starts from."""
        return 0

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """What the manifest lacks for it."""
        yield from ()

    def work(self, samples: Sequence[Sample] | None, rollout: RolloutConfig) -> StageWork:
        """How much it does; ``samples``: the manifest's, None without it."""
        return StageWork()


def label_of(name: str) -> str:
    """Label in charts of a stage, a head or a published classifier."""
    return _LABELS.get(name, name.replace("_", " "))


def updates_of(examples: int | None, epochs: int, batch_size: int) -> int | None:
    """Number of updates of a supervised training; None without its examples."""
    return None if examples is None else num_updates(examples, epochs, batch_size)
