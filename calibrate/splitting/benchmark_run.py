"""A split benchmark: a weights file, on every split target of a side, by every method and seed.

    Side + weights + texts + encoder -> check -> dictionary, aligners -> per target: the edited
    heads -> generality on its equivalent set, locality on its unrelated set -> BenchmarkReport

The base head's logits are computed once. A target's methods see its train clips alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from calibrate.splitting.alignment import Aligner, fit_alignment
from calibrate.splitting.benchmark import Clips as ClipNames
from calibrate.splitting.benchmark import Side, Target
from calibrate.splitting.benchmark_config import SplitBenchmarkConfig, SplitMethod
from calibrate.splitting.benchmark_report import BenchmarkReport, MethodResult
from calibrate.splitting.benchmark_weights import BenchmarkWeights, ClipFeatures
from calibrate.splitting.dictionary import Dictionary, Grouping, SubClass, build_dictionary
from calibrate.splitting.edit import SplitHead, linear_logits, softmax, split_head
from calibrate.splitting.label_texts import LabelTexts
from calibrate.splitting.low_shot import coarse_start, fine_tune, random_start
from calibrate.splitting.metrics import Clips, Evaluation, SplitScore, average_crops
from calibrate.splitting.protocols import TextEncoder
from calibrate.splitting.retrieval import retrieve
from calibrate.splitting.vlm_baseline import score_baseline
from wire.errors import ConfigError, DataError

Floats = NDArray[np.float32]


def run_benchmark(
    side: Side,
    weights: BenchmarkWeights,
    texts: LabelTexts,
    encoder: TextEncoder,
    config: SplitBenchmarkConfig,
    target_done: Callable[[str], None] = lambda name: None,
) -> BenchmarkReport:
    """Measure every method on every target; ``target_done`` is called after each. Raises DataError
    or ConfigError, before any work, on weights of another side, clips without features, and labels
    without a phrase."""
    check_weights(side, weights)
    check_texts(side, texts)
    remembering = _Remembering(encoder, side, texts)
    methods, left_out = chosen_methods(weights, config, remembering.width)
    bench = _Benchmark(side, weights, texts, remembering, config)
    scores: dict[SplitMethod, dict[int, list[SplitScore]]] = {method: {} for method in methods}
    for target in side.targets:
        of_target = bench.target(target)
        for method in methods:
            for seed in config.seeds if method.is_random else config.seeds[:1]:
                scores[method].setdefault(seed, []).append(of_target.score(method, seed))
        target_done(target.name)
    return BenchmarkReport(
        dataset=side.dataset,
        side=side.side,
        encoder=encoder.name,
        targets=tuple(target.name for target in side.targets),
        num_modifiers=len(bench.dictionary.labels),
        base_accuracy=float((bench.base_winners == side.val.labels).mean()),
        coarse_recall=_coarse_recall(side, bench.base_winners),
        results=tuple(
            MethodResult(method=method, scores=of_method, types=texts.types)
            for method, of_method in scores.items()
        ),
        left_out=left_out,
    )


def check_weights(side: Side, weights: BenchmarkWeights) -> None:
    """Raise DataError unless a head's rows are the side's base labels."""
    rows = len(weights.weight)
    if rows != len(side.labels):
        raise DataError(
            f"the weights have {rows} rows, but side {side.side} of {side.dataset} has "
            f"{len(side.labels)} base labels; give the weights of this side, or --side of theirs"
        )
    pairs = zip(weights.labels or side.labels, side.labels, strict=False)
    other = next(((own, label) for own, label in pairs if own != label), None)
    if other is not None:
        raise DataError(
            f"row {side.labels.index(other[1])} of the weights is {other[0]!r}, but that of side "
            f"{side.side} of {side.dataset} is {other[1]!r}; give the weights of this side"
        )


def check_texts(side: Side, texts: LabelTexts) -> None:
    """Raise DataError unless every sub-class, and every label of a group kept fine, has a
    phrase."""
    groups = [target.fine for target in side.targets]
    groups += [labels for labels in side.kept.values() if len(labels) > 1]
    lacking = [label for labels in groups for label in labels if label not in texts.modifiers]
    if lacking:
        raise DataError(
            f"{len(lacking)} labels have no modifier phrase, such as {lacking[0]!r}; add them to "
            "the file of --modifiers, or leave that out to have phrases proposed"
        )


def chosen_methods(
    weights: BenchmarkWeights, config: SplitBenchmarkConfig, text_width: int | None = None
) -> tuple[list[SplitMethod], dict[str, str]]:
    """Methods to run, and those that are left out with the reason. ``text_width``: of the text
    encoder's vectors, if it is known yet. Raises ConfigError if one that was asked for cannot
    run."""
    left_out = {}
    vlm_width = text_width if weights.vlm is None else weights.vlm.values.shape[2]
    for method in config.methods or SplitMethod:
        if method.needs_train_clips and weights.train is None:
            left_out[method] = "the weights file has no train_features"
        elif method is SplitMethod.VLM and weights.vlm is None:
            left_out[method] = "the weights file has no vlm_features"
        elif method is SplitMethod.VLM and text_width not in (None, vlm_width):
            left_out[method] = (
                f"vlm_features have width {vlm_width}, the text encoder {text_width}: they are not "
                "of one model"
            )
    if config.methods and left_out:
        method, reason = next(iter(left_out.items()))
        raise ConfigError(f"method {method.value!r}: {reason}; mend that, or leave it out")
    methods = [method for method in config.methods or SplitMethod if method not in left_out]
    return methods, {method.value: reason for method, reason in left_out.items()}


class _Benchmark:
    """What all targets share."""

    def __init__(
        self,
        side: Side,
        weights: BenchmarkWeights,
        texts: LabelTexts,
        encoder: TextEncoder,
        config: SplitBenchmarkConfig,
    ) -> None:
        self.side, self.texts = side, texts
        self.encoder, self.config = encoder, config
        self.weight = weights.weight.astype(np.float32)
        self.bias = weights.bias.astype(np.float32)
        self.val = weights.val.rows(side.val.names)
        self.num_crops = self.val.shape[1]
        self.train = _rows(weights.train, side.train, [t.train for t in side.targets])
        self.vlm = _rows(weights.vlm, side.val, [t.equivalent for t in side.targets])
        self.dictionary: Dictionary = build_dictionary(
            self.weight, side.labels, Grouping(groups=side.kept), texts.modifiers
        )
        self._aligners: dict[int, Aligner] = {}

    @cached_property
    def base_logits(self) -> Floats:
        """[N, C, L] of the val clips, before any edit."""
        flat = self.val.reshape(-1, self.val.shape[2])
        logits = linear_logits(flat, self.weight, self.bias)
        return logits.reshape(*self.val.shape[:2], -1).astype(np.float32, copy=False)

    @cached_property
    def base_winners(self) -> NDArray[np.int64]:
        """[N] base label of each val clip by the head before any edit."""
        flat = self.base_logits.reshape(-1, len(self.bias))
        winners: NDArray[np.int64] = average_crops(
            softmax(flat), _clip_numbers(len(self.val), self.num_crops)
        ).argmax(axis=1)
        return winners

    def aligner(self, seed: int) -> Aligner:
        """The network of a seed, trained once for all targets."""
        if seed not in self._aligners:
            self._aligners[seed] = fit_alignment(
                self.dictionary, self.encoder, seed=seed, config=self.config.alignment
            )
        return self._aligners[seed]

    def target(self, target: Target) -> "_TargetRun":
        return _TargetRun(self, target)

    def clips(self, places: NDArray[np.int64], truth: NDArray[np.int64]) -> Clips:
        """Val clips at ``places`` with their true columns."""
        return Clips(
            features=self.val[places].reshape(-1, self.val.shape[2]),
            clips=_clip_numbers(len(places), self.num_crops),
            truth=truth,
            logits=self.base_logits[places].reshape(-1, len(self.bias)),
        )


class _TargetRun:
    """One target: its edited heads, and their scores."""

    def __init__(self, bench: _Benchmark, target: Target) -> None:
        self._bench, self._target = bench, target
        modifiers = bench.texts.modifiers
        self._parts = [SubClass(label=label, modifier=modifiers[label]) for label in target.fine]
        num_old = len(bench.side.labels)
        self._evaluation = Evaluation(
            (bench.weight, bench.bias),
            target.index,
            target.fine,
            equivalent=bench.clips(target.equivalent, num_old + target.equivalent_labels),
            unrelated=bench.clips(target.unrelated, bench.side.val.labels[target.unrelated]),
        )

    def score(self, method: SplitMethod, seed: int) -> SplitScore:
        """Measures of one method under one seed."""
        if method is SplitMethod.VLM:
            return self._score_vlm()
        return self._evaluation.score(self._head(method, seed))

    def _head(self, method: SplitMethod, seed: int) -> SplitHead:
        if method in (SplitMethod.RETRIEVAL, SplitMethod.ARGMAX):
            assignment = "argmax" if method is SplitMethod.ARGMAX else "greedy"
            config = self._bench.config.retrieval.model_copy(update={"assignment": assignment})
            bench = self._bench
            vectors = retrieve(self._parts, bench.dictionary, bench.encoder, config).vectors
            return self._split(vectors)
        if method is SplitMethod.ALIGNMENT:
            return self._aligned(seed)
        return self._trained(method, seed)

    def _aligned(self, seed: int) -> SplitHead:
        phrases = self._bench.encoder.encode([part.modifier for part in self._parts])
        return self._split(self._bench.aligner(seed).vectors(phrases))

    def _trained(self, method: SplitMethod, seed: int) -> SplitHead:
        config = self._bench.config.low_shot
        if method is SplitMethod.ONE_SHOT_WHOLE_HEAD:
            config = config.model_copy(update={"trains": "whole_head"})
        if method is SplitMethod.ONE_SHOT_ALIGNED:
            start = self._aligned(seed)
        else:
            width = self._bench.weight.shape[1]
            start = coarse_start(self._split(np.zeros((len(self._parts), width), np.float32)))
            if method is SplitMethod.ONE_SHOT_RANDOM:
                start = random_start(start, seed)
        chosen = (
            np.arange(len(self._target.train))
            if method is SplitMethod.FULL_DATA
            else self._shots(seed)
        )
        features, truth = self._train_clips(chosen)
        return fine_tune(start, features, truth, seed=seed, config=config).head

    def _shots(self, seed: int) -> NDArray[np.int64]:
        """Places in the target's train clips of ``shots`` clips per sub-class; of one that has
        fewer, all."""
        draw = np.random.default_rng((seed, self._target.index))
        labels = self._target.train_labels
        parts = [np.flatnonzero(labels == part) for part in range(len(self._parts))]
        count = self._bench.config.shots
        drawn: NDArray[np.int64] = np.concatenate([draw.permutation(p)[:count] for p in parts])
        return drawn

    def _train_clips(self, chosen: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
        """Features and sub-classes of train clips, a row per crop."""
        assert self._bench.train is not None, "checked by chosen_methods"
        values = self._bench.train.at(self._target.train[chosen])
        truth = np.repeat(self._target.train_labels[chosen], values.shape[1])
        return values.reshape(-1, values.shape[2]), truth

    def _split(self, vectors: NDArray[np.floating]) -> SplitHead:
        bench = self._bench
        return split_head(
            bench.side.labels,
            bench.weight,
            bench.bias,
            label=self._target.name,
            parts=self._target.fine,
            vectors=vectors,
        )

    def _score_vlm(self) -> SplitScore:
        bench = self._bench
        assert bench.vlm is not None, "checked by chosen_methods"
        clips = bench.vlm.at(self._target.equivalent)[:, 0]
        return score_baseline(self._evaluation, clips, bench.encoder.encode(self._target.fine))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Features of some clips of a file, found by their places in it."""

    places: NDArray[np.int64]
    """[M], ascending."""
    values: Floats
    """[M, C, D]"""

    def at(self, places: NDArray[np.int64]) -> Floats:
        values: Floats = self.values[np.searchsorted(self.places, places)]
        return values


