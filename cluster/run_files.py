"""Files of a run directory, read without opening the run."""

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.config.chain import Chain, read_chain
from cluster.config.controls import read_titles
from wire.config import validate
from wire.errors import ConfigError, DataError
from wire.labels import LabelSet
from wire.strict_json import from_json

SILENT_S = 60.0
"""Seconds without a heartbeat after which a process on another machine counts as dead."""


def read_result(path: Path, stage: str) -> dict[str, Any] | None:
    """Result of a stage of the run in ``path``, as ``RunDir.result``; takes no lock."""
    file = path / "stages" / stage / "done.json"
    return from_json(file.read_text()) if file.exists() else None


def result_figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """The figures in what a stage or arm left (done.json): of its answers, of its verdict, else of
    the head; empty where it predicts nothing."""
    figures = result.get("evaluation") or result.get("verdict") or result.get("head")
    return figures or {}


def read_recipe_values(path: Path) -> dict[str, Any]:
    """Plain values of the recipe of the run in ``path``; empty if they cannot be read."""
    try:
        values = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def read_run_chain(path: Path) -> Chain:
    """The stages of the run in ``path``; the default ones if its recipe cannot be read."""
    return read_chain(read_recipe_values(path))


def read_run_titles(path: Path) -> dict[str, str]:
    """Name -> title of all that the run in ``path`` may measure, in the order of the tables."""
    return read_titles(read_recipe_values(path))


def read_label_names(path: Path) -> tuple[str, ...]:
    """Label names of the run in ``path``, which may still be going on; takes no lock.

    Raises ConfigError if there is no run, DataError if its recipe cannot be read.
    """
    config_file = path / "run.json"
    if not config_file.is_file():
        raise ConfigError(f"there is no run in {path}; give the --run-dir of one")
    try:
        labels = json.loads(config_file.read_text(encoding="utf-8"))["labels"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{config_file} is not a run's recipe: {error!r}; restore it, or run anew"
        ) from error
    return validate(LabelSet, {"labels": labels}, str(config_file)).names


def prediction_files(path: Path) -> dict[str, Path]:
    """Prediction files of the run in ``path`` so far: stages in their order, then arms by name."""
    files = {file.stem: file for file in sorted((path / "predictions").glob("*.parquet"))}
    chain = read_run_chain(path)
    return {name: files.pop(name) for name in chain.names if name in files} | files


def is_locked(path: Path) -> bool | None:
    """Whether a process has locked the run directory ``path``: one of this machine, or of any if
    the file system shares locks. None: the file system has no locks. Writes nothing."""
    try:
        with (path / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False
