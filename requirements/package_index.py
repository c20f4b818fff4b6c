"""Where packages come from: pip's configuration, handed on to uv; for CPU torch also PyTorch.

    pip config list -> settings -> the flags that `pip install` and `uv pip install` share

uv installs this environment several times faster than pip but does not read pip's configuration.
Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

_FLAGS = ("index-url", "extra-index-url", "find-links", "trusted-host", "no-index")
_ENVIRONMENT = {"cert": "SSL_CERT_FILE", "default-timeout": "UV_HTTP_TIMEOUT", "proxy": "ALL_PROXY"}
_WEAKEST_FIRST = ("global", "install", ":env:")


def pip_settings(listing: str) -> dict[str, str]:
    """What `pip config list` printed -> the value that `pip install` would use for each option."""
    found: dict[str, dict[str, str]] = {level: {} for level in _WEAKEST_FIRST}
    for level, option, value in re.findall(r"^([^.=]+)\.([^=]+)=(.*)$", listing, re.MULTILINE):
        if level in found:
            found[level][option] = str(ast.literal_eval(value))
    settings: dict[str, str] = {}
    for level in _WEAKEST_FIRST:
        settings.update(found[level])
    return settings


def index_flags(settings: dict[str, str]) -> list[str]:
    """Flags that make uv look where pip would look."""
    # pip takes the best version of all indexes; uv, unless told, stops at the first that has any.
    flags = ["--index-strategy=unsafe-best-match"]
    for option in _FLAGS:
        values = settings.get(option, "").split()
        if option == "no-index":
            flags += ["--no-index"] if values and values[0].lower() in ("1", "true", "yes") else []
        else:
            flags += [f"--{option}={value}" for value in values]
    return flags


def uv_environment(settings: dict[str, str]) -> dict[str, str]:
    """What uv reads from the environment where pip has an option."""
    return {name: settings[option] for option, name in _ENVIRONMENT.items() if settings.get(option)}


def torch_flags(is_offered: bool, device: str) -> list[str]:
    """Flags for installing torch: PyTorch's CPU index, where no configured one has the build."""
    return [] if is_offered or device == "cuda" else [f"--index-url={PYTORCH_CPU_INDEX}"]


def pinned(lock: Path) -> dict[str, str]:
    """A lock file -> the version of each package."""
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.replace("===", "==").split("==") for line in lines)
