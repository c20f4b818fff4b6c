"""Comparison of two classifiers on the same clips: which is better, by how much, or is it chance?

    Predictions before, Predictions after -> matched by sample id -> Comparison
    one such pair for each seed                                   -> SeedComparison

Each function names its formula's source. "Before" and "after" are only names: any two classifiers
that answered the same clips can be compared.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from calibrate.metrics import wilson_interval
from calibrate.predictions import Prediction
from wire.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """Changes of answers from a first classifier to a second, counted in clips."""

    both_right: int
    both_wrong: int
    wrong_to_right: int
    right_to_wrong: int
    p_value: float
    """Exact two-sided McNemar test of the last two counts being equal; 1 if both are 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Comparison of two classifiers on the same clips; shares are in [0, 1]."""

    num_samples: int
    accuracy_before: float
    accuracy_after: float
    difference: float
    """Accuracy after - before."""
    difference_low: float
    """Lower end of the 95% interval for paired shares (Newcombe 1998)."""
    difference_high: float
    flips: Flips


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedComparison:
    """Comparison of the same two classifiers under several seeds."""

    differences: tuple[float, ...]
    """Accuracy after - before of each seed, in the order given."""
    mean_difference: float
    """Each seed weighs the same."""
    mean_low: float | None
    """Lower end of Student's 95% interval over seeds; None with one seed: it says nothing of
    others."""
    mean_high: float | None
    flips: Flips
    """Counts over the clips of all seeds, and the stratified McNemar test with a seed as stratum.

    Given the changed clips of a stratum, each is a gain with probability 1/2 if the classifiers are
    equal; so are those of all strata together, and the exact test is the one of the sums. It takes
    clips for independent: one that is in several seeds counts once in each, and the p-value speaks
    of these clips, not of others.
    """


def compare(before: Sequence[Prediction], after: Sequence[Prediction]) -> Comparison:
    """Compare two classifiers on the same clips, matched by sample id, in any order.

    Raises DataError unless both have each clip exactly once, with the same true label.
    """
    flips = count_flips(before, after)
    low, high = paired_interval(flips)
    num_before = flips.both_right + flips.right_to_wrong
    num_after = flips.both_right + flips.wrong_to_right
    return Comparison(
        num_samples=len(before),
        accuracy_before=num_before / len(before),
        accuracy_after=num_after / len(before),
        difference=(num_after - num_before) / len(before),
        difference_low=low,
        difference_high=high,
        flips=flips,
    )


def compare_seeds(
    pairs: Sequence[tuple[Sequence[Prediction], Sequence[Prediction]]],
) -> SeedComparison:
    """Compare two classifiers over seeds; a pair is (before, after) of one seed.

    Seeds may have different clips. Raises DataError on no pairs, or as ``compare`` does.
    """
    if not pairs:
        raise DataError("no seeds to compare; give one pair of predictions for each")
    comparisons = [compare(before, after) for before, after in pairs]
    differences = [one.difference for one in comparisons]
    interval = mean_interval(differences)
    return SeedComparison(
        differences=tuple(differences),
        mean_difference=math.fsum(differences) / len(differences),
        mean_low=interval and interval[0],
        mean_high=interval and interval[1],
        flips=_flips(
            both_right=sum(one.flips.both_right for one in comparisons),
            both_wrong=sum(one.flips.both_wrong for one in comparisons),
            wrong_to_right=sum(one.flips.wrong_to_right for one in comparisons),
            right_to_wrong=sum(one.flips.right_to_wrong for one in comparisons),
        ),
    )


def count_flips(before: Sequence[Prediction], after: Sequence[Prediction]) -> Flips:
    """Counts of changed answers between two classifiers on the same clips; conditions as
    ``compare``."""
    first, second = _by_sample(before), _by_sample(after)
    shared = first.keys() & second.keys()
    if alone := sorted(first.keys() ^ second.keys()):
        raise DataError(
            f"of {len(first)} and {len(second)} clips {len(shared)} are shared, and "
            f"{alone[0]!r}, for one, is not; evaluate both alike, or compare the shared clips"
        )
    if not shared:
        raise DataError("no clips to compare; select a split that has clips")
    for name in sorted(shared):
        if first[name].label != second[name].label:
            raise DataError(
                f"the label of clip {name!r} is {first[name].label!r} in one list and "
                f"{second[name].label!r} in the other; evaluate both with one manifest"
            )
    pairs = Counter((_is_right(first[name]), _is_right(second[name])) for name in shared)
    return _flips(
        both_right=pairs[True, True],
        both_wrong=pairs[False, False],
        wrong_to_right=pairs[False, True],
        right_to_wrong=pairs[True, False],
    )


def mcnemar_p_value(wrong_to_right: int, right_to_wrong: int) -> float:
    """Exact two-sided McNemar test: binomial test of the changed clips with p = 1/2.

    In whole numbers throughout, so it is exact for any counts.
    """
    changed = wrong_to_right + right_to_wrong
    ways = tail = 1  # to choose i of the changed clips, and their sum up to the smaller count
    for i in range(min(wrong_to_right, right_to_wrong)):
        ways = ways * (changed - i) // (i + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << changed))


def paired_interval(flips: Flips) -> tuple[float, float]:
    """95% interval of accuracy after - before on the same clips (Newcombe 1998, method 10).

    Wilson's interval of each share, squared and added, less what the correlation phi of the two
    answers explains; a positive phi is corrected for continuity. Statistics in Medicine 17, 2635.
    """
    right, wrong = flips.both_right, flips.both_wrong
    gained, lost = flips.wrong_to_right, flips.right_to_wrong
    total = right + wrong + gained + lost
    after, before = (right + gained) / total, (right + lost) / total
    after_low, after_high = wilson_interval(right + gained, total)
    before_low, before_high = wilson_interval(right + lost, total)
    product = (right + gained) * (wrong + lost) * (right + lost) * (wrong + gained)
    covariance = float(right * wrong - gained * lost)
    if covariance > 0:
        covariance = max(covariance - total / 2, 0.0)
    phi = covariance / math.sqrt(product) if product else 0.0
    down = _distance(after - after_low, before_high - before, phi)
    up = _distance(after_high - after, before - before_low, phi)
    return max(-1.0, after - before - down), min(1.0, after - before + up)


def _distance(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95% interval of the mean (Student 1908); None for one value."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # a second, which the command line does not need

    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = float(stdtrit(len(values) - 1, 0.975)) * math.sqrt(variance / len(values))
    return mean - half, mean + half


def _flips(*, both_right: int, both_wrong: int, wrong_to_right: int, right_to_wrong: int) -> Flips:
    return Flips(
        both_right=both_right,
        both_wrong=both_wrong,
        wrong_to_right=wrong_to_right,
        right_to_wrong=right_to_wrong,
        p_value=mcnemar_p_value(wrong_to_right, right_to_wrong),
    )


def _by_sample(predictions: Sequence[Prediction]) -> dict[str, Prediction]:
    by_sample = {p.sample_id: p for p in predictions}
    if len(by_sample) != len(predictions):
        twice = Counter(p.sample_id for p in predictions).most_common(1)[0][0]
        raise DataError(f"clip {twice!r} has several predictions; expected one for each")
    return by_sample


def _is_right(prediction: Prediction) -> bool:
    return prediction.predicted == prediction.label