def _rows(
    features: ClipFeatures | None, clips: ClipNames, used: Sequence[NDArray[np.int64]]
) -> _Rows | None:
    """Features of the clips at the places that are used; None where there are no features."""
    if features is None:
        return None
    places = np.unique(np.concatenate(used))
    return _Rows(places, features.rows([clips.names[place] for place in places]))


class _Remembering:
    """An encoder that has encoded every text of a side, in one go: a target alone has few."""

    def __init__(self, encoder: TextEncoder, side: Side, texts: LabelTexts) -> None:
        self.name = encoder.name
        labels = [label for group in side.groups.values() for label in group]
        every = list(dict.fromkeys((*side.groups, *labels, *texts.modifiers.values())))
        vectors = encoder.encode(every)
        self.width = vectors.shape[1]
        self._vectors = dict(zip(every, vectors, strict=True))

    def encode(self, texts: Sequence[str]) -> Floats:
        return np.stack([self._vectors[text] for text in texts])


def _clip_numbers(num_clips: int, num_crops: int) -> NDArray[np.int64]:
    return np.repeat(np.arange(num_clips), num_crops)


def _coarse_recall(side: Side, winners: NDArray[np.int64]) -> float:
    return float(np.mean([np.mean(winners[t.equivalent] == t.index) for t in side.targets]))
