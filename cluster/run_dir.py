"""The directory of a run: its layout, its lock, and atomic writes of results.

run.json  status.json  metrics.jsonl  tensorboard/  quarantine.jsonl  summary.json
archive/     traces of all attempts          checkpoints/STAGE/   learner and sampler
stages/STAGE/done.json, model/               predictions/STAGE.parquet
replaced/before-attempt-NNN/   what a resume has replaced: run.json, results of later stages
"""

import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Self

from cluster.config.recipe import RunConfig
from cluster.config.resume_rules import Change
from cluster.resume_plan import ResumePlan, plan_resume
from cluster.run_files import (
    RECIPE_FILE,
    REPLACED,
    SILENT_S,
    holds_run,
    read_result,
    read_run_recipe,
    replaced_folder,
)
from video.disk_cache.location import cache_folder
from wire.errors import ConfigError
from wire.whole_file import write_json


class RunDir:
    """A run directory, locked by this process: one process at a time writes it."""

    def __init__(
        self,
        path: Path,
        lock: IO[str],
        config: RunConfig,
        plan: ResumePlan,
        also_written: tuple[Path, ...] = (),
    ) -> None:
        self.path = path
        self._lock, self._config = lock, config
        self.plan = plan
        """What the recipe of a resumed run changes."""
        self.also_written = also_written
        """Folders elsewhere that the run writes to."""

    @classmethod
    def open(cls, path: Path, config: RunConfig, *, resume: bool, overwrite: bool) -> Self:
        """Create a run directory, resume an old one (``resume``), or replace it (``overwrite``).

        Raises ConfigError if the directory has a run and neither is set, if another process writes
        it, or if the recipe of a resumed run changes what its stages compute.
        """
        path = path.resolve()
        _refuse_working_dir_of_job(path)
        config_file = path / RECIPE_FILE
        started = holds_run(path)
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
        if overwrite and config.model.resolve().is_relative_to(path):
            raise ConfigError(
                f"--overwrite would delete the model to start from, {config.model}; give another "
                "--run-dir"
            )
        path.mkdir(parents=True, exist_ok=True)
        lock = _take_lock(path)
        plan = ResumePlan()
        try:
            if overwrite:
                _empty(path)
            if started and not overwrite:
                plan = plan_resume(path, config)
            else:
                write_json(config_file, config.model_dump(mode="json"))
        except BaseException:
            lock.close()
            raise
        return cls(path, lock, config, plan, (cache_folder(config.video),))

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    @property
    def changes(self) -> tuple[Change, ...]:
        """Settings of a resumed run that differ from those of the attempt before."""
        return self.plan.changes

    def adopt(self, attempt: int) -> None:
        """Put the plan of a resume into effect: the results that belong to weights which are
        replaced go to ``replaced/``, then the recipe becomes the run's. Killed at any moment, the
        same resume plans the same again."""
        plan, folder = self.plan, replaced_folder(self.path, attempt)
        for name in plan.restarted:
            self._set_aside(name, folder)
        for stage, length in plan.lengths.items():
            if (result := read_result(self.path, stage)) is not None and "length" not in result:
                write_json(self._mark(stage), {**result, "length": length})
        if plan.changes:
            before = folder / RECIPE_FILE
            if not before.exists():
                write_json(before, json.loads((self.path / RECIPE_FILE).read_text()))
            write_json(self.path / RECIPE_FILE, self._config.model_dump(mode="json"))
        self.plan = ResumePlan(reopened=plan.reopened)

    def earlier_recipes(self) -> Iterator[tuple[int, RunConfig]]:
        """Recipes that resumes have changed, each with the number of the attempt that changed
        it."""
        for file in self.path.glob(f"{REPLACED}/before-attempt-*/{RECIPE_FILE}"):
            attempt = file.parent.name.rpartition("-")[2]
            if attempt.isdigit():
                yield int(attempt), read_run_recipe(file.parent)

    def _set_aside(self, name: str, folder: Path) -> None:
        """Move the results of a stage or arm away, and delete its checkpoints."""
        moves = [(self.path / "stages" / name, folder / "stages" / name)]
        for also in (name, *self.plan.also_predicted(name)):
            file = self.predictions(also)
            moves.append((file, folder / "predictions" / file.name))
        moves.append((self.summary, folder / self.summary.name))
        for source, target in moves:
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                source.rename(target)
        shutil.rmtree(self.checkpoints(name), ignore_errors=True)

    @property
    def archive(self) -> Path:
        """Folder of the trace archive."""
        return self.path / "archive"

    @property
    def summary(self) -> Path:
        """File of the run's summary."""
        return self.path / "summary.json"

    @property
    def metrics(self) -> Path:
        """File of the run's metrics."""
        return self.path / "metrics.jsonl"

    def checkpoints(self, stage: str) -> Path:
        """Folder of a stage's checkpoints."""
        return self.path / "checkpoints" / stage

    def model(self, stage: str) -> Path:
        """Folder of the weights a stage ended with, in Hugging Face format."""
        return self.path / "stages" / stage / "model"

    def predictions(self, stage: str) -> Path:
        """File of a stage's predictions on the evaluated clips."""
        return self.path / "predictions" / f"{stage}.parquet"

    def result(self, stage: str) -> dict[str, Any] | None:
        """Content of a stage's done.json; None if the stage has not finished, or is to go on, or
        to start anew because an earlier one goes on."""
        if stage in self.plan.reopened or stage in self.plan.restarted:
            return None
        return read_result(self.path, stage)

    def _mark(self, stage: str) -> Path:
        return self.path / "stages" / stage / "done.json"

    def finish(self, stage: str, result: dict[str, Any]) -> None:
        """Write a stage's done.json, which marks it as finished; call this last."""
        write_json(self._mark(stage), result)
        self.plan = self.plan.without(stage)


