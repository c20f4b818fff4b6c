"""The demo's task: three events in a clip, and a label that is a rule over their relations.

    left, up, grow  ->  turn, mixed  ->  varied

An event alone says nothing about the label and neither does a bag of events: a viewer has to name
them in order, relate neighbours, and only then apply the rule. That is what makes a trace pay.
"""

import hashlib
import itertools
from collections.abc import Sequence

Triple = tuple[str, str, str]

MOTIONS = ("left", "right", "up", "down")
RESIZES = ("grow", "shrink")
EVENTS = (*MOTIONS, *RESIZES)
RELATIONS = ("same", "opposite", "turn", "mixed")
ORDINALS = ("one", "two", "three")

_OPPOSITE = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "grow": "shrink",
    "shrink": "grow",
}

DEFINITIONS = {
    "relapse": "a same and an opposite",
    "undo": "an opposite, no same",
    "repeat": "a same, no opposite",
    "zigzag": "turn then turn",
    "varied": "none of these",
}
"""The labels, each with the short definition that a prompt shows."""

LABELS = tuple(DEFINITIONS)

NEWEST = "relapse"
"""The label that was added last, after the teacher wrote its traces: no trace shows it, and every
split has labelled clips of it."""

_UNSEEN_SHARE = 0.2


def stable_hash(*parts: object) -> int:
    """Hash of 63 bits, equal in every process for equal parts, unlike ``hash``."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def relation(first: str, second: str) -> str:
    """Relation of an event to the one before it."""
    if first == second:
        return "same"
    if _OPPOSITE[first] == second:
        return "opposite"
    if (first in MOTIONS) == (second in MOTIONS):
        return "turn"
    return "mixed"


def relations(events: Sequence[str]) -> tuple[str, ...]:
    """The relation of each event to the one before it."""
    return tuple(relation(a, b) for a, b in itertools.pairwise(events))


def label_of(events: Sequence[str]) -> str:
    """The label of a clip: the first rule that holds, in the order of ``DEFINITIONS``."""
    kinds = relations(events)
    if "same" in kinds and "opposite" in kinds:
        return "relapse"
    if "opposite" in kinds:
        return "undo"
    if "same" in kinds:
        return "repeat"
    if set(kinds) == {"turn"}:
        return "zigzag"
    return "varied"


def combination(events: Sequence[str]) -> str:
    """The name of an ordered combination of events, such as ``left-up-grow``."""
    return "-".join(events)


def all_triples() -> list[Triple]:
    """Every ordered combination of three events."""
    return [(a, b, c) for a, b, c in itertools.product(EVENTS, EVENTS, EVENTS)]


def triples_by_label(*, unseen: bool) -> dict[str, list[Triple]]:
    """The combinations of each label that are kept from labelled training, or the others."""
    grouped: dict[str, list[Triple]] = {label: [] for label in LABELS}
    for triple in all_triples():
        if (triple in UNSEEN) == unseen:
            grouped[label_of(triple)].append(triple)
    return grouped


def teacher_trace(events: Sequence[str]) -> str:
    """The reasoning that a teacher writes for a clip, with its answer.

    No space stands in front of a closing tag: the tags are single tokens, so the text comes back
    unchanged from the tokenizer and no token is spent on a space.
    """
    named = " ".join(f"{n} {event}" for n, event in zip(ORDINALS, events, strict=True))
    related = " then ".join(relations(events))
    return f"<think>{named}. {related}</think><answer>{label_of(events)}</answer>"


def events_in(trace: str) -> tuple[str, ...] | None:
    """The three events that a trace names, or None if it does not name three in order."""
    words = trace.replace("<think>", " ").replace(".", " ").split()[:6]
    named = words[1::2]
    if words[0::2] != list(ORDINALS) or len(named) < 3 or any(word not in EVENTS for word in named):
        return None
    return tuple(named)


def _unseen_triples() -> frozenset[Triple]:
    """A fifth of each label's combinations, chosen once and for all by their hash."""
    chosen: list[Triple] = []
    for label in LABELS:
        members = sorted(
            (triple for triple in all_triples() if label_of(triple) == label),
            key=lambda triple: stable_hash("unseen", *triple),
        )
        chosen += members[: round(len(members) * _UNSEEN_SHARE)]
    return frozenset(chosen)


UNSEEN: frozenset[Triple] = _unseen_triples()
"""Combinations that no labelled training clip shows; tests report them apart."""
