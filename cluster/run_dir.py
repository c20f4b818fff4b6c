"""The directory of a run: what is in it, who may write it, how results appear whole.

config.json  metrics.jsonl  tensorboard/  quarantine.jsonl  summary.json
archive/     traces of all attempts          checkpoints/STAGE/   learner and sampler
stages/STAGE/done.json, model/               predictions/STAGE.parquet
"""

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any, Self

from cluster.config import RunConfig
from wire.errors import ConfigError


class RunDir:
    """One process at a time writes a run directory."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path, config: RunConfig, *, resume: bool, overwrite: bool) -> Self:
        """Create a run directory, take up an old one (``resume``), or replace it (``overwrite``).

        Raises ConfigError if a run is there and neither was asked for, if another process writes
        it, or if a resumed
        recipe differs in what was trained.
        """
        path = path.resolve()
        config_file = path / "config.json"
        started = (path / "archive").exists()  # else a check ended it, and there is nothing to lose
        if started and not (resume or overwrite):
            raise ConfigError(
                f"{path} already holds a run; give --resume to go on with it, --overwrite to "
                "replace it, "
                "or another --run-dir"
            )
        if path.exists() and not config_file.exists() and any(path.iterdir()):
            raise ConfigError(f"{path} is not empty and holds no run; give another --run-dir")
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another process is running in {path}; wait for it, or give another --run-dir"
            ) from error
        if overwrite:
            _empty(path)
        if started and not overwrite:
            _refuse_other_recipe(config_file, config)
        else:
            write_json(config_file, config.model_dump(mode="json"))
        return cls(path, lock)

    def close(self) -> None:
        """Let another process have it."""
        self._lock.close()

    @property
    def archive(self) -> Path:
        """The trace archive."""
        return self.path / "archive"

    @property
    def summary(self) -> Path:
        """The results."""
        return self.path / "summary.json"

    def checkpoints(self, stage: str) -> Path:
        """Checkpoints of a stage."""
        return self.path / "checkpoints" / stage

    def model(self, stage: str) -> Path:
        """The weights a stage ended with, in Hugging Face format."""
        return self.path / "stages" / stage / "model"

    def predictions(self, stage: str) -> Path:
        """What a stage said of each evaluated clip."""
        return self.path / "predictions" / f"{stage}.parquet"

    def result(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage left; None if it has not finished."""
        path = self.path / "stages" / stage / "done.json"
        return json.loads(path.read_text()) if path.exists() else None

    def finish(self, stage: str, result: dict[str, Any]) -> None:
        """Mark a stage as finished, last of all."""
        write_json(self.path / "stages" / stage / "done.json", result)


def write_json(path: Path, value: Any) -> None:
    """Write and rename, so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


# What a resumed run may change: where and how fast it runs, not what it computes.
_FREE = ("cluster", "parity")


def _refuse_other_recipe(config_file: Path, config: RunConfig) -> None:
    old = json.loads(config_file.read_text())
    new = config.model_dump(mode="json")
    changed = [key for key in new if key not in _FREE and new[key] != old.get(key)]
    if changed:
        names = ", ".join(changed)
        raise ConfigError(
            f"the run in {config_file.parent} was started with other settings in: {names}; "
            "resume it with its own recipe, or start a new --run-dir"
        )


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == ".lock":
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
