"""A user's reward function: found by ``path/to/file.py:function``, checked before it is asked.

    "file.py:function" -> file imported -> callable with verl's four keyword arguments

The function is verl's and needs no import of ours:

    def compute_score(data_source, solution_str, ground_truth, extra_info=None):
        return 1.0                                # or {"score": 1.0, ...}
"""

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wire.errors import ConfigError

ARGUMENTS = ("data_source", "solution_str", "ground_truth", "extra_info")
_SPEC = re.compile(r"^(?P<path>.+\.py):(?P<function>[A-Za-z_]\w*)$")


def is_plugin(spec: str) -> bool:
    """Whether ``spec`` has the form ``path/to/file.py:function``."""
    return _SPEC.match(spec) is not None


def locate(spec: str) -> tuple[Path, str]:
    """The absolute path of the file and the name of the function; imports nothing.

    Raises ConfigError if the form is wrong or there is no such file.
    """
    match = _SPEC.match(spec)
    if match is None:
        raise ConfigError(f"reward {spec!r}: expected path/to/file.py:function")
    path = Path(match["path"]).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(
            f"reward {spec!r}: there is no file {path}; give its path from the working folder"
        )
    return path, match["function"]


def load(spec: str) -> Callable[..., Any]:
    """Import the file and return its function. Runs user code: only ever called in the child
    process.

    Raises ConfigError if the file cannot be imported, or the function is missing, not callable,
    asynchronous, or does not take verl's arguments by name.
    """
    path, name = locate(spec)
    module_spec = importlib.util.spec_from_file_location(f"reward_plugin_{path.stem}", path)
    assert module_spec is not None, f"{path} ends in .py"
    assert module_spec.loader is not None, f"{path} ends in .py"
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and pickle look a module up by its name
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # other people's code
        raise ConfigError(
            f"reward {spec!r}: importing {path} raised {error!r}; mend the file"
        ) from error
    if not hasattr(module, name):
        known = [n for n, v in vars(module).items() if inspect.isfunction(v)]
        raise ConfigError(f"reward {spec!r}: {path} has no {name!r}; its functions: {known}")
    function = getattr(module, name)
    if not callable(function):
        kind = type(function).__name__
        raise ConfigError(f"reward {spec!r}: {name!r} is a {kind}, not a function; name a function")
    _check_signature(spec, function)
    return function  # type: ignore[no-any-return]  # callable() says so


def _check_signature(spec: str, function: Callable[..., Any]) -> None:
    expected = (
        f"def {spec.rpartition(':')[2]}(data_source, solution_str, ground_truth, extra_info=None)"
    )
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"reward {spec!r} is async; expected a plain function: {expected}")
    try:
        signature = inspect.signature(function)
        signature.bind(**dict.fromkeys(ARGUMENTS))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"reward {spec!r} has the wrong signature ({error}); expected {expected}"
        ) from error