# What may lie in a directory before a run does; a study's log is open before its run starts.
_JOB_FOLDER = "/runtime_resources/working_dir_files/"  # in Ray's session folder, on every node
_NOT_RUNS = (".lock", "cache", "log.txt")


def _refuse_working_dir_of_job(path: Path) -> None:
    """Raise ConfigError for a folder below the copy of ``--working-dir`` that a Ray job starts
    in."""
    if _JOB_FOLDER in f"{path}/":
        raise ConfigError(
            f"--run-dir {path} lies in the temporary working directory of a Ray job: other nodes "
            "do not see it, and Ray deletes it after the job; give --run-dir as an absolute path "
            "on a disk that all nodes share, such as /shared/runs/NAME"
        )


def _take_lock(path: Path) -> IO[str]:
    """Take the lock of a run directory, and write this process's name into it.

    Raises ConfigError that names the process which has the lock: on this machine by the lock, on
    another by its last heartbeat, because not every shared file system carries locks between
    machines.
    """
    lock = (path / ".lock").open("a+")
    try:
        _lock_file(lock, path)
        _refuse_other_host(path)
    except BaseException:
        lock.close()
        raise
    lock.truncate(0)
    about = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
    json.dump(about | {"command": " ".join(sys.argv)[:500]}, lock)
    lock.flush()
    return lock


def _lock_file(lock: IO[str], path: Path) -> None:
    for last in (False, False, True):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if last:
                lock.seek(0)
                raise ConfigError(
                    f"another process is running in {path}: {_who(lock.read())}; wait for it, stop "
                    "it, or give another --run-dir"
                ) from error
            time.sleep(0.1)  # `deepintuit status` holds the lock for a moment
        except OSError:
            return  # a file system without locks: only the heartbeat tells
        else:
            return


def _refuse_other_host(path: Path) -> None:
    try:
        sign = json.loads((path / "status.json").read_text())
        age = time.time() - float(sign["seen"])
        elsewhere = sign["state"] == "running" and sign["host"] != socket.gethostname()
    except (OSError, ValueError, KeyError, TypeError):
        return
    if elsewhere and age < SILENT_S:
        raise ConfigError(
            f"another process is running in {path}: {_who(json.dumps(sign))}, last sign of life "
            f"{max(0.0, age):.0f} s ago; stop it, or give another --run-dir (if it was killed: try "
            f"again in {SILENT_S - age:.0f} s)"
        )


def _who(text: str) -> str:
    """Describe the process that a lock or a heartbeat names."""
    try:
        process = json.loads(text)
        since = datetime.fromtimestamp(process["started"]).strftime("%Y-%m-%d %H:%M:%S")
        return f"process {process['pid']} on {process['host']}, since {since}"
    except (ValueError, KeyError, TypeError):
        return "it does not say which"


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name not in (".lock", "run.json", "log.txt"):
            entry.unlink()
    (path / "run.json").unlink(missing_ok=True)  # last: a folder emptied in part is still a run's
