"""A user's reward function: how it is named, how it is found, and which of two shapes it has.

    "file.py:f" | "package.module:f" | entry point -> import (in the child only) -> Plugin

A function needs no import of ours. Both known shapes are taken as they are, sync or async, and told
apart by the names of their parameters; the child calls them (reward/calls.py):

    def compute_score(data_source, solution_str, ground_truth, extra_info=None): ...   # verl
    def reward(prompts, completions, **columns): ...                                   # TRL
"""

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from wire.errors import ConfigError

ENTRY_POINTS = "deepintuit.rewards"
"""Group in which an installed package names its rewards."""
VERL_ARGUMENTS = ("data_source", "solution_str", "ground_truth", "extra_info")
TRL_ARGUMENTS = (
    *("prompts", "completions", "completion_ids"),
    *("trainer_state", "log_extra", "log_metric"),
)
LABEL_COLUMNS = ("label", "ground_truth", "solution")
"""Under these names a TRL function gets the label, where the manifest has no such column."""
FORMS = "path/to/file.py:function or package.module:function"
_FILE = re.compile(r"^(?P<path>.+\.py):(?P<function>[A-Za-z_]\w*)$")
_MODULE = re.compile(r"^(?P<module>[A-Za-z_]\w*(?:\.\w+)*):(?P<function>[A-Za-z_]\w*(?:\.\w+)*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a loaded function takes, as the child tells it to the driver.

    Example:
        Signature(style="verl", is_async=False, takes_any=False, names=("solution_str",),
                  required=("solution_str",))
    """

    style: str
    is_async: bool
    takes_any: bool
    names: tuple[str, ...]
    required: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A loaded function and how to call it.

    Example:
        Plugin(function=compute_score, style="verl", is_async=False, params={},
               names=frozenset({"solution_str"}), required=frozenset({"solution_str"}),
               takes_any=False, as_messages=False)
    """

    function: Callable[..., Any]
    style: str
    """``verl``: once per trace; ``trl``: once per group."""
    is_async: bool
    params: Mapping[str, Any]
    """Keyword arguments from the recipe; they win over manifest columns of the same name."""
    names: frozenset[str]
    """Parameters that it names."""
    required: frozenset[str]
    """Those without a default."""
    takes_any: bool
    """Whether it has ``**kwargs``."""
    as_messages: bool
    """TRL's: prompts and completions as chat messages, not as text."""

    @property
    def wants_ids(self) -> bool:
        """Whether token ids have to be sent to it."""
        return self.style == "trl" and (self.takes_any or "completion_ids" in self.names)


def is_plugin(spec: str) -> bool:
    """Whether ``spec`` names a file or module and a function."""
    return bool(_FILE.match(spec) or _MODULE.match(spec))


def entry_points() -> dict[str, str]:
    """Rewards that installed packages offer: name -> ``package.module:function``."""
    from importlib import metadata  # not needed in the child, and not free

    found = metadata.entry_points(group=ENTRY_POINTS)
    return {entry.name: f"{entry.module}:{entry.attr}" for entry in found}


def nearest(name: str, known: Collection[str]) -> str:
    """`` Did you mean 'x'?`` or what else there is: the end of an error message."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return (
        f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"
    )


def locate(spec: str) -> str:
    """What the child is to load: an absolute file, or a module, with the function. Imports nothing.

    Raises ConfigError if the form is wrong, or there is no such file or entry point.
    """
    file = _FILE.match(spec)
    if file is None:
        if _MODULE.match(spec):
            return spec
        offered = entry_points()
        if spec in offered:
            return offered[spec]
        raise ConfigError(
            f"reward {spec!r}: expected {FORMS}, or an entry point of {ENTRY_POINTS!r}; "
            f"{nearest(spec, offered)}"
        )
    path = Path(file["path"]).expanduser().resolve()
    if not path.is_file():
        there = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ConfigError(
            f"reward {spec!r}: there is no file {path}; give its path from the working folder; "
            f"{nearest(path.name, there)}"
        )
    return f"{path}:{file['function']}"


def file_of(spec: str) -> Path | None:
    """The file that ``spec`` names; None for a module or an entry point."""
    file = _FILE.match(spec)
    return Path(locate(spec).rpartition(":")[0]) if file else None


def load(
    spec: str,
    *,
    params: Mapping[str, Any] | None = None,
    style: str | None = None,
    as_messages: bool = False,
    columns: Collection[str] | None = None,
) -> Plugin:
    """Import the function and read its signature. Runs user code: only ever called in the child.

    ``columns``: the manifest's further columns, None if unknown. Raises ConfigError if it cannot be
    imported, is missing or not callable, or its parameters fit neither shape, both, or nothing that
    there is to give.
    """
    file = _FILE.match(spec)
    module = _import_file(spec, Path(file["path"])) if file else _import_module(spec)
    function: Any = module
    name = spec.rpartition(":")[2]
    for attribute in name.split("."):
        if not hasattr(function, attribute):
            known = [n for n, v in vars(module).items() if inspect.isfunction(v)]
            raise ConfigError(
                f"reward {spec!r}: {module.__name__ if not file else file['path']} has no "
                f"{attribute!r}; its functions: {known}; {nearest(attribute, known)}"
            )
        function = getattr(function, attribute)
    if not callable(function):
        kind = type(function).__name__
        raise ConfigError(f"reward {spec!r}: {name!r} is a {kind}, not a function; name a function")
    plugin = _read_signature(spec, function, params or {}, style, as_messages)
    if columns is not None and (lacking := missing(plugin, columns)):
        raise ConfigError(
            f"reward {spec!r} needs {lacking}, which is neither an argument of {plugin.style}'s "
            f"functions, nor in params, nor a column of the manifest ({sorted(columns)}); give it "
            "a default, or put it in params"
        )
    return plugin


def missing(plugin: Plugin, columns: Collection[str]) -> list[str]:
    """Parameters without a default that nobody will give."""
    trl = (*TRL_ARGUMENTS, *LABEL_COLUMNS)
    arguments = VERL_ARGUMENTS if plugin.style == "verl" else trl
    return sorted(plugin.required - {*arguments, *plugin.params, *columns})


def _import_file(spec: str, path: Path) -> ModuleType:
    module_spec = importlib.util.spec_from_file_location(f"reward_plugin_{path.stem}", path)
    assert module_spec is not None, f"{path} ends in .py"
    assert module_spec.loader is not None, f"{path} ends in .py"
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and pickle look a module up by its name
    try:
        module_spec.loader.exec_module(module)
    except BaseException as error:  # other people's code, sys.exit included
        raise _not_imported(spec, str(path), error) from error
    return module


def _import_module(spec: str) -> ModuleType:
    match = _MODULE.match(spec)
    assert match is not None, f"{spec} has been located"
    try:
        return importlib.import_module(match["module"])
    except BaseException as error:  # other people's code, sys.exit included
        raise _not_imported(spec, match["module"], error) from error


def _not_imported(spec: str, what: str, error: BaseException) -> ConfigError:
    last = "".join(traceback.format_exception(error, limit=-3))[-1500:]
    return ConfigError(f"reward {spec!r}: importing {what} raised {error!r}; mend it:\n{last}")


def _read_signature(
    spec: str,
    function: Callable[..., Any],
    params: Mapping[str, Any],
    style: str | None,
    as_messages: bool,
) -> Plugin:
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
    names = frozenset(p.name for p in named)
    takes_any = any(p.kind is kinds.VAR_KEYWORD for p in parameters)
    unknown = [] if takes_any else sorted(params.keys() - names)
    if unknown:
        raise ConfigError(
            f"reward {spec!r}: params has {unknown[0]!r}, which the function does not take; "
            f"{nearest(unknown[0], names - {*VERL_ARGUMENTS, *TRL_ARGUMENTS})}"
        )
    return Plugin(
        function=function,
        style=style or _style_of(spec, names),
        is_async=inspect.iscoroutinefunction(function)
        or inspect.iscoroutinefunction(getattr(function, "__call__", None)),  # noqa: B004
        params=params,
        names=names,
        required=frozenset(p.name for p in named if p.default is kinds.empty),
        takes_any=takes_any,
        as_messages=as_messages,
    )


def _style_of(spec: str, names: frozenset[str]) -> str:
    """``solution_str`` is verl's alone and ``completions`` TRL's; ``ground_truth`` may be a column.

    Raises ConfigError if the names fit both or neither.
    """
    verl, trl = "solution_str" in names, "completions" in names
    if not verl and not trl:  # less telling names
        verl = bool(names & {"data_source", "extra_info"})
        trl = bool(names & {"prompts", "completion_ids", "trainer_state"})
    if verl != trl:
        return "verl" if verl else "trl"
    got = f"def {spec.rpartition(':')[2]}({', '.join(sorted(names))})"
    raise ConfigError(
        f"reward {spec!r}: {got} has a wrong signature: it could be called in "
        f"{'both ways' if verl else 'no known way'}; expected verl's ({', '.join(VERL_ARGUMENTS)}) "
        'or TRL\'s (prompts, completions, **columns), or say which with style = "verl" | "trl" '
        "in its term"
    )
