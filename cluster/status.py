"""How a run stands, from its files alone: works while another process writes, on any machine that
sees them.

    run.json, status.json, lock, done.json, metrics.jsonl, checkpoints -> RunStatus

Writes nothing. Whether the writer is alive is judged, not believed: see ``judge``.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.at_work import Sign, State, read_sign
from cluster.config import ARMS, STAGES
from cluster.run_dir import SILENT_S, is_locked, read_result
from reward.watch import standing
from wire.errors import ConfigError

_TAIL_BYTES = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A stage or control arm that has finished.

    Example:
        Finished(name="grpo", accuracy=0.725, seconds=260.0)
    """

    name: str
    accuracy: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The piece of work under way, or that was.

    Example:
        Piece(title="grpo", done=12, total=80, rate_per_s=0.4, left_s=170.0)
    """

    title: str
    done: int
    total: int
    rate_per_s: float
    left_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The last whole checkpoint.

    Example:
        Checkpoint(stage="grpo", tag="step-000050", age_s=310.0)
    """

    stage: str
    tag: str
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """The process that writes the run, or wrote it last.

    Example:
        Writer(pid=712, host="node-3", attempt=1, since=1.7e9, seen_age_s=2.1, alive=True)
    """

    pid: int
    host: str
    attempt: int
    since: float
    seen_age_s: float
    alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """All that is known of a run."""

    name: str
    path: str
    state: State
    why: str
    """Why it stopped or failed; or what is odd about one that runs. Empty: nothing."""
    resume: str
    """The command that goes on with it; empty where there is nothing to go on with."""
    stage: str
    """Under way, or the last."""
    finished: tuple[Finished, ...]
    piece: Piece | None
    step: int | None
    """Of the last line of figures."""
    step_stage: str
    figures: dict[str, float]
    """That line's figures."""
    guards: tuple[str, ...]
    """Warnings of reward hacking that stand, or stood at the end of their training."""
    num_quarantined: int
    checkpoint: Checkpoint | None
    writer: Writer | None
    age_s: float
    """Since anything was written."""
    size_gb: float | None
    """Of the run's directory; None: not asked."""
    free_gb: float


def ago(seconds: float) -> str:
    """A time span in its largest unit."""
    for unit, length in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def is_run(path: Path) -> bool:
    """Whether a run, started or not, is in ``path``."""
    return (path / "run.json").is_file()


def find_runs(folder: Path) -> Iterator[Path]:
    """Runs below a folder, itself included; what is inside a run is not searched."""
    if is_run(folder):
        yield folder
        return
    try:
        entries = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return
    for entry in entries:
        if not entry.is_symlink() and not entry.name.startswith("."):
            yield from find_runs(entry)


def read_status(path: Path, *, with_size: bool = True) -> RunStatus:
    """How the run in ``path`` stands. Raises ConfigError if there is none."""
    if not is_run(path):
        raise ConfigError(f"there is no run in {path}; give the --run-dir of one")
    now = time.time()
    sign = read_sign(path)
    finished = tuple(_finished(path))
    names = {one.name for one in finished}
    state, why = judge(
        sign,
        locked=is_locked(path),
        here=socket.gethostname(),
        now=now,
        whole=all(stage in names for stage in ("base", "calibrated")),
    )
    rows = list(_last_rows(path / "metrics.jsonl"))
    stage_of, step, figures = _last_figures(rows)
    return RunStatus(
        name=path.resolve().name,
        path=str(path),
        state=state,
        why=why,
        resume=_resume(path, sign, state),
        stage=_stage(sign, names, finished),
        finished=finished,
        piece=None if sign is None or state is State.FINISHED else _piece(sign),
        step=step,
        step_stage=stage_of,
        figures=figures,
        guards=tuple(_guards(rows)),
        num_quarantined=_count_lines(path / "quarantine.jsonl"),
        checkpoint=_checkpoint(path / "checkpoints", now),
        writer=None if sign is None else _writer(sign, state, now),
        age_s=max(0.0, now - _last_change(path)),
        size_gb=_size_gb(path) if with_size else None,
        free_gb=shutil.disk_usage(path).free / 1e9,
    )


