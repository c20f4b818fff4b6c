"""The directory of a run: its layout, its lock, and atomic writes of results.

run.json  status.json  metrics.jsonl  tensorboard/  quarantine.jsonl  summary.json
archive/     traces of all attempts          checkpoints/STAGE/   learner and sampler
stages/STAGE/done.json, model/               predictions/STAGE.parquet
"""

import fcntl
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Self

from cluster.config.recipe import RunConfig
from cluster.run_files import SILENT_S, read_result
from wire.config import flatten, validate
from wire.errors import ConfigError
from wire.whole_file import write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A setting that a resumed run changes.

    Example:
        Change(name="grpo.save_every", before=50, now=10)
    """

    name: str
    before: Any
    now: Any


class RunDir:
    """A run directory, locked by this process: one process at a time writes it."""

    def __init__(
        self,
        path: Path,
        lock: IO[str],
        changes: tuple[Change, ...] = (),
        also_written: tuple[Path, ...] = (),
    ) -> None:
        self.path = path
        self._lock = lock
        self.changes = changes
        """Settings of a resumed run that differ from those it was started with."""
        self.also_written = also_written
        """Folders elsewhere that the run writes to."""

    @classmethod
    def open(cls, path: Path, config: RunConfig, *, resume: bool, overwrite: bool) -> Self:
        """Create a run directory, resume an old one (``resume``), or replace it (``overwrite``).

        Raises ConfigError if the directory has a run and neither is set, if another process writes
        it, or if the recipe of a resumed run changes what its stages compute.
        """
        path = path.resolve()
        config_file = path / "run.json"
        started = (path / "archive").exists()  # else a check ended it: nothing to lose
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
        lock = _take_lock(path)
        changes: tuple[Change, ...] = ()
        try:
            if overwrite:
                _empty(path)
            if started and not overwrite:
                changes = _changes(config_file, config)
            else:
                write_json(config_file, config.model_dump(mode="json"))
        except BaseException:
            lock.close()
            raise
        cache = config.video.cache_dir
        return cls(path, lock, changes, () if cache is None else (cache,))

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

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
        """Content of a stage's done.json; None if the stage has not finished."""
        return read_result(self.path, stage)

    def finish(self, stage: str, result: dict[str, Any]) -> None:
        """Write a stage's done.json, which marks it as finished; call this last."""
        write_json(self.path / "stages" / stage / "done.json", result)


# What may lie in a directory before a run does; a study's log is open before its run starts.
_NOT_RUNS = (".lock", "cache", "log.txt")

# Settings that a resumed run may change: where it runs, how long it waits, not what its stages
# compute. (The settings of control arms are in their results.)
_ORDER = "stages.order"
"""Names of the stages, in their order."""
_FREE = re.compile(
    r"cluster\..*|logging(\..*)?|guards\..*|controls\..*|parity\..*|.*timeout_s|.*num_threads|.*num_cpus"
    r"|rollout\.num_workers"
    r"|rollout\.max_concurrency|rollout\.max_num_seqs|.*\.save_every|(grpo|stages\.\w+)\.keep_\w+|stages\.\w+\.title"
    r"|learner\.num_ranks|learner\.zero_stage|deterministic|reward\.max_failure_frac"
    r"|data\.check_clips|data\.max_quarantine_frac|video\.cache_.*|video\.decode_.*"
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


def _changes(config_file: Path, config: RunConfig) -> tuple[Change, ...]:
    """What a resumed recipe changes. Raises ConfigError if that is what its stages compute."""
    old, new = _settings_of(config_file), _settings(config.model_dump(mode="json"))
    names = [n for n in sorted(old.keys() | new.keys()) if old.get(n) != new.get(n)]
    if changed := [name for name in names if not _FREE.fullmatch(name)]:
        raise ConfigError(
            f"the run in {config_file.parent} was started with another "
            f"{', '.join(_without_other_stages(changed, old, new))}; "
            "resume it with its own recipe, or start a new --run-dir"
        )
    return tuple(Change(name=n, before=old.get(n), now=new.get(n)) for n in names)


def _without_other_stages(
    names: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[str]:
    """Names of settings, but of stages that both recipes have: the order names the others."""
    both = set(old.get(_ORDER, ())) & set(new.get(_ORDER, ()))
    parts = {name: name.split(".") for name in names}
    return [n for n in names if n == _ORDER or parts[n][0] != "stages" or parts[n][1] in both]


def _settings_of(config_file: Path) -> dict[str, Any]:
    """Settings that a run was started with. What its version did not know has the default."""
    values = json.loads(config_file.read_text())
    with suppress(ConfigError):  # of a version that knew other keys: they are named one by one
        values = validate(RunConfig, values, str(config_file)).model_dump(mode="json")
    return _settings(values)


def _settings(values: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted names, those of a stage as ``stages.NAME.key``."""
    stages = {stage["name"]: stage for stage in values.get("stages", ())}
    order = {"order": list(stages)} if stages else {}
    return flatten({**values, "stages": {**order, **stages}})


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name not in (".lock", "run.json", "log.txt"):
            entry.unlink()
    (path / "run.json").unlink(missing_ok=True)  # last: a folder emptied in part is still a run's
