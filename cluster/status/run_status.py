"""Status of a run, read from its files alone: while another process writes, on any machine that
sees the files.

    run.json, status.json, lock, done.json, metrics.jsonl, checkpoints -> RunStatus

Writes nothing. Whether the writer is alive is judged, not believed: see ``judge``.
"""

import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.config.arm_names import ARMS
from cluster.config.chain import Chain
from cluster.driver.progress import Progress
from cluster.metrics.catalogue import EVALUATION
from cluster.metrics.metrics_file import (
    Row,
    current_rows,
    figures_of,
    is_validation,
    parse_rows,
    warnings_of,
)
from cluster.run_files import (
    SILENT_S,
    describe_source,
    going_on,
    is_locked,
    is_shorter,
    read_history,
    read_recipe_values,
    read_result,
    read_run_chain,
    read_started_from,
    recipe_fault,
    result_figures,
    stage_outcome,
)
from cluster.status.fleet_status import fleet_line, limits_in_words
from cluster.status.heartbeat import Heartbeat, State, read_heartbeat
from reward.hacking_alerts import standing
from wire.errors import ConfigError

_TAIL_BYTES = 200_000
_JSON_KEYS = {"progress": "piece"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Finished stage or control arm.

    Example:
        Finished(name="grpo", accuracy=0.725, seconds=260.0)
    """

    name: str
    accuracy: float | None
    seconds: float
    outcome: str = ""
    """What came of its validations, in words: the best, an early stop, the weights it left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastValidation:
    """The last validation of a run.

    Example:
        LastValidation(stage="grpo", step=40, figures={"val/accuracy": 0.71})
    """

    stage: str
    step: int
    figures: dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Newest complete checkpoint of a run.

    Example:
        Checkpoint(stage="grpo", tag="step-000050", age_s=310.0)
    """

    stage: str
    tag: str
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Process that writes the run, or wrote to it last.

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
    """Status of a run: state, finished stages, progress, figures, checkpoint, writer."""

    name: str
    path: str
    state: State
    why: str
    """Why the run stopped or failed, or what is odd about a running one; else empty."""
    resume: str
    """Command that resumes the run; empty if it runs, has finished or left nothing to resume."""
    stage: str
    """The stage in progress, or the last one."""
    finished: tuple[Finished, ...]
    """Finished stages in their order, then control arms."""
    num_stages: int
    """How many of ``finished`` are stages."""
    progress: Progress | None
    """Progress of the current or last task; None: unknown, or the run has finished."""
    step: int | None
    """Step of the last line of metrics.jsonl."""
    step_stage: str
    figures: dict[str, float | None]
    """Figures of that line; None: it was not finite."""
    validation: LastValidation | None
    """None: nothing has been validated."""
    guards: tuple[str, ...]
    """Warnings of reward hacking at the last step of each stage."""
    learning: tuple[str, ...]
    """Warnings of trainings that learn nothing."""
    changes: tuple[str, ...]
    """Settings that resumes changed, and finished stages that are to go on."""
    started_from: str
    """Stage of another run that its model came from; empty for none."""
    fault: str
    """What is wrong with its run.json, and what to do; empty if nothing."""
    num_quarantined: int
    checkpoint: Checkpoint | None
    writer: Writer | None
    age_s: float
    """Since the last write to a file of the run."""
    size_gb: float | None
    """Size of the run's directory; None: not measured."""
    free_gb: float
    """On the disk of the run's directory."""
    limits: str = ""
    """What limited that step, in words; empty where its figures do not say."""
    fleet: str = ""
    """Rollout workers in words, while the run goes on."""

    def to_plain(self) -> dict[str, Any]:
        """For JSON: what `deepintuit status --json` prints, in its order and with its keys."""
        plain = {_JSON_KEYS.get(name, name): value for name, value in asdict(self).items()}
        if (progress := self.progress) is not None:
            plain["piece"] = {
                "title": progress.title,
                "done": progress.done,
                "total": progress.total,
                "rate_per_s": progress.rate,
                "left_s": progress.left_s if self.state is State.RUNNING else None,
            }
        return plain


def is_run(path: Path) -> bool:
    """Whether a run, started or not, is in ``path``."""
    return (path / "run.json").is_file()


def find_runs(folder: Path) -> Iterator[Path]:
    """Run directories below a folder, the folder itself included; runs are not searched inside."""
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
    """Status of the run in ``path``. Raises ConfigError if there is none."""
    if not is_run(path):
        raise ConfigError(f"there is no run in {path}; give the --run-dir of one")
    now = time.time()
    beat = read_heartbeat(path)
    chain = read_run_chain(path)
    stages, finished = chain.names, tuple(_finished(path, chain))
    names = {result.name for result in finished}
    state, why = judge(
        beat,
        locked=is_locked(path),
        here=socket.gethostname(),
        now=now,
        whole=all(stage in names for stage in stages),
    )
    history = read_history(path)
    lines = list(current_rows(_last_rows(path / "metrics.jsonl"), history.beginnings))
    rows = [row for row in lines if not is_validation(row)]
    validated = _last_figures([row for row in lines if is_validation(row)])
    stage_of, step, figures = _last_figures(rows)
    return RunStatus(
        name=path.resolve().name,
        path=str(path),
        state=state,
        why=why,
        resume=_resume(path, beat, state),
        stage=_stage(_work(path, beat, stages), names, finished),
        finished=finished,
        num_stages=sum(result.name in stages for result in finished),
        progress=None if beat is None or state is State.FINISHED else beat.progress,
        step=step,
        step_stage=stage_of,
        figures=figures,
        limits=limits_in_words(figures),
        fleet=fleet_line(path, now) if state is State.RUNNING else "",
        validation=None
        if validated[1] is None
        else LastValidation(stage=validated[0], step=validated[1], figures=validated[2]),
        guards=tuple(_guards(rows)),
        learning=tuple(_learning(path, rows)),
        changes=(*history.changes, *going_on(path)),
        started_from=describe_source(read_started_from(path)),
        fault=recipe_fault(path),
        num_quarantined=_count_lines(path / "quarantine.jsonl"),
        checkpoint=_checkpoint(path / "checkpoints", now),
        writer=None if beat is None else _writer(beat, state, now),
        age_s=max(0.0, now - _last_change(path)),
        size_gb=_size_gb(path) if with_size else None,
        free_gb=shutil.disk_usage(path).free / 1e9,
    )


def judge(
    beat: Heartbeat | None, *, locked: bool | None, here: str, now: float, whole: bool
) -> tuple[State, str]:
    """State of a run, and why. The lock, where it can be tested, decides for this machine; for
    another one the age of the last heartbeat does.

    ``whole``: all stages have finished; decides where there is no heartbeat (earlier versions).
    """
    silent_s = now - beat.last_beat if beat is not None else 0.0
    if locked:
        if beat is not None and beat.state is State.RUNNING and silent_s > SILENT_S:
            return State.RUNNING, f"no sign of life for {silent_s:.0f} s: it may hang"
        return State.RUNNING, ""
    if beat is None:
        return (State.FINISHED, "") if whole else (State.STOPPED, "")
    if beat.state is not State.RUNNING:
        return beat.state, beat.reason
    known_dead = locked is False and beat.host == here
    if not known_dead and silent_s <= SILENT_S:
        return State.RUNNING, ""
    where = "" if beat.host == here else f" on {beat.host}"
    return State.STOPPED, f"its process {beat.pid}{where} ended without a word (killed?)"


def _resume(path: Path, beat: Heartbeat | None, state: State) -> str:
    if beat is None or state in (State.RUNNING, State.FINISHED):
        return ""
    if (path / "archive").exists():
        return beat.resume
    return beat.resume.removesuffix(" --resume")  # nothing was started yet


def _finished(path: Path, chain: Chain) -> Iterator[Finished]:
    for name in (*chain.names, *ARMS):
        try:
            result = read_result(path, name)
        except (OSError, ValueError):
            continue
        if result is not None and not is_shorter(result, chain.get(name, None)):
            yield Finished(
                name=name,
                accuracy=result_figures(result).get("accuracy"),
                seconds=result.get("seconds", 0.0),
                outcome=stage_outcome(result),
            )


def _work(path: Path, beat: Heartbeat | None, stages: Sequence[str]) -> Sequence[str]:
    """Stages that the run is for; none if neither its process nor its recipe says."""
    if beat is not None:
        return beat.work
    return stages if read_recipe_values(path) else ()


def _stage(work: Sequence[str], names: set[str], finished: tuple[Finished, ...]) -> str:
    todo = [name for name in work if name not in names]
    return todo[0] if todo else finished[-1].name if finished else ""


def _writer(beat: Heartbeat, state: State, now: float) -> Writer:
    return Writer(
        pid=beat.pid,
        host=beat.host,
        attempt=beat.attempt,
        since=beat.started,
        seen_age_s=max(0.0, now - beat.last_beat),
        alive=state is State.RUNNING,
    )


def _last_rows(path: Path) -> list[Row]:
    """Last complete rows of metrics.jsonl, newest first, without those of evaluations."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]  # a line under way has no end
    except OSError:
        return []
    return [row for row in parse_rows(reversed(lines)) if row["stage"] != EVALUATION]


def _last_figures(rows: Sequence[Row]) -> tuple[str, int | None, dict[str, float | None]]:
    """Stage, step and figures of the last line."""
    if not rows:
        return "", None, {}
    return str(rows[0]["stage"]), int(rows[0]["step"]), figures_of(rows[0])


def _guards(rows: Sequence[Row]) -> Iterator[str]:
    """Warnings of reward hacking at the last line of each stage."""
    newest = {str(row["stage"]): row for row in reversed(rows)}
    for stage, row in newest.items():
        figures = figures_of(row)
        alerts = standing({name: value for name, value in figures.items() if value is not None})
        yield from (f"{stage} step {row['step']}: {alert}" for alert in alerts)


def _learning(path: Path, rows: Sequence[Row]) -> Iterator[str]:
    """Warnings of trainings that learn nothing: of finished ones, and of the last rows."""
    of_rows, warnings = warnings_of(reversed(rows)), dict[str, list[str]]()
    for name in (*read_run_chain(path).names, *ARMS):
        with suppress(OSError, ValueError):
            result = read_result(path, name) or {}
            warnings[name] = result.get("warnings", of_rows.get(name, []))
    yield from (f"{name}: {line}" for name, lines in warnings.items() for line in lines)


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
    """Size of a folder now; files may come and go meanwhile."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118  (many)
            except OSError:
                continue
    return total / 1e9
