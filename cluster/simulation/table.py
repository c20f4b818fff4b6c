"""Prints a simulated run."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from cluster.driver.progress import console
from cluster.driver.units import format_duration
from cluster.simulation.limits import Change
from cluster.simulation.result import SimulatedRun


def print_simulation(
    title: str, run: SimulatedRun, changes: Sequence[Change], notes: Sequence[str]
) -> None:
    """Print what a simulated run did, what limits it, and what was assumed."""
    title = f"{title}: simulated (nothing was started)"
    table = Table(title=title, box=box.SIMPLE, show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("")
    for row in _rows(run):
        table.add_row(*row)
    console.print(table)
    if changes:
        console.print(_changes(changes))
        console.print(f"limit: {limit_in_words(changes)}", soft_wrap=True)
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False)


def limit_in_words(changes: Sequence[Change]) -> str:
    """What limits a run: the change that would help most."""
    best = max(changes, key=lambda change: change.gain)
    if best.gain < 0.02:
        return "nothing alone; no single change gives more than 2%"
    return f"{best.part}; {best.remedy} gives {best.gain:+.0%} traces/s"


def _rows(run: SimulatedRun) -> list[tuple[str, str, str]]:
    traces = f"{run.traces_per_s:,.1f}"
    rows = [
        ("workers", f"{run.workers:,}", f"{run.mean_serving:,.1f} served on average"),
        ("steps", f"{run.num_steps:,}", f"in {format_duration(run.seconds)}"),
        ("steps per hour", f"{run.steps_per_hour:,.1f}", f"{run.step_s:,.1f} s each"),
        ("traces per second", traces, f"{run.tokens_per_s:,.0f} tokens"),
        (
            "idle workers",
            _share(run.idle_workers),
            f"halted for weights {_share(run.halted_workers)}",
        ),
        ("idle learner", _share(run.idle_learner), _spent(run.learner_shares)),
        ("driver's process", _share(run.busy_driver), "of one core"),
        ("network of the learner's node", _share(run.busy_network), "sending weights"),
        ("staleness", "", _histogram(run.staleness)),
        ("tokens lost", _share(run.lost_frac), _losses(run)),
    ]
    if run.effective_training_time_ratio is not None:
        ratio = run.effective_training_time_ratio
        rows.append(("effective training time", f"{ratio:.2f}", "of what it takes without faults"))
    if run.ended:
        rows.append(("ended early", "", run.ended))
    return rows


def _spent(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_share(share)}" for name, share in shares.items() if share > 0.0005)


def _histogram(staleness: Mapping[int, float]) -> str:
    return (
        ", ".join(f"{lag}: {_share(share)}" for lag, share in sorted(staleness.items())) or "none"
    )


def _losses(run: SimulatedRun) -> str:
    faults = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in run.faults.items())
    dropped = f"{run.dropped_groups} groups and {run.dropped_traces} traces dropped"
    return f"{faults or 'no faults'}; {run.restarts} engines started later; {dropped}"


def _share(share: float) -> str:
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def _changes(changes: Sequence[Change]) -> Table:
    table = Table(title="what would change traces per second", box=box.SIMPLE)
    table.add_column("change", no_wrap=True)
    table.add_column("traces/s", justify="right", no_wrap=True)
    table.add_column("gain", justify="right", no_wrap=True)
    for change in sorted(changes, key=lambda change: -change.gain):
        table.add_row(change.remedy, f"{change.traces_per_s:,.1f}", f"{change.gain:+.1%}")
    return table
