"""A user's reward function, loaded in the child: its import, and errors that say what is wrong.

    what locate found (reward/spec.py) -> import -> Signature (signature.py) -> Plugin

A function needs no import of ours. All known shapes are taken as they are, sync or async, and told
apart by the names of their parameters; the child calls them (reward/plugins/calls.py):

    def compute_score(data_source, solution_str, ground_truth, extra_info=None): ...   # verl
    def compute_score(data_sources, solution_strs, ground_truths, extra_infos): ...    # verl, batch
    def reward(prompts, completions, **columns): ...                                   # TRL
"""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from reward.plugins.signature import (
    TRL_ARGUMENTS,
    VERL_ARGUMENTS,
    VERL_BATCH_ARGUMENTS,
    Signature,
    read_signature,
)
from reward.spec import FILE, MODULE
from wire.errors import ConfigError
from wire.nearest import nearest

_OF_THE_TRACE = frozenset(
    (
        *("solution_str", "ground_truth", "solution_strs", "ground_truths", "extra_infos"),
        *("prompts", "completions", "completion_ids"),
    )
)
"""Arguments that params must not replace: every trace would be scored as if it were the same."""
_MACHINERY = frozenset(
    (
        *("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"),
        *(__file__, importlib.__file__),
    )
)
_OURS = ("calibrate", "cluster", "learner", "reward", "rollout", "video", "wire")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A loaded function and how to call it.

    Example:
        Plugin(function=compute_score, signature=Signature(...), params={}, as_messages=False)
    """

    function: Callable[..., Any]
    signature: Signature
    params: Mapping[str, Any]
    """Keyword arguments from the recipe; they win over manifest columns of the same name."""
    as_messages: bool
    """For TRL functions: prompts and completions as chat messages, not as text."""

    def missing(self, columns: Collection[str]) -> list[str]:
        """Required parameters that neither params nor these columns fill."""
        return self.signature.missing([*self.params, *columns])


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
    function = _import(spec)
    signature = read_signature(spec, function, style)
    params = params or {}
    _check_params(spec, signature, params)
    if as_messages and signature.style != "trl":
        raise ConfigError(
            f'reward {spec!r}: completion_format = "messages" is for functions of TRL\'s '
            "shape, and this one has verl's, which takes text; leave it out"
        )
    plugin = Plugin(function=function, signature=signature, params=params, as_messages=as_messages)
    if columns is not None and (lacking := plugin.missing(columns)):
        raise ConfigError(
            f"reward {spec!r} needs {lacking}, which is neither an argument of {signature.style}'s "
            f"functions, nor in params, nor a column of the manifest ({sorted(columns)}); give it "
            "a default, or put it in params"
        )
    return plugin


def _check_params(spec: str, signature: Signature, params: Mapping[str, Any]) -> None:
    if fixed := sorted(params.keys() & _OF_THE_TRACE):
        raise ConfigError(
            f"reward {spec!r}: params has {fixed[0]!r}, which each trace fills; take it out of "
            "params"
        )
    unknown = sorted(name for name in params if not signature.takes(name))
    if unknown:
        free = sorted(
            set(signature.names) - {*VERL_ARGUMENTS, *VERL_BATCH_ARGUMENTS, *TRL_ARGUMENTS}
        )
        raise ConfigError(
            f"reward {spec!r}: params has {unknown[0]!r}, which the function does not take; "
            f"{nearest(unknown[0], free)}"
        )


def _import(spec: str) -> Callable[..., Any]:
    """Import a function. Raises ConfigError if it cannot be imported, is missing, or no
    function."""
    file = FILE.match(spec)
    module = _import_file(spec, Path(file["path"])) if file else _import_module(spec)
    function: Any = module
    name = spec.rpartition(":")[2]
    for attribute in name.split("."):
        if not hasattr(function, attribute):
            known = [n for n, v in vars(module).items() if inspect.isfunction(v)]
            raise ConfigError(
                f"reward {spec!r}: {module.__name__ if not file else file['path']} has no "
                f"{attribute!r}; {nearest(attribute, known, 'its functions')}"
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
    imported: Callable[..., Any] = function
    return imported


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
    match = MODULE.match(spec)
    assert match is not None, f"{spec} has been located"
    try:
        return importlib.import_module(match["module"])
    except BaseException as error:  # other people's code, sys.exit included
        raise _not_imported(spec, match["module"], error) from error


def _not_imported(spec: str, what: str, error: BaseException) -> ConfigError:
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename not in _MACHINERY][-3:]
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