def judge(
    sign: Sign | None, *, locked: bool | None, here: str, now: float, whole: bool
) -> tuple[State, str]:
    """State, and why. The lock, where it can be asked, is the truth about this machine; about
    another one the age of the last sign is.

    ``whole``: all stages have finished, for a run without a sign (of an earlier version).
    """
    silent_s = now - sign.seen if sign is not None else 0.0
    if locked:
        if sign is not None and sign.state is State.RUNNING and silent_s > SILENT_S:
            return State.RUNNING, f"no sign of life for {silent_s:.0f} s: it may hang"
        return State.RUNNING, ""
    if sign is None:
        return (State.FINISHED, "") if whole else (State.STOPPED, "")
    if sign.state is not State.RUNNING:
        return sign.state, sign.reason
    known_dead = locked is False and sign.host == here
    if not known_dead and silent_s <= SILENT_S:
        return State.RUNNING, ""
    where = "" if sign.host == here else f" on {sign.host}"
    return State.STOPPED, f"its process {sign.pid}{where} ended without a word (killed?)"


def _resume(path: Path, sign: Sign | None, state: State) -> str:
    if sign is None or state in (State.RUNNING, State.FINISHED):
        return ""
    if (path / "archive").exists():
        return sign.resume
    return sign.resume.removesuffix(" --resume")  # nothing was started yet


def _finished(path: Path) -> Iterator[Finished]:
    for name in (*STAGES, *ARMS):
        try:
            result = read_result(path, name)
        except (OSError, ValueError):
            continue
        if result is not None:
            found = result.get("verdict") or result.get("evaluation") or result.get("head") or {}
            yield Finished(
                name=name, accuracy=found.get("accuracy"), seconds=result.get("seconds", 0.0)
            )


def _stage(sign: Sign | None, names: set[str], finished: tuple[Finished, ...]) -> str:
    work = sign.work if sign is not None else STAGES
    todo = [name for name in work if name not in names]
    return todo[0] if todo else finished[-1].name if finished else ""


def _piece(sign: Sign) -> Piece | None:
    piece = sign.piece
    if piece is None:
        return None
    left = (piece.total - piece.done) / piece.rate if piece.rate > 0 else None
    return Piece(
        title=piece.title,
        done=piece.done,
        total=piece.total,
        rate_per_s=piece.rate,
        left_s=left if sign.state is State.RUNNING else None,
    )


def _writer(sign: Sign, state: State, now: float) -> Writer:
    return Writer(
        pid=sign.pid,
        host=sign.host,
        attempt=sign.attempt,
        since=sign.started,
        seen_age_s=max(0.0, now - sign.seen),
        alive=state is State.RUNNING,
    )


def _last_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The last whole lines that are no evaluations, newest first."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]  # a line under way has no end
    except OSError:
        return
    for line in reversed(lines):
        try:
            row: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        if row.get("stage") != "eval":
            yield row


def _last_figures(rows: Sequence[Mapping[str, Any]]) -> tuple[str, int | None, dict[str, float]]:
    """Stage, step and figures of the last line."""
    if not rows:
        return "", None, {}
    known = ("stage", "step", "attempt", "time")
    figures = {name: value for name, value in rows[0].items() if name not in known}
    return str(rows[0]["stage"]), int(rows[0]["step"]), figures


def _guards(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What stands at the last line of each training."""
    newest = {str(row["stage"]): row for row in reversed(rows)}
    for stage, row in newest.items():
        yield from (f"{stage} step {row['step']}: {said}" for said in standing(row))


def _checkpoint(folder: Path, now: float) -> Checkpoint | None:
    marks = []
    for mark in folder.glob("*/step-*/manifest.json"):
        try:
            marks.append((mark.stat().st_mtime, mark))
        except OSError:
            continue  # an older one that was dropped meanwhile
    if not marks:
        return None
    when, mark = max(marks)
    return Checkpoint(
        stage=mark.parent.parent.name, tag=mark.parent.name, age_s=max(0.0, now - when)
    )


def _last_change(path: Path) -> float:
    names = ("status.json", "metrics.jsonl", "summary.json", "run.json")
    return max((t for name in names if (t := _mtime(path / name)) is not None), default=0.0)


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _count_lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def _size_gb(path: Path) -> float:
    """Of what is there now; files may come and go meanwhile."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118  (many)
            except OSError:
                continue
    return total / 1e9
