"""The table that a run ends with."""

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from cluster.progress import console


def print_summary(summary: dict[str, Any], run_dir: Path) -> None:
    """Stages and control arms with intervals, baselines, memory, and where the rest is."""
    table = Table(title=f"{run_dir.name}: seed {summary['seed']}", box=box.SIMPLE)
    columns = ("stage", "accuracy", "95% interval", "macro F1", "balanced", "ECE", "seconds")
    for name in columns:
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    for row in summary["stages"]:
        table.add_row(*_cells(row))
    if summary["head"]:
        table.add_row(*_cells(summary["head"]))
    for row in summary["controls"]:
        if "accuracy" in row:
            table.add_row(*_cells(row | {"name": f"{row['name']} ({row['split']})"}))
    majority = summary["baselines"]["majority"]
    if majority is not None:
        table.add_row("majority label", f"{majority:.3f}", "", "", "", "", "")
    console.print(table)
    console.print(f"peak memory {summary['peak_memory_gb']:.1f} GB; results in {run_dir}")


def _cells(row: dict[str, Any]) -> list[str]:
    low, high = row["accuracy_ci"]
    figures = [f"{row[key]:.3f}" for key in ("macro_f1", "balanced_accuracy", "ece")]
    seconds = f"{row['seconds']:.0f}" if "seconds" in row else ""
    return [row["name"], f"{row['accuracy']:.3f}", f"{low:.3f} - {high:.3f}", *figures, seconds]
