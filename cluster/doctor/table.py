"""The doctor's findings as a table that grows while the checks run."""

import time

from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.doctor.catalogue import Check
from cluster.doctor.runner import Result
from cluster.driver.progress import console

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


class DoctorTable:
    """Shows each check as it runs; a line for each where the output is no terminal."""

    def __init__(self) -> None:
        self._results: list[Result] = []
        self._running: Check | None = None
        self._since = 0.0
        live = Live(get_renderable=self._table, console=console, refresh_per_second=4)
        self._live = live if console.is_terminal else None

    def __enter__(self) -> "DoctorTable":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = None
        if self._live:
            self._live.stop()
        else:
            console.print(self._table())

    def start(self, check: Check) -> None:
        """Show that a check has started."""
        self._running, self._since = check, time.monotonic()

    def end(self, result: Result) -> None:
        """Show a check's result."""
        self._results.append(result)
        self._running = None
        if not self._live:
            console.print(f"{result.name}: {result.status}")

    def _table(self) -> Table:
        table = Table(title="deepintuit doctor", box=box.SIMPLE)
        for name in ("check", "status"):
            table.add_column(name, no_wrap=True)
        table.add_column("found", overflow="fold")
        table.add_column("seconds", justify="right", no_wrap=True)
        for result in self._results:
            text = Text(result.found)
            if result.remedy:
                text = Text.assemble(text, "\n", ("do:", "bold"), " ", result.remedy)
            status = Text(result.status, style=_COLOURS[result.status])
            table.add_row(result.name, status, text, f"{result.seconds:.1f}")
        if check := self._running:
            spent = time.monotonic() - self._since
            table.add_row(check.name, "...", f"at most {check.deadline_s:.0f} s", f"{spent:.0f}")
        return table
