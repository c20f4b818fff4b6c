"""Split of a head by name of the method: texts in, an edited head and its record out.

    texts, head -> dictionary -> alignment | retrieval | argmax -> SplitHead
                                 with clips of the parts: low-shot training from there

The steps themselves are in dictionary, retrieval, alignment and low_shot; the command, the service
and measurements all split through here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibrate.head import Head
from calibrate.splitting.alignment import fit_alignment
from calibrate.splitting.config import RetrievalConfig
from calibrate.splitting.dictionary import Dictionary, Grouping, SubClass, build_dictionary
from calibrate.splitting.edit import SplitHead, split_head
from calibrate.splitting.label_texts import LabelTexts, propose_groups
from calibrate.splitting.low_shot import fine_tune
from calibrate.splitting.protocols import TextEncoder
from calibrate.splitting.retrieval import retrieve
from wire.errors import DataError

Method = Literal["alignment", "retrieval", "argmax"]
"""How rows of the parts are made without a clip: ``alignment``, a network from texts to rows (the
paper's main method); ``retrieval``, the nearest modifier, each once; ``argmax``, the nearest."""

Bias = Literal["copied", "fine"]
"""Bias of the parts: ``copied`` from the label that is split (the paper's); ``fine``, the mean of
the labels that stayed fine (ours). A label with many clips has a high bias, which each of its parts
would inherit whole: they then draw in clips of other labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shots:
    """Clips of the parts, to learn from.

    Example:
        Shots(features=np.zeros((2, 384)), parts=("left then up", "left then down"))
    """

    features: NDArray[np.floating]
    """[N, H] hidden states, as the head reads them."""
    parts: tuple[str, ...]
    """[N] the part of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
    """A label of a head that is to be split, with all texts that a split reads."""

    head: Head
    label: str
    texts: LabelTexts
    """Groups of the labels that stay, with phrases of these and of the parts."""
    into: tuple[str, ...]
    bias: Bias = "copied"
    dictionary: Dictionary = field(init=False)

    def __post_init__(self) -> None:
        bias = dict(zip(self.head.label_names, self.head.bias, strict=True))
        names = [name for name in self.head.label_names if np.isfinite(bias[name])]  # it has seen
        rows = self.head.weight[[self.head.label_names.index(name) for name in names]]
        groups = _only(self.texts.groups, [name for name in names if name != self.label])
        dictionary = build_dictionary(rows, names, Grouping(groups=groups), self.texts.modifiers)
        object.__setattr__(self, "dictionary", dictionary)

    @property
    def parts(self) -> tuple[SubClass, ...]:
        """The parts with their phrases."""
        return tuple(
            SubClass(label=name, modifier=self.texts.modifiers[name]) for name in self.into
        )

    def zero_shot(
        self, method: Method, encoder: TextEncoder, *, seed: int
    ) -> tuple[SplitHead, dict[str, str]]:
        """The head with rows for the parts, made of texts alone; and of each part the label whose
        modifier it took, where it took one. ``seed``: of alignment alone."""
        vectors, sources = self.vectors(method, encoder, seed=seed)
        return self.with_vectors(vectors), sources

    def vectors(
        self, method: Method, encoder: TextEncoder, *, seed: int
    ) -> tuple[NDArray[np.floating], dict[str, str]]:
        """What each part's row adds to the label's [k, H], and the labels it is from."""
        if method == "alignment":
            aligner = fit_alignment(self.dictionary, encoder, seed=seed)
            return aligner.vectors(encoder.encode([part.modifier for part in self.parts])), {}
        config = RetrievalConfig(assignment="argmax" if method == "argmax" else "greedy")
        retrieved = retrieve(self.parts, self.dictionary, encoder, config)
        return retrieved.vectors, {choice.part: choice.label for choice in retrieved.choices}

    def with_vectors(self, vectors: NDArray[np.floating]) -> SplitHead:
        """The head whose rows of the parts are the label's own plus ``vectors`` [k, H]."""
        head = self.head
        edited = split_head(
            head.label_names,
            head.weight,
            head.bias,
            label=self.label,
            parts=self.into,
            vectors=vectors,
        )
        if self.bias == "copied":
            return edited
        fine = [head.bias[head.label_names.index(name)] for name in self.dictionary.labels]
        shift = np.mean(fine) - head.bias[edited.coarse]
        return replace(edited, bias_shifts=np.full(len(self.into), shift))

    def low_shot(self, start: SplitHead, shots: Shots, *, seed: int) -> SplitHead:
        """The head with the new rows of ``start`` trained on clips of the parts. Raises DataError
        for a clip of none of them."""
        foreign = sorted(set(shots.parts) - set(self.into))
        if foreign:
            raise DataError(f"shots have labels {foreign}; expected parts: {list(self.into)}")
        truth = [self.into.index(name) for name in shots.parts]
        return fine_tune(start, standardised(self.head, shots.features), truth, seed=seed).head


def standardised(head: Head, features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Hidden states [N, H] as the rows of a head see them."""
    values: NDArray[np.float64] = (features - head.mean) / head.scale
    return values


def texts_of_split(
    given: LabelTexts, names: Sequence[str], label: str, into: Sequence[str]
) -> LabelTexts:
    """All texts of a split: those given, and proposals where they say nothing. Groups that share
    the beginnings of their names are proposed where none is given. Raises DataError if a text
    names a label that the classifier does not have."""
    others = [name for name in names if name != label]
    known = {*others, *into}
    groups = {name: one for name, one in given.groups.items() if known & set(one)}
    groups = groups or propose_groups(others)
    own = [name for name, labels in groups.items() if set(labels) & set(into)]
    for name in own:
        if set(groups[name]) != set(into):
            raise DataError(
                f"the group {name!r} has {sorted(groups[name])}, and {label!r} is to be split into "
                f"{sorted(into)}; name the same labels in both"
            )
    kept = {name: labels for name, labels in groups.items() if name not in own}
    if not own:  # by what the parts' names begin with, as the other groups
        proposed = list(propose_groups(into))
        own = proposed if len(proposed) == 1 and proposed[0] not in kept else [label]
    modifiers = {name: text for name, text in given.modifiers.items() if name in known}
    texts = replace(
        given,
        groups={**kept, own[0]: tuple(into)},
        modifiers=modifiers,
        types={name: kind for name, kind in given.types.items() if name in known},
    )
    texts.check(known)
    texts = texts.completed()
    _refuse_equal_phrases(texts, into)
    return texts


def _refuse_equal_phrases(texts: LabelTexts, into: Sequence[str]) -> None:
    """Raise DataError for two parts with one phrase: their rows would be equal, and no clip would
    ever get the second."""
    part_of: dict[str, str] = {}
    for part in into:
        phrase = " ".join(texts.modifiers[part].split())
        if phrase in part_of:
            raise DataError(
                f"{part_of[phrase]!r} and {part!r} have one phrase, {phrase!r}: nothing would tell "
                "them apart; give each a phrase of its own"
            )
        part_of[phrase] = part


def _only(
    groups: Mapping[str, tuple[str, ...]], names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Groups with these labels alone; those without one go."""
    rest = {name: tuple(one for one in labels if one in names) for name, labels in groups.items()}
    return {name: labels for name, labels in rest.items() if labels}
