"""Prints the table at the end of a run and the tables of `deepintuit compare`."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from calibrate.compare import Comparison
from calibrate.metrics import COVERAGE, Evaluation
from cluster.driver.progress import console
from cluster.study.compare import PairedTest, RunComparison


def print_comparison(comparison: RunComparison, price_per_hour: float | None = None) -> None:
    """Print figures of the arms of runs and the cost of their answers, then the paired tests
    between them. ``price_per_hour``: of the machines that a run had."""
    runs = list(dict.fromkeys(arm.run for arm in comparison.arms))
    many = len(runs) > 1
    title = ("all runs" if many else runs[0]) + (
        ", the clips that all share" if comparison.only_shared else ""
    )
    minority = next(iter({arm.evaluation.minority for arm in comparison.arms}), None)
    more = () if minority is None else (f"F1 {minority}",)
    table = _table(title, ("run", "stage") if many else ("stage",), (*_FIGURES, *more))
    for arm in comparison.arms:
        figures = _figures(arm.evaluation)
        if minority is not None:
            f1 = arm.evaluation.per_label[minority].f1
            figures.append("" if f1 is None else f"{f1:.3f}")
        table.add_row(*_names(many, arm.run, arm.name), *figures)
    console.print(table)
    console.print(f"top {COVERAGE:.0%}: accuracy on the most confident {COVERAGE:.0%} of the clips")
    if any(arm.inference for arm in comparison.arms):
        _print_costs(comparison, many, price_per_hour)
    if comparison.tests:
        _print_tests(comparison.tests, many)
    for one in comparison.classifiers:
        name = " ".join(_names(many, one.run, f"classifier of {one.stage}"))
        console.print(f"{name}: {one.method}", soft_wrap=True)
        for line in one.lines:
            console.print(f"- {line}", soft_wrap=True)


def _print_costs(comparison: RunComparison, many: bool, price_per_hour: float | None) -> None:
    price = () if price_per_hour is None else ("price of 1,000",)
    heads = ("run", "stage") if many else ("stage",)
    table = _table("an answer at inference, mean per clip", heads, (*_COSTS, *price))
    for arm in comparison.arms:
        if (cost := arm.inference) is None:
            continue
        cells = [
            f"{cost.prompt_tokens:.1f}",
            f"{cost.video_tokens:.1f}",
            f"{cost.generated_tokens:.1f}",
            "" if cost.seconds is None else f"{cost.seconds:.4f}",
        ]
        if price_per_hour is not None:
            thousand = cost.price(price_per_hour)
            cells.append("" if thousand is None else f"{thousand:.4f}")
        table.add_row(*_names(many, arm.run, arm.name), *cells)
    console.print(table)
    console.print("seconds: of the whole measurement, by its clips, on the machine of the run")


def _print_tests(tests: Sequence[PairedTest], many: bool) -> None:
    table = _table("second - first, on the same clips", ("first", "second"), _DIFFERENCES)
    for test in tests:
        first = " ".join(_names(many, test.run_before, test.name_before))
        second = " ".join(_names(many, test.run_after, test.name_after))
        table.add_row(first, second, *_difference(test.comparison))
    console.print(table)
    console.print(
        "interval: Newcombe's for paired shares; gained, lost: clips that only the second, only the"
        f"\nfirst has right; p: exact McNemar, not corrected for the number of tests ({len(tests)})"
    )


_FIGURES = ("clips", "accuracy", "95% interval", "macro F1", "ECE", "Brier", f"top {COVERAGE:.0%}")
_COSTS = ("prompt tokens", "of them video", "written tokens", "seconds")
_DIFFERENCES = ("difference", "95% interval", "gained", "lost", "p")


def _table(title: str, names: Sequence[str], figures: Sequence[str]) -> Table:
    """Names may be long: they are folded, so that no figure is cut."""
    table = Table(title=title, box=box.SIMPLE)
    for name in names:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _figures(e: Evaluation) -> list[str]:
    brier = "" if e.brier is None else f"{e.brier:.3f}"
    return [
        str(e.num_samples),
        f"{e.accuracy:.3f}",
        f"{e.accuracy_low:.3f} - {e.accuracy_high:.3f}",
        f"{e.macro_f1:.3f}",
        f"{e.ece:.3f}",
        brier,
        f"{e.selective_accuracy:.3f}",
    ]


def _names(many: bool, run: str, name: str) -> list[str]:
    """Cells with an arm's name; with one run alone, without the run's name."""
    return [run, name] if many else [name]


def _difference(comparison: Comparison) -> list[str]:
    p = comparison.flips.p_value
    return [
        f"{comparison.difference:+.3f}",
        f"{comparison.difference_low:+.3f} to {comparison.difference_high:+.3f}",
        str(comparison.flips.wrong_to_right),
        str(comparison.flips.right_to_wrong),
        "<0.001" if p < 0.001 else f"{p:.3f}",
    ]
