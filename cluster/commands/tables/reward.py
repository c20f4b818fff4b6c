"""Tables of the reward tools' results, for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.driver.progress import console
from reward.tools.bench import Timing
from reward.tools.lint import TermReport, Value
from reward.tools.score_change import Change, Means
from wire.finding import Level

_MOST_PLACES = 5
_STYLE = {Level.ERROR: "bold red", Level.WARNING: "bold yellow", Level.OK: "bold green"}


def print_lint(reports: Sequence[TermReport]) -> None:
    """Print each term with its arguments and findings, then the value of every sample trace."""
    for report in reports:
        console.print(Text.assemble((report.part, "bold"), "  ", report.function))
        _say(f"  {report.style}")
        width = max((len(a.name) for a in report.arguments), default=0)
        for argument in report.arguments:
            _say(f"    {argument.name:<{width}}  {argument.filled_by}")
        for finding in report.findings:
            style = _STYLE[finding.level]
            head = Text.assemble("  ", (finding.level.value, style), "  ", finding.what)
            console.print(head, soft_wrap=True)
            if finding.where:
                more = len(finding.where) - _MOST_PLACES
                shown = ", ".join(finding.where[:_MOST_PLACES])
                _say(f"    on: {shown}" + (f" and {more} more" if more > 0 else ""))
            _say(f"    -> {finding.remedy}")
        if not report.findings:
            slowest = 1000 * (report.slowest_s or 0.0)
            _say(f"  nothing wrong; {slowest:.1f} ms at most for a trace, pipe included")
    if any(report.values for report in reports):
        console.print(_values_table([report for report in reports if report.values]))


def _values_table(reports: Sequence[TermReport]) -> Table:
    table = _table("what each trace is given", ("trace",), [report.part for report in reports])
    for case in reports[0].values:
        table.add_row(case, *(_cell(report.values.get(case)) for report in reports))
    return table


def _cell(value: Value) -> str:
    if isinstance(value, str):
        return "fails"
    return "none" if value is None else f"{value:.4g}"


def print_timings(timings: Sequence[Timing], skipped: Sequence[str]) -> None:
    """Print a row per term."""
    figures = ("traces/s", "p50 ms", "p99 ms", "seconds", "plain loop", "overhead", "failed")
    of = f"{timings[0].num_traces} traces" if timings else ""
    table = _table(of, ("term", "call"), figures)
    for timing in timings:
        table.add_row(timing.part, timing.call, *_timing_cells(timing))
    if timings:
        console.print(table)
        _say(
            "p50, p99: of one call; plain loop: seconds of the same calls in one bare process; "
            "overhead: seconds beyond it"
        )
    for part in skipped:
        _say(f"{part}: left out, since every trace would be a paid request; `rescore` caches them")
    for timing in timings:
        if timing.reason:
            _say(f"{timing.part} failed on {timing.num_failed} traces, first: {timing.reason}")


def _timing_cells(timing: Timing) -> list[str]:
    return [
        f"{timing.traces_per_s:.0f}",
        f"{1000 * timing.p50_s:.2f}",
        f"{1000 * timing.p99_s:.2f}",
        f"{timing.seconds:.2f}",
        "" if timing.plain_s is None else f"{timing.plain_s:.2f}",
        "" if timing.overhead_s is None else f"{timing.overhead_s:+.2f}",
        str(timing.num_failed),
    ]


def print_change(change: Change) -> None:
    """Print means before and now, then figures of the groups' order and signal."""
    table = _table("mean before and now", ("part", "label"), ("before", "now", "n before", "n now"))
    for row in change.means:
        table.add_row(row.part, row.label or "all", *_mean_cells(row))
    console.print(table)
    failed = f"{change.num_failed_before} before, {change.num_failed_now} now"
    _say(f"{change.num_traces} traces of {change.num_groups} groups; not scored: {failed}")
    _say(f"rank correlation of the totals (Spearman): {_maybe(change.rank_correlation)}")
    _say(
        f"mean within a group, over the {change.num_ranked_groups} groups that rank their traces "
        f"both times: {_maybe(change.rank_correlation_in_groups)}"
    )
    _say(
        f"{change.num_flipped} of {change.num_comparable} groups would flip their best trace; "
        f"groups with signal: {change.num_with_signal_before} before, "
        f"{change.num_with_signal_now} now"
    )


def _mean_cells(row: Means) -> list[str]:
    return [_maybe(row.before), _maybe(row.now), str(row.num_before), str(row.num_now)]


def _maybe(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(title: str, names: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE)
    for name in names:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _say(text: str) -> None:
    console.print(text, soft_wrap=True)
