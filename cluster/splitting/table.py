"""Table of a measured split, as `deepintuit split --measure` prints it."""

from rich.table import Table

from cluster.driver.progress import console
from cluster.splitting.measure import Measured


def print_measured(measured: Measured) -> None:
    """Print the methods, then the lines that they are held against."""
    table = Table(title="the split, measured", title_justify="left", box=None)
    table.add_column("method", no_wrap=True)
    for name in ("generality", "locality", "mean", "outside", "inside", "drawn"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in measured.methods:
        values = (
            *(one.generality, one.locality, one.mean),
            *(one.lost_outside, one.confused_inside, one.drawn_in),
        )
        table.add_row(one.method, *map(percent, values))
    console.print(table)
    console.print(
        "outside: clips of the parts lost to other labels; inside: confused with another part; "
        "drawn: clips of other labels taken for a part",
        soft_wrap=True,
    )
    console.print(
        f"{measured.num_own} clips of the parts, {measured.num_others} others; the label itself "
        f"was recognised in {percent(measured.recognised)}%; if it always were: a guess among the "
        f"parts {percent(measured.chance)}, always the most frequent {percent(measured.majority)}",
        soft_wrap=True,
    )
    if len(measured.types) > 1:
        kinds = ", ".join(
            f"{kind} {percent(share)} of {count}" for kind, (share, count) in measured.types.items()
        )
        console.print(f"generality by type of modifier: {kinds}", soft_wrap=True)


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal."""
    return "-" if share is None else f"{100 * share:.1f}"
