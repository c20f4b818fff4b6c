"""Settings of the reward: its terms, how they are joined into one, and how many may fail."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from reward.builtins.table import BUILTINS, read_params
from reward.spec import ENTRY_POINTS, FORMS, entry_points, is_plugin
from wire.config import Config
from wire.nearest import nearest

# Fields that say how a user's function is called: a built-in has no process of its own.
_PLUGIN_FIELDS = ("style", "completion_format", "concurrency", "memory_mb", "max_processes")


class RewardTerm(Config):
    """One part of the reward.

    Example:
        RewardTerm(function="rewards/brevity.py:compute_score", name="brevity", weight=0.1)
    """

    function: str
    """A built-in's name, ``path/to/file.py:function``, ``package.module:function``, or the name of
    an entry point in the group ``deepintuit.rewards``. A function has verl's or TRL's signature."""
    name: str | None = Field(default=None, pattern=r"^[^/\s]+$")
    """Under this name the raw value is archived and logged; none: the function's own name."""
    params: dict[str, Any] = Field(default={})
    """Keyword arguments for the function."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Factor of this term in the total reward; 0: logged, or a gate, and no more."""
    label_weights: dict[str, float] = Field(default={})
    """Further factor of this term on clips of that label. As all traces of a group have one label,
    it shifts the balance between terms; one factor on all terms cancels where advantages are
    divided by the group's deviation."""
    gated_by: str | None = None
    """Name of another term: where that gives 0 or less, this one counts as 0 in the total. (Both
    are logged raw.)"""
    timeout_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """A user function that takes longer over one call is killed, and that is a failure. One call:
    a trace (verl's signature), all traces of a group (TRL's, and verl's of lists)."""
    style: Literal["verl", "verl_batch", "trl"] | None = None
    """Whose signature a function has; none: its parameters say so. ``verl_batch``: that of verl's
    batch reward manager."""
    completion_format: Literal["text", "messages"] = "text"
    """What TRL's functions get as prompts and completions: text, or lists of chat messages."""
    concurrency: int = Field(default=1, ge=1, le=64)
    """Processes of this function: groups, and with verl's signature traces, are shared out."""
    memory_mb: int = Field(default=4096, ge=64)
    """Resident memory that one process and all that it started may hold together (pages that they
    share count in each); looked at every 0.1 s. More is a failure."""
    max_processes: int = Field(default=64, ge=1)
    """Processes that one process of this function may be, with all that it started."""

    @field_validator("function")
    @classmethod
    def _known_or_plugin(cls, function: str) -> str:
        if function in BUILTINS or is_plugin(function):
            return function
        known = {*BUILTINS, *entry_points()}
        if function not in known:
            raise ValueError(
                f"expected a built-in's name, {FORMS}, or an entry point of {ENTRY_POINTS!r}; "
                f"{nearest(function, sorted(known))}"
            )
        return function

    @model_validator(mode="after")
    def _fits_a_builtin(self) -> "RewardTerm":
        if not self.is_builtin:
            return self
        fields = type(self).model_fields
        for name in _PLUGIN_FIELDS:
            if getattr(self, name) != fields[name].default:
                raise ValueError(
                    f"{self.function!r} is built in and runs in the driver, so {name!r} does "
                    "nothing; leave it out"
                )
        read_params(self.function, self.params)
        return self

    @property
    def is_builtin(self) -> bool:
        """Whether it runs in the driver, not in processes of its own."""
        return self.function in BUILTINS

    @property
    def part(self) -> str:
        """Name of this term in ``Score.parts``, in metrics and as the culprit of its failures."""
        return self.name or self.function.rpartition(":")[2]


class RewardConfig(Config):
    """The reward of a trace: its terms joined to one number; DeepIntuit's two, added, by default.

    A term that does not apply to a trace (None) is left out of its total, and of the term's
    figures; a trace to which no term applies is masked.
    """

    terms: tuple[RewardTerm, ...] = Field(
        default=(RewardTerm(function="accuracy"), RewardTerm(function="format")), min_length=1
    )
    """Parts of the reward."""
    combine: Literal["sum", "product"] = "sum"
    """The total is the sum, or the product, of ``weight * value`` over the terms."""
    max_failure_frac: float = Field(default=0.2, ge=0, le=1)
    """Share of a step's traces whose scoring may fail before the run ends with TooManyFailures."""
    placement: Literal["driver", "spread"] = "driver"
    """Where the processes of user functions run: on the driver's node, or on every node that has
    workers or ranks of the run, ``concurrency`` processes of a function on each. Built-ins and
    judges stay in the driver; tools such as ``check`` and ``rescore`` run all beside
    themselves."""

    @property
    def is_spread(self) -> bool:
        """Whether there are user functions, and nodes share their calls."""
        return self.placement == "spread" and any(not term.is_builtin for term in self.terms)

    def only(self, term: RewardTerm) -> "RewardConfig":
        """This term alone and unweighted: the total is what its function says."""
        plain = {"weight": 1.0, "label_weights": {}, "gated_by": None}
        return self.model_copy(update={"terms": (term.model_copy(update=plain),), "combine": "sum"})

    @model_validator(mode="after")
    def _distinct(self) -> "RewardConfig":
        parts = [term.part for term in self.terms]
        twice = sorted({part for part in parts if parts.count(part) > 1})
        if twice:
            raise ValueError(
                f"reward terms are named {twice} more than once; give each its own name"
            )
        if not any(term.weight for term in self.terms):
            raise ValueError("every reward term has weight = 0, so nothing is paid; give one more")
        for term in self.terms:
            others = [part for part in parts if part != term.part]
            if term.gated_by is not None and term.gated_by not in others:
                raise ValueError(
                    f"term {term.part!r}: gated_by = {term.gated_by!r} is no other term; "
                    f"{nearest(term.gated_by, others)}"
                )
        return self
