"""The claims of the method, each judged by the measured figures.

    ArmRows -> judge_claims -> one Claim per promise: threshold, measured, held or not

A promise is judged on the mean over seeds, and only when every seed of the study has what it
needs: with less it is *not measured*, never held. Thresholds were set before the study and are
here alone.
"""

import itertools
import operator
import statistics
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cluster.study.seed_runs import COSTS, ArmRow, ValuePerSeed, mean
from wire.errors import ConfigError


class Outcome(StrEnum):
    """Outcome of a claim."""

    HELD = "held"
    DID_NOT_HOLD = "did not hold"
    NOT_MEASURED = "not measured"
    SHOWN = "shown"
    """Measured without a bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Bound of a mean in points: ``Bound(sign=">=", points=8.0)``."""

    sign: str
    points: float

    def __str__(self) -> str:
        return f"{self.sign} {self.points:.1f}"

    def holds(self, points: float) -> bool:
        """Whether ``points`` is within the bound; shares of clips are inexact in floating point."""
        return _SIGNS[self.sign](round(points, 6), self.points)


_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim with its measured values and its outcome.

    Example:
        Claim(key="b", text="GRPO gains on the cold start", threshold=">= 8.0",
              values=(9.1, 10.3), mean=9.7, outcome=Outcome.HELD, remark="", reason="")
    """

    key: str
    text: str
    threshold: str
    values: ValuePerSeed
    """Values in points (hundredths for Brier), one for each seed."""
    mean: float | None
    """Over the seeds that have a value."""
    outcome: Outcome
    remark: str
    """Remark for the reader, such as a cost."""
    reason: str
    """Reason from notes.toml, where the claim did not hold or was not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A claim about one figure of two arms: ``better`` - ``than``."""

    key: str
    text: str
    better: str
    than: str
    bound: Bound | None
    """Bound of the mean; None: shown without one."""
    figure: str = "accuracy"
    lower_is_better: bool = False
    """The difference is then ``than`` - ``better``: how much lower."""
    shows_cost: bool = False


_ABOVE = Bound(sign=">", points=0.0)
_NEVER = "accuracy_never"
_VIDEO_ONLY = ("video_only_1x", "video_only_3x", "video_only_10x")
_WELL_BELOW = Bound(sign=">=", points=20.0)  # our reading of "well below"

_UNTRAINED = (
    ("policy_probability", "the policy's own probabilities"),
    ("vote", "the vote's shares"),
)
_CALIBRATION = (
    ("ece", "ECE", True),
    ("brier", "Brier score", True),
    ("selective_accuracy", "accuracy on the surest 80%", False),
)

_FIRST = (
    Difference(
        key="a",
        text="the cold start is at its plateau: twice the epochs gain little (on val)",
        better="coldstart_2x",
        than="coldstart_val",
        bound=Bound(sign="<", points=1.0),
    ),
    Difference(
        key="b",
        text="GRPO gains on the cold start",
        better="grpo",
        than="coldstart",
        bound=Bound(sign=">=", points=8.0),
    ),
    Difference(
        key="c",
        text="GRPO is above rejection sampling with as many rollouts",
        better="grpo",
        than="rejection",
        bound=_ABOVE,
        shows_cost=True,
    ),
    Difference(
        key="d",
        text="the verdict gains on GRPO's written answer",
        better="calibrated",
        than="grpo",
        bound=Bound(sign=">=", points=3.0),
    ),
    Difference(
        key="e",
        text="the verdict is above the same without a trace",
        better="calibrated",
        than="video_only_1x",
        bound=_ABOVE,
    ),
    Difference(
        key="f",
        text="own traces are above the teacher's to train the verdict on",
        better="calibrated",
        than="verdict_teacher",
        bound=_ABOVE,
    ),
    Difference(
        key="g",
        text="the verdict is above a vote of several traces",
        better="calibrated",
        than="vote",
        bound=_ABOVE,
        shows_cost=True,
    ),
    Difference(
        key="h1",
        text="in groups that train never labels, GRPO is far above video only",
        better="grpo",
        than="video_only_1x",
        bound=Bound(sign=">=", points=20.0),
        figure=_NEVER,
    ),
)
_SECOND = (
    Difference(
        key="i",
        text="in groups that train never labels, the verdict is not below GRPO's written answer",
        better="calibrated",
        than="grpo",
        bound=Bound(sign=">=", points=0.0),
        figure=_NEVER,
    ),
    *(
        Difference(
            key=f"j{number}",
            text=f"{text} of the verdict is better than that of {whose}",
            better="calibrated",
            than=than,
            bound=_ABOVE,
            figure=figure,
            lower_is_better=lower_is_better,
        )
        for number, ((than, whose), (figure, text, lower_is_better)) in enumerate(
            itertools.product(_UNTRAINED, _CALIBRATION), start=1
        )
    ),
)
_LAST = (
    Difference(
        key="k3",
        text="GRPO is far above itself on shuffled frames",
        better="grpo",
        than="shuffled",
        bound=_WELL_BELOW,
    ),
    Difference(
        key="k4",
        text="the verdict is far above itself on shuffled frames",
        better="calibrated",
        than="verdict_shuffled",
        bound=_WELL_BELOW,
    ),
    Difference(
        key="l",
        text="the verdict against GRPO with its clips and as many steps again",
        better="calibrated",
        than="grpo_more",
        bound=None,
        shows_cost=True,
    ),
)
CLAIM_KEYS = (
    *(one.key for one in _FIRST),
    "h2",
    *(one.key for one in _SECOND),
    "k1",
    "k2",
    *(one.key for one in _LAST),
)
"""Keys of all claims, in the order of the table."""


def judge_claims(rows: Mapping[str, ArmRow], notes: Mapping[str, str]) -> tuple[Claim, ...]:
    """Judge every claim, in order. ``notes``: reasons by key, or by letter for all of a letter."""
    return (
        *(_judge_difference(one, rows, notes) for one in _FIRST),
        _against_best_video_only(rows, notes),
        *(_judge_difference(one, rows, notes) for one in _SECOND),
        _on_the_floor(
            "k1", "GRPO on blank clips is no better than one constant answer", rows["blank"], notes
        ),
        _on_the_floor(
            "k2",
            "the verdict on blank clips is no better than one constant answer",
            rows["verdict_blank"],
            notes,
        ),
        *(_judge_difference(one, rows, notes) for one in _LAST),
    )


def read_notes(path: Path) -> dict[str, str]:
    """Read reasons by claim from ``[notes]`` of a TOML file; empty without the file.

    A key is a claim's (``h1``), or a letter for all of that letter. Raises ConfigError.
    """
    if not path.exists():
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; mend that line") from error
    notes = values.get("notes")
    known = {key for claim in CLAIM_KEYS for key in (claim, claim[0])}
    if list(values) != ["notes"] or not isinstance(notes, dict):
        raise ConfigError(f"{path} has {list(values)}, expected one section [notes]")
    for key, text in notes.items():
        if key not in known or not isinstance(text, str):
            raise ConfigError(
                f"{path}: {key} = {text!r}, expected text for one of {', '.join(sorted(known))}"
            )
    return notes


def _judge_difference(
    asked: Difference, rows: Mapping[str, ArmRow], notes: Mapping[str, str]
) -> Claim:
    better, than = rows[asked.better], rows[asked.than]
    values = _differences(better, than, asked.figure)
    if asked.lower_is_better:
        values = tuple(None if value is None else -value for value in values)
    levels = _levels(better, than, asked.figure)
    remarks = [levels]
    if asked.shows_cost:
        remarks += [_cost_text(better), _cost_text(than)]
    if levels and asked.figure == "brier":  # an unparsed answer has no probabilities, so no score
        remarks.append(f"clips with a score: {_levels(better, than, 'probabilities_frac')}")
    return _claim(
        asked.key,
        asked.text,
        asked.bound,
        values,
        "; ".join(remark for remark in remarks if remark),
        notes,
    )


def _against_best_video_only(rows: Mapping[str, ArmRow], notes: Mapping[str, str]) -> Claim:
    """The multiple with the highest mean stands for all; a missing one might have been it."""
    text = "the same against the best of the video-only multiples"
    arms = [rows[name] for name in _VIDEO_ONLY]
    complete = all(None not in arm.values(_NEVER) for arm in arms)
    best = max(arms, key=lambda arm: mean(arm.values(_NEVER)) or 0.0)
    values = _differences(rows["grpo"], best, _NEVER) if complete else (None,) * len(best.figures)
    remark = f"best: {_levels(rows['grpo'], best, _NEVER)}" if complete else ""
    return _claim("h2", text, Bound(sign=">=", points=20.0), values, remark, notes)


def _on_the_floor(key: str, text: str, row: ArmRow, notes: Mapping[str, str]) -> Claim:
    """Accuracy at most the upper end of the 95% interval of the best constant answer's."""
    values = _points(row.values("accuracy"))
    floor = mean(_points(row.values("floor")))
    constant = mean(_points(row.values("best_constant")))
    remark = (
        ""
        if constant is None
        else (f"best constant answer {constant:.1f}; threshold: upper end of its 95% interval")
    )
    bound = Bound(sign="<=", points=round(floor, 6)) if floor is not None else None
    return _claim(key, text, bound, values, remark, notes)


