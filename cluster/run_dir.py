"""The directory of a run: what is in it, who may write it, how results appear whole.

run.json  metrics.jsonl  tensorboard/  quarantine.jsonl  summary.json
archive/     traces of all attempts          checkpoints/STAGE/   learner and sampler
stages/STAGE/done.json, model/               predictions/STAGE.parquet
"""

import fcntl
import json
import os
import re
import shutil
from pathlib import Path
from typing import IO, Any, Self

from cluster.config import STAGES, RunConfig
from wire.config import validate
from wire.errors import ConfigError, DataError
from wire.labels import LabelSet


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
        config_file = path / "run.json"
        started = (path / "archive").exists()  # else a check ended it, and there is nothing to lose
        if resume and not started:
            raise ConfigError(
                f"there is no run in {path} to resume; leave --resume out to start one"
            )
        if started and not (resume or overwrite):
            raise ConfigError(
                f"{path} already holds a run; give --resume to go on with it, --overwrite to "
                "replace it, "
                "or another --run-dir"
            )
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path} is a file; give a directory as --run-dir")
        others = path.exists() and any(p.name not in _NOT_RUNS for p in path.iterdir())
        if others and not config_file.exists():
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
        return read_result(self.path, stage)

    def finish(self, stage: str, result: dict[str, Any]) -> None:
        """Mark a stage as finished, last of all."""
        write_json(self.path / "stages" / stage / "done.json", result)


def read_result(path: Path, stage: str) -> dict[str, Any] | None:
    """``RunDir.result`` of the run in ``path``, which may still be going on; nothing is locked."""
    file = path / "stages" / stage / "done.json"
    return json.loads(file.read_text()) if file.exists() else None


def read_label_names(path: Path) -> tuple[str, ...]:
    """The label names of the run in ``path``, which may still be going on; nothing is locked.

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
    """The predictions that the run in ``path`` has left so far: stages in their order, then other
    arms by name."""
    found = {file.stem: file for file in sorted((path / "predictions").glob("*.parquet"))}
    return {name: found.pop(name) for name in STAGES if name in found} | found


def write_json(path: Path, value: Any) -> None:
    """Write and rename, so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


# What may lie in a directory before a run does; a study's log is open before its run starts.
_NOT_RUNS = (".lock", "cache", "log.txt")

# What a resumed run may change: where it runs, how long it waits, not what its stages compute.
# (What control arms were run with is in their results.)
_FREE = re.compile(
    r"cluster\..*|controls\..*|parity\..*|.*timeout_s|.*num_threads|.*num_cpus|rollout\.num_workers"
    r"|rollout\.max_concurrency|rollout\.max_num_seqs|grpo\.save_every|reward\.max_failure_frac"
    r"|data\.check_clips|video\.cache_dir"
)


def _refuse_other_recipe(config_file: Path, config: RunConfig) -> None:
    old = _flat(json.loads(config_file.read_text()))
    new = _flat(config.model_dump(mode="json"))
    names = sorted(old.keys() | new.keys())
    if changed := [n for n in names if old.get(n) != new.get(n) and not _FREE.fullmatch(n)]:
        raise ConfigError(
            f"the run in {config_file.parent} was started with another {', '.join(changed)}; "
            "resume it with its own recipe, or start a new --run-dir"
        )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``a.b`` -> value."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {
        name: value
        for key, inner in values.items()
        for name, value in _flat(inner, f"{prefix}.{key}" if prefix else key).items()
    }


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name not in (".lock", "run.json", "log.txt"):
            entry.unlink()
    (path / "run.json").unlink(missing_ok=True)  # last: what is half emptied is still a run's
