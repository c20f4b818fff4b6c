"""Prints a report of a check: label balance, then errors, warnings and areas in order."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.check.recipe_check import Report
from cluster.check.rows import Balance
from cluster.driver.progress import console
from wire.finding import Finding, Level

_SHOWN = 5
_MOST_LABELS = 20
_STYLE = {Level.ERROR: "bold red", Level.WARNING: "bold yellow", Level.OK: "bold green"}
_TITLE = {Level.ERROR: "errors", Level.WARNING: "warnings", Level.OK: "fine"}


def print_report(report: Report) -> None:
    """Print a report: worst findings first, each with its first five places."""
    if report.balance:
        console.print(_balance_table(report.balance, report.recipe.stem))
    print_findings(report.findings)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print findings, the worst first."""
    for level in Level:
        if own := [finding for finding in findings if finding.level is level]:
            console.print(f"{_TITLE[level]} ({len(own)})", style=_STYLE[level])
            for finding in own:
                _print_finding(finding)


def _print_finding(finding: Finding) -> None:
    style = _STYLE[finding.level]
    head = Text.assemble((f"{finding.area.value:>10}", style), "  ", finding.what)
    console.print(head, soft_wrap=True)
    for place in finding.where[:_SHOWN]:
        _say(f"            - {place}")
    if len(finding.where) > _SHOWN:
        _say(f"            - and {len(finding.where) - _SHOWN} more (--json FILE has them all)")
    if finding.remedy:
        _say(f"            -> {finding.remedy}")


def _balance_table(balance: Balance, title: str) -> Table:
    labels = sorted({label for counts in balance.values() for label in counts})
    table = Table(title=f"{title}: clips", box=box.SIMPLE)
    table.add_column("label")
    for split in balance:
        table.add_column(split, justify="right")
    for label in labels[:_MOST_LABELS]:
        table.add_row(label, *(str(counts.get(label, 0)) for counts in balance.values()))
    if len(labels) > _MOST_LABELS:
        rest = labels[_MOST_LABELS:]
        sums = [sum(counts.get(label, 0) for label in rest) for counts in balance.values()]
        table.add_row(f"{len(rest)} more labels", *map(str, sums))
    table.add_section()
    table.add_row("in all", *(str(sum(counts.values())) for counts in balance.values()))
    return table


def _say(text: str) -> None:
    console.print(text, soft_wrap=True)
