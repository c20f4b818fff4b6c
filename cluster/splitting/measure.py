"""Measure of a split on labelled clips: every method beside the one that was published.

    clips with fine labels -> generality (on the parts), locality (on all else), for each method
                           -> 1/k and majority: what guessing in a perfect coarse label brings

Methods that draw numbers are measured with three seeds, as the paper does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np

from calibrate.splitting.edit import SplitHead
from calibrate.splitting.low_shot import coarse_start, random_start
from calibrate.splitting.metrics import (
    Clips,
    Evaluation,
    SplitScore,
    by_modifier_type,
    one_crop_each,
    summarise,
)
from calibrate.splitting.protocols import TextEncoder
from calibrate.splitting.splitter import Bias, Method, Shots, Splitting, standardised
from calibrate.splitting.vlm_baseline import score_baseline
from cluster.splitting.clip_features import LabelledClips
from wire.errors import DataError

SEEDS = (0, 1, 2)
PUBLISHED = "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodScore:
    """Measures of one method, the mean over its seeds; shares."""

    method: str
    generality: float
    locality: float | None
    mean: float | None
    lost_outside: float
    confused_inside: float
    drawn_in: float
    num_seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Measures of a split on the clips of a manifest."""

    num_own: int
    """Clips of the parts."""
    num_others: int
    recognised: float
    """Share of the parts' clips that the classifier before the split gives the label itself."""
    chance: float
    """1/k"""
    majority: float
    """Share of the most frequent part."""
    methods: tuple[MethodScore, ...]
    types: Mapping[str, tuple[float, int]]
    """Generality of the published head by type of modifier, and its clips."""

    def as_json(self) -> dict[str, Any]:
        """Its fields by name."""
        return asdict(self)


def measure(
    splitting: Splitting,
    published: SplitHead,
    encoder: TextEncoder,
    *,
    clips: LabelledClips,
    baseline: TextEncoder,
    shots: Shots | None = None,
) -> Measured:
    """Measure a published split and all other methods on clips. ``baseline``: encodes texts into
    the space of the clips' looks, the policy's; ``shots``: what a low-shot split learned from.
    Raises DataError without clips of the parts, or of other labels."""
    evaluation, own = _evaluation(splitting, clips)
    score = evaluation.score(published)
    texts = baseline.encode([part.label for part in splitting.parts])
    rows = {
        PUBLISHED: [score],
        "VLM: the policy": [score_baseline(evaluation, own.looks, texts)],
        **{
            name: list(map(evaluation.score, heads))
            for name, heads in _heads(splitting, encoder, shots)
        },
    }
    before = evaluation.base_predictions()
    return Measured(
        num_own=len(own),
        num_others=len(clips) - len(own),
        recognised=float((before == evaluation.coarse).mean()),
        chance=score.chance,
        majority=score.majority,
        methods=tuple(_mean(name, scores) for name, scores in rows.items()),
        types=by_modifier_type([score], splitting.texts.types),
    )


def refuse_one_sided(num_own: int, num_others: int) -> None:
    """Raise DataError unless there are clips of the parts and of other labels to measure on."""
    if not num_own or not num_others:
        raise DataError(
            f"of {num_own + num_others} clips {num_own} are of the parts and {num_others} of other "
            "labels; a split is measured on both: generality on the first, locality on the others"
        )


def _heads(
    splitting: Splitting, encoder: TextEncoder, shots: Shots | None
) -> Iterator[tuple[str, list[SplitHead]]]:
    """Heads of each method, one per seed."""
    methods: tuple[tuple[Method, tuple[int, ...]], ...] = (
        ("argmax", (0,)),
        ("retrieval", (0,)),
        ("alignment", SEEDS),
    )
    vectors = {
        name: [splitting.vectors(name, encoder, seed=seed)[0] for seed in seeds]
        for name, seeds in methods
    }
    for bias in get_args(Bias):
        one, mark = replace(splitting, bias=bias), "" if bias == "copied" else ", fine bias"
        for name, _ in methods:
            heads = [one.with_vectors(some) for some in vectors[name]]
            yield f"{name}{mark}", heads
        if shots is not None:  # from alignment, the last
            tuned = zip(heads, SEEDS, strict=True)
            yield (
                f"shots, alignment{mark}",
                [one.low_shot(start, shots, seed=seed) for start, seed in tuned],
            )
    if shots is not None:
        starts = {
            "random": [random_start(heads[0], seed) for seed in SEEDS],
            "label's row": [coarse_start(heads[0])] * len(SEEDS),
        }
        for start_name, begun in starts.items():
            pairs = zip(begun, SEEDS, strict=True)
            yield (
                f"shots, {start_name}",
                [splitting.low_shot(start, shots, seed=seed) for start, seed in pairs],
            )


def _evaluation(splitting: Splitting, clips: LabelledClips) -> tuple[Evaluation, LabelledClips]:
    head = splitting.head
    names, coarse = head.label_names, head.label_names.index(splitting.label)
    own = clips.of(splitting.into)
    others = clips.of([name for name in names if name != splitting.label])
    refuse_one_sided(len(own), len(others))
    column = {name: number for number, name in enumerate((*names, *splitting.into))}

    def with_columns(some: LabelledClips) -> Clips:
        truth = np.array([column[label] for label in some.labels])
        return one_crop_each(standardised(head, some.states), truth)

    evaluation = Evaluation(
        (head.weight, head.bias),
        coarse,
        splitting.into,
        equivalent=with_columns(own),
        unrelated=with_columns(others),
    )
    return evaluation, own


def _mean(name: str, scores: Sequence[SplitScore]) -> MethodScore:
    mean = summarise({seed: [score] for seed, score in enumerate(scores)})
    return MethodScore(
        method=name,
        generality=mean.generality,
        locality=mean.locality,
        mean=mean.mean,
        lost_outside=mean.lost_outside,
        confused_inside=mean.confused_inside,
        drawn_in=mean.drawn_in,
        num_seeds=mean.num_seeds,
    )
