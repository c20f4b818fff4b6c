"""Which rewards judge a trace, with what weight, and how many may fail."""

from pydantic import Field, field_validator, model_validator

from reward.plugin import is_plugin
from wire.config import Config

BUILTIN_NAMES = ("accuracy", "format")


class RewardTerm(Config):
    """One summand of the reward.

    Example:
        RewardTerm(function="rewards/brevity.py:compute_score", name="brevity", weight=0.1)
    """

    function: str
    """``accuracy``, ``format``, or ``path/to/file.py:function`` with verl's signature."""
    name: str | None = Field(default=None, pattern=r"^[^/\s]+$")
    """Under this name the raw value is archived and logged; none: the function's own name."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Factor of this term in the total reward."""
    timeout_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """A user function that takes longer over one trace is killed, and the trace is a failure."""

    @field_validator("function")
    @classmethod
    def _known_or_plugin(cls, function: str) -> str:
        if function not in BUILTIN_NAMES and not is_plugin(function):
            raise ValueError(
                f"expected one of {', '.join(BUILTIN_NAMES)}, or path/to/file.py:function; "
                "for a function of yours, name its file and the function"
            )
        return function

    @property
    def part(self) -> str:
        """Name of this term in ``Score.parts``, in metrics and as the culprit of its failures."""
        return self.name or self.function.rpartition(":")[2]


class RewardConfig(Config):
    """The reward of a trace: the weighted sum of its terms; DeepIntuit's two by default."""

    terms: tuple[RewardTerm, ...] = Field(
        default=(RewardTerm(function="accuracy"), RewardTerm(function="format")), min_length=1
    )
    """Summands of the reward."""
    max_failure_frac: float = Field(default=0.2, ge=0, le=1)
    """Share of a step's traces whose scoring may fail before the run ends with TooManyFailures."""

    @model_validator(mode="after")
    def _distinct(self) -> "RewardConfig":
        parts = [term.part for term in self.terms]
        twice = sorted({part for part in parts if parts.count(part) > 1})
        if twice:
            raise ValueError(
                f"reward terms are named {twice} more than once; give each its own name"
            )
        return self