def _claim(
    key: str,
    text: str,
    bound: Bound | None,
    values: ValuePerSeed,
    remark: str,
    notes: Mapping[str, str],
) -> Claim:
    average = mean(values)
    if average is None or None in values:
        outcome = Outcome.NOT_MEASURED
    elif bound is None:
        outcome = Outcome.SHOWN
    else:
        outcome = Outcome.HELD if bound.holds(average) else Outcome.DID_NOT_HOLD
    return Claim(
        key=key,
        text=text,
        threshold=str(bound) if bound else "",
        values=values,
        mean=average,
        outcome=outcome,
        remark=remark,
        reason="" if outcome is Outcome.HELD else notes.get(key, notes.get(key[0], "")),
    )


def _points(values: ValuePerSeed) -> ValuePerSeed:
    return tuple(None if value is None else 100 * value for value in values)


def _differences(after: ArmRow, before: ArmRow, figure: str) -> ValuePerSeed:
    return tuple(
        None if a is None or b is None else 100 * (a - b)
        for a, b in zip(after.values(figure), before.values(figure), strict=True)
    )


def _levels(better: ArmRow, than: ArmRow, figure: str) -> str:
    """Means of both arms, over the seeds that have both."""
    pairs = zip(better.values(figure), than.values(figure), strict=True)
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not both:
        return ""
    first, second = (100 * statistics.fmean(values) for values in zip(*both, strict=True))
    return f"{better.name} {first:.1f}, {than.name} {second:.1f}"


def _cost_text(row: ArmRow) -> str:
    """Cost of an arm, mean over seeds: ``vote: 8,000 rollouts``."""
    parts = [
        f"{average:,.0f} {text}" for key, text in COSTS.items() if (average := mean(row.cost(key)))
    ]
    return f"{row.name}: {', '.join(parts)}" if parts else ""
