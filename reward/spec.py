"""Names of user reward functions, and where their code is. Imports nothing of the user's.

"file.py:f" | "package.module:f" | entry point -> locate -> what the child is to load
"""

import re
import sys
from pathlib import Path

from wire.errors import ConfigError
from wire.nearest import nearest

ENTRY_POINTS = "deepintuit.rewards"
"""Entry-point group in which an installed package names its rewards."""
FORMS = "path/to/file.py:function or package.module:function"
_NAMES = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
FILE = re.compile(rf"^(?P<path>.+\.py):(?P<function>{_NAMES})$")
MODULE = re.compile(rf"^(?P<module>{_NAMES}):(?P<function>{_NAMES})$")


def is_plugin(spec: str) -> bool:
    """Whether ``spec`` names a file or module and a function."""
    return bool(FILE.match(spec) or MODULE.match(spec))


def entry_points() -> dict[str, str]:
    """Rewards that installed packages offer: name -> ``package.module:function``; where packages
    disagree, all their values."""
    from importlib import metadata  # not needed in the child, and not free

    modules: dict[str, set[str]] = {}
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        modules.setdefault(entry.name, set()).add(entry.value.partition("[")[0].strip())
    return {name: " and ".join(sorted(values)) for name, values in modules.items()}


def _offered(name: str, value: str) -> str:
    if not MODULE.match(value):
        raise ConfigError(
            f"reward {name!r}: the entry point says {value}, expected one package.module:function; "
            "name the function like that in the recipe, or mend the package that offers it"
        )
    return value


def locate(spec: str) -> str:
    """Location of a function for the child: an absolute file, or a module, with the function's
    name.

    Raises ConfigError if the form is wrong, or there is no such file or entry point.
    """
    file = FILE.match(spec)
    if file is None:
        if MODULE.match(spec):
            return spec
        offered = entry_points()
        if spec in offered:
            return _offered(spec, offered[spec])
        raise ConfigError(
            f"reward {spec!r}: expected {FORMS}, or an entry point of {ENTRY_POINTS!r}; "
            f"{nearest(spec, sorted(offered))}"
        )
    path = Path(file["path"]).expanduser().resolve()
    if not path.is_file():
        there = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ConfigError(
            f"reward {spec!r}: there is no file {path}; give its path from the working folder; "
            f"{nearest(path.name, sorted(there))}"
        )
    return f"{path}:{file['function']}"


def source_of(spec: str) -> Path | None:
    """The source file of a function: the file that ``spec`` names, or that of its module, itself or
    by its entry point, where it is found below the working folder or the Python path; else None."""
    located = locate(spec)
    if file := FILE.match(located):
        return Path(file["path"])
    parts = located.partition(":")[0].split(".")
    for folder in (*filter(None, sys.path), "."):
        whole = Path(folder, *parts)
        for path in (whole / "__init__.py", whole.with_name(f"{parts[-1]}.py")):
            if path.is_file():
                return path
    return None
