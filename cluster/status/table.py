"""A run's status, and a list of runs, for a terminal."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.driver.units import format_duration
from cluster.status.heartbeat import State
from cluster.status.run_status import RunStatus

_COLOUR = {
    State.RUNNING: "green",
    State.FINISHED: "blue",
    State.STOPPED: "yellow",
    State.FAILED: "red",
}
# Figures in their order, with their labels; figures that a stage does not have are left out.
_FIGURES = (
    ("reward/mean", "reward"),
    ("nll", "nll"),
    ("response_length/mean", "length, tokens"),
    ("truncated_frac", "truncated"),
    ("reward/frac_zero_std", "groups without signal"),
    ("entropy", "entropy"),
    ("kl", "kl"),
    ("staleness/mean", "staleness"),
    ("parity/probe_max_logprob_diff", "parity probe"),
    ("parity/max_logprob_diff", "parity, all tokens"),
    ("rollout/num_out_of_service", "engines out of service"),
    ("rollout/failed_groups_frac", "failed groups"),
    ("reward/failed_frac", "failed rewards"),
    ("timing_s/step", "seconds per step"),
    ("rollouter/idle_ratio", "idle share of workers"),
    ("trainer/idle_ratio", "idle share of ranks"),
    ("effective_training_time_ratio", "effective training time"),
    ("perf/throughput", "tokens per second"),
)
_OF_VALIDATION = (
    ("val/accuracy", "accuracy"),
    ("val/macro_f1", "macro F1"),
    ("val/nll", "nll"),
    ("val/reward/mean", "reward"),
    ("val/response_length/mean", "length"),
)


def status_view(status: RunStatus) -> RenderableType:
    """One run: its table, progress bar, and what to do next."""
    table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(status):
        table.add_row(name, value)
    return Group(_title(status), *_bar(status), table, *_advice(status))


def runs_view(runs: Sequence[RunStatus], folder: Path) -> RenderableType:
    """Runs below a folder, one a line."""
    table = Table(box=box.SIMPLE)
    for name in ("run", "state", "stage", "accuracy", "age", "size"):
        right = name in ("age", "size")
        table.add_column(
            name, justify="right" if right else "left", no_wrap=name != "accuracy", overflow="fold"
        )
    for run in runs:
        size = "" if run.size_gb is None else f"{run.size_gb:.2f} GB"
        state = Text(run.state.value, style=_COLOUR[run.state])
        name = os.path.relpath(run.path, folder.parent)
        if run.fault:
            state.append(" (run.json!)", style="red")
        table.add_row(name, state, where(run), _accuracies(run), format_duration(run.age_s), size)
    faults = [Text(f"{run.name}: {run.fault}", style="red") for run in runs if run.fault]
    return Group(table, *faults)


def where(run: RunStatus) -> str:
    """Stage and progress of a run, in words."""
    progress = run.progress
    if run.state is State.FINISHED or progress is None:
        return run.stage
    title = "" if progress.title == run.stage else f" ({progress.title})"
    return f"{run.stage}{title} {progress.done}/{progress.total}"


def _title(status: RunStatus) -> Text:
    text = Text.assemble(
        (status.name, "bold"), "  ", (status.state.value, f"bold {_COLOUR[status.state]}")
    )
    if place := where(status):
        text.append(f"  {place}")
    return text


def _bar(status: RunStatus) -> Iterator[RenderableType]:
    progress = status.progress
    if progress is not None and progress.total and status.state is State.RUNNING:
        grid = Table.grid(padding=(0, 1))
        left = "" if progress.left_s is None else f"{format_duration(progress.left_s)} left"
        pace = pace_of(progress.rate)
        grid.add_row(
            ProgressBar(total=progress.total, completed=progress.done, width=40), pace, left
        )
        yield grid


def pace_of(rate: float) -> str:
    """Parts per second, or seconds per part, whichever is above one."""
    if rate <= 0:
        return ""
    return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"


def _rows(status: RunStatus) -> Iterator[tuple[str, str]]:
    if status.finished:
        yield "accuracy so far", _accuracies(status)
    if status.step is not None:
        yield "figures of", f"{status.step_stage} step {status.step}"
    yield from _figures(status)
    if status.started_from:
        yield "started from", status.started_from
    for line in status.changes:
        yield "changed by a resume", line
    yield from _validations(status)
    yield "quarantined clips", str(status.num_quarantined)
    if (kept := status.checkpoint) is not None:
        yield "last checkpoint", f"{kept.stage} {kept.tag}, {format_duration(kept.age_s)} old"
    if (writer := status.writer) is not None:
        alive = "alive" if writer.alive else "ended"
        yield (
            "writer",
            f"process {writer.pid} on {writer.host}, attempt {writer.attempt}: {alive}, "
            f"last sign {format_duration(writer.seen_age_s)} ago",
        )
    size = "" if status.size_gb is None else f"{status.size_gb:.2f} GB, "
    yield "disk", f"{size}{status.free_gb:.1f} GB free"


def _figures(status: RunStatus) -> Iterator[tuple[str, str]]:
    figures = status.figures
    for name, words in _FIGURES:
        if name in figures:
            yield words, _number(figures[name]) + (_parts(figures) if name == "reward/mean" else "")
    if status.limits:
        yield "limits the step", status.limits
    if status.fleet:
        yield "rollout workers", status.fleet


def _validations(status: RunStatus) -> Iterator[tuple[str, str]]:
    if (last := status.validation) is not None:
        known = [f"{w} {_number(last.figures[n])}" for n, w in _OF_VALIDATION if n in last.figures]
        yield "last validation", f"{last.stage} step {last.step}: {', '.join(known)}"
    for stage in status.finished:
        if stage.outcome:
            yield f"outcome of {stage.name}", stage.outcome


def _number(value: float | None, digits: int = 4) -> str:
    return "not finite" if value is None else f"{value:.{digits}g}"


def _parts(figures: dict[str, float | None]) -> str:
    parts = [
        f"{name.split('/')[1]} {_number(value, 3)}"
        for name, value in figures.items()
        if name.startswith("reward/") and name.endswith("/mean") and name.count("/") == 2
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _accuracies(run: RunStatus) -> str:
    """Accuracies of the finished stages, and the number of finished control arms."""
    stages = run.finished[: run.num_stages]
    shown = [
        stage.name if stage.accuracy is None else f"{stage.name} {stage.accuracy:.3f}"
        for stage in stages
    ]
    arms = len(run.finished) - len(stages)
    return ", ".join([*shown, f"{arms} control arms"] if arms else shown)


def _advice(status: RunStatus) -> Iterator[RenderableType]:
    at = f" at {where(status)}" if where(status) else ""
    if status.state is State.FAILED:
        yield Text(f"failed{at}: {status.why}", style="red")
    elif status.state is State.STOPPED:
        why = f": {status.why}" if status.why else ""
        yield Text(f"stopped{at}{why}", style="yellow")
    elif status.why:
        yield Text(status.why, style="yellow")
    if status.fault:
        yield Text(status.fault, style="red")
    for alert in status.guards:
        yield Text(f"reward hacking? {alert}", style="yellow")
    for warning in status.learning:
        yield Text(f"learns nothing? {warning}", style="yellow")
    if status.resume:
        yield Text(f"resume with: {status.resume}", style="bold")
