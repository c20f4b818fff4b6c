"""Results of a split benchmark: every target, method and seed, their means, JSON and table rows.

{method: {seed: one SplitScore per target}} -> MethodResult -> BenchmarkReport
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calibrate.splitting.benchmark_config import SplitMethod
from calibrate.splitting.metrics import SplitScore, Summary, by_modifier_type, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodResult:
    """Scores of one method."""

    method: SplitMethod
    scores: Mapping[int, Sequence[SplitScore]]
    """Of each seed, one per target; of a method that no seed changes, one seed's."""
    types: Mapping[str, str]
    """Modifier type of each sub-class."""

    @property
    def summary(self) -> Summary:
        """Means over targets and seeds."""
        return summarise(self.scores)

    @property
    def by_type(self) -> dict[str, tuple[float, int]]:
        """Share of right clips, and number of clips over all seeds, per modifier type."""
        every = [score for of_seed in self.scores.values() for score in of_seed]
        return by_modifier_type(every, self.types)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkReport:
    """Results of all methods on one side of a data set."""

    dataset: str
    side: str
    encoder: str
    targets: tuple[str, ...]
    num_modifiers: int
    """Entries of the dictionary."""
    base_accuracy: float
    """Share of val clips that the head gets right before any edit."""
    coarse_recall: float
    """Mean over targets of the share of their clips that the head gives to the target."""
    results: tuple[MethodResult, ...]
    left_out: Mapping[str, str]
    """Methods that did not run, with the reason."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; shares, not percentages."""
        return {
            "dataset": self.dataset,
            "side": self.side,
            "encoder": self.encoder,
            "num_modifiers": self.num_modifiers,
            "base_accuracy": self.base_accuracy,
            "coarse_recall": self.coarse_recall,
            "methods": {
                result.method.value: {
                    "summary": asdict(result.summary),
                    "by_type": {
                        kind: {"accuracy": share, "clips": clips}
                        for kind, (share, clips) in result.by_type.items()
                    },
                    "targets": {
                        target: {
                            str(seed): {**asdict(of_seed[number]), "mean": of_seed[number].mean}
                            for seed, of_seed in result.scores.items()
                        }
                        for number, target in enumerate(self.targets)
                    },
                }
                for result in self.results
            },
            "left_out": dict(self.left_out),
        }

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Head and rows of a table in percent, the two reference lines last."""
        head = ("method", "G", "L", "mean", "outside", "inside", "drawn in", "seeds")
        rows = [_row(result) for result in self.results]
        if self.results:
            lines = self.results[0].summary
            rows.append(("1/k, target always known", _percent(lines.chance), *[""] * 6))
            rows.append(("majority, target always known", _percent(lines.majority), *[""] * 6))
        return head, rows

    def type_table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Head and rows: accuracy of each method's sub-classes per modifier type, in percent."""
        kinds = sorted({kind for result in self.results for kind in result.by_type})
        rows = []
        for result in self.results:
            shares = result.by_type
            cells = [_percent(shares[kind][0]) if kind in shares else "" for kind in kinds]
            rows.append((result.method.value, *cells))
        return ("method", *kinds), rows


def _row(result: MethodResult) -> tuple[str, ...]:
    summary = result.summary
    spread = summary.generality_deviation
    generality = _percent(summary.generality)
    return (
        result.method.value,
        generality if spread is None else f"{generality} (sd {100 * spread:.1f})",
        _percent(summary.locality),
        _percent(summary.mean),
        _percent(summary.lost_outside),
        _percent(summary.confused_inside),
        _percent(summary.drawn_in),
        str(summary.num_seeds),
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
