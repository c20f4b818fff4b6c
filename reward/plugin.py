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
_NAMES = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_FILE = re.compile(rf"^(?P<path>.+\.py):(?P<function>{_NAMES})$")
_MODULE = re.compile(rf"^(?P<module>{_NAMES}):(?P<function>{_NAMES})$")
_OF_THE_TRACE = frozenset(
    ("solution_str", "ground_truth", "prompts", "completions", "completion_ids")
)
"""What params must not replace: every trace would be judged as if it were the same."""
_MACHINERY = frozenset(
    (
        *("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"),
        *(__file__, importlib.__file__),
    )
)
_OURS = ("calibrate", "cluster", "learner", "reward", "rollout", "video", "wire")


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
    """Rewards that installed packages offer: name -> ``package.module:function``; where packages
    disagree, all that they say."""
    from importlib import metadata  # not needed in the child, and not free

    found: dict[str, set[str]] = {}
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        found.setdefault(entry.name, set()).add(entry.value.partition("[")[0].strip())
    return {name: " and ".join(sorted(values)) for name, values in found.items()}


def _offered(name: str, value: str) -> str:
    if not _MODULE.match(value):
        raise ConfigError(
            f"reward {name!r}: the entry point says {value}, expected one package.module:function; "
            "name the function like that in the recipe, or mend the package that offers it"
        )
    return value


def nearest(name: str, known: Collection[str]) -> str:
    """`` Did you mean 'x'?`` or what else there is: the end of an error message."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return (
        f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"
    )


def module_file(spec: str) -> Path | None:
    """The file of a module that ``spec`` names, itself or by its entry point, where it is found as
    source below the working folder or the Python path. Imports nothing."""
    match = _MODULE.match(locate(spec))
    if match is None:
        return None
    parts = match["module"].split(".")
    for folder in (*filter(None, sys.path), "."):
        whole = Path(folder, *parts)
        for file in (whole / "__init__.py", whole.with_name(f"{parts[-1]}.py")):
            if file.is_file():
                return file
    return None


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
            return _offered(spec, offered[spec])
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
    if inspect.isclass(function):
        raise ConfigError(
            f"reward {spec!r}: {name!r} is a class, expected a function; make an instance of it in "
            "the file (judge = Judge()), and name that"
        )
    plugin = _read_signature(spec, function, params or {}, style, as_messages)
    if as_messages and plugin.style == "verl":
        raise ConfigError(
            f'reward {spec!r}: completion_format = "messages" is for functions of TRL\'s '
            "shape, and this one has verl's, which takes text; leave it out"
        )
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
    sys.path.append(str(path.parent))  # for the files beside it; last, so it stands in for none
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
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [it for it in frames if it.filename not in _MACHINERY][-3:]
    lines = [*traceback.format_list(theirs), *traceback.format_exception_only(error)]
    last = "".join(lines)[-1500:].rstrip()
    return ConfigError(
        f"reward {spec!r}: importing {what} raised {error!r}; {_way_out(error)}:\n{last}"
    )


def _way_out(error: BaseException) -> str:
    name = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    if name.partition(".")[0] in _OURS:
        return f"{name.partition('.')[0]} is a package of deepintuit, rename yours"
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "import the file beside it by its plain name, without the dot"
    return "mend it"


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
    if not names and not takes_any:
        raise ConfigError(
            f"reward {spec!r} takes nothing by keyword, and so would never see a trace; give it "
            f"verl's arguments ({', '.join(VERL_ARGUMENTS)}) or TRL's (prompts, completions)"
        )
    if fixed := sorted(params.keys() & _OF_THE_TRACE):
        raise ConfigError(
            f"reward {spec!r}: params has {fixed[0]!r}, which each trace fills; take it out of "
            "params"
        )
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
