"""Signature of a user's reward function: which of three shapes it has, and what it takes.

    function -> its parameters' names -> Signature

verl's is called once per trace, that of verl's batch reward manager and TRL's once per group; they
are told apart by names that only one of them has.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from wire.errors import ConfigError

VERL_ARGUMENTS = ("data_source", "solution_str", "ground_truth", "extra_info")
VERL_BATCH_ARGUMENTS = ("data_sources", "solution_strs", "ground_truths", "extra_infos")
TRL_ARGUMENTS = (
    *("prompts", "completions", "completion_ids"),
    *("trainer_state", "log_extra", "log_metric"),
)
LABEL_COLUMNS = ("label", "ground_truth", "solution")
"""Names of arguments that give a TRL function the label, where the manifest has no such column."""

_OWN = {
    "verl": VERL_ARGUMENTS,
    "verl_batch": VERL_BATCH_ARGUMENTS,
    "trl": (*TRL_ARGUMENTS, *LABEL_COLUMNS),
}
TELLING: Mapping[str, tuple[str, ...]] = {
    "verl": ("solution_str", "data_source", "extra_info"),
    "verl_batch": ("solution_strs", "data_sources", "extra_infos", "ground_truths"),
    "trl": ("completions", "prompts", "completion_ids", "trainer_state"),
}
"""Style -> names of parameters that tell it, the most telling first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Signature of a loaded function, which the child sends to the driver.

    Example:
        Signature(style="verl", is_async=False, takes_any=False, names=("solution_str",),
                  required=("solution_str",))
    """

    style: str
    """``verl``: once per trace; ``verl_batch``, ``trl``: once per group."""
    is_async: bool
    takes_any: bool
    """Whether it has ``**kwargs``."""
    names: tuple[str, ...]
    """Names of its parameters, sorted."""
    required: tuple[str, ...]
    """Names of parameters without a default."""

    @property
    def own(self) -> tuple[str, ...]:
        """Arguments that every function of its shape may take."""
        return _OWN[self.style]

    @property
    def is_batched(self) -> bool:
        """Whether the function is called once per group, with lists."""
        return self.style != "verl"

    @property
    def wants_ids(self) -> bool:
        """Whether token ids have to be sent to the function."""
        return self.style == "trl" and self.takes("completion_ids")

    def takes(self, name: str) -> bool:
        """Whether the function takes that argument."""
        return self.takes_any or name in self.names

    def missing(self, given: Collection[str]) -> list[str]:
        """Required parameters that nothing fills; ``given``: params and columns."""
        return sorted(set(self.required) - {*self.own, *given})


def read_signature(spec: str, function: Callable[..., Any], style: str | None) -> Signature:
    """The signature of a function. ``style``: what the recipe says. Raises ConfigError if the
    parameters fit neither shape, or both, or could never hold a trace."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"reward {spec!r} has no signature to read ({error})") from error
    kinds = inspect.Parameter
    if unnamed := [p.name for p in parameters if p.kind is kinds.POSITIONAL_ONLY]:
        raise ConfigError(
            f"reward {spec!r} takes {unnamed} by position only, but is called by keyword; take "
            "the '/' out of its signature"
        )
    named = [p for p in parameters if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)]
    names = tuple(sorted(p.name for p in named))
    takes_any = any(p.kind is kinds.VAR_KEYWORD for p in parameters)
    if not names and not takes_any:
        raise ConfigError(
            f"reward {spec!r} takes nothing by keyword, and so would never see a trace; give it "
            f"verl's arguments ({', '.join(VERL_ARGUMENTS)}) or TRL's (prompts, completions)"
        )
    return Signature(
        style=style or _style_of(spec, names),
        is_async=inspect.iscoroutinefunction(function)
        or inspect.iscoroutinefunction(getattr(function, "__call__", None)),  # noqa: B004
        takes_any=takes_any,
        names=names,
        required=tuple(sorted(p.name for p in named if p.default is kinds.empty)),
    )


def _style_of(spec: str, names: Collection[str]) -> str:
    """Shape of a function: ``solution_str`` is verl's alone, ``solution_strs`` that of verl's batch
    manager, ``completions`` TRL's; ``ground_truth`` may be a column.

    Raises ConfigError if the names fit several or none.
    """
    fitting = [style for style, telling in TELLING.items() if telling[0] in names]
    if not fitting:  # less telling names
        fitting = [style for style, telling in TELLING.items() if set(telling) & set(names)]
    if len(fitting) == 1:
        return fitting[0]
    got = f"def {spec.rpartition(':')[2]}({', '.join(names)})"
    raise ConfigError(
        f"reward {spec!r}: {got} has a wrong signature: it could be called in "
        f"{f'{len(fitting)} ways' if fitting else 'no known way'}; expected verl's "
        f"({', '.join(VERL_ARGUMENTS)}), that of its batch manager "
        f"({', '.join(VERL_BATCH_ARGUMENTS)}) or TRL's (prompts, completions, **columns), or say "
        'which with style = "verl" | "verl_batch" | "trl" in its term'
    )
