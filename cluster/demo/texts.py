"""Every sentence the base model of the demo is trained on, and the list of what it may know.

With a video, only events are named, in several wordings. As text, without a video, it reads:
- how two events relate (same, opposite, turn, mixed), and the relations in a named triple;
- the labels' names and their definitions, as words;
- what writing between tags looks like: a word, or named events and a word that is no label.
It never sees a label said of a video, nor a label said of named events or of their relations: that
step is left to the cold start.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.demo.events import (
    DEFINITIONS,
    EVENTS,
    LABELS,
    ORDINALS,
    RELATIONS,
    relation,
    relations,
)

Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer; ``has_video`` puts the clip in front of the question."""

    question: str
    answer: str
    has_video: bool = False


_NAME = (
    "Name the three events of the video.",
    "Say what happens: one, two, three.",
    "First name the events, step by step.",
    "Reason about the video: name each event in order.",
)
_COMMAS = ("What happens in the video?", "List the events.", "Describe the video.")
_THEN = (
    "Say the events one after another.",
    "What comes after what?",
    "Tell the video, then stop.",
)
_STORY = ("Tell the story of the shape.", "What does the shape do first, next and last?")
_SINGLE = ("Which event is number {n}?", "Name event {n} and nothing else.", "What is event {n}?")
_RELATE = ("Name the events, then their relations: {named}", "Relate neighbours: {named}")
_PAIR = ("{a} then {b}: which relation?", "How does {b} relate to {a}?", "Relation of {a} and {b}?")
_FILLER = (
    "Decide which word fits the video.",
    "Review the analysis of the video, then decide yourself.",
    "Write one word and nothing else.",
    "Text that came with the video: none",
    "Look at the shape, its place and its size.",
    "First reason step by step, then write.",
    "Events:\n- left: to the left\n- right: to the right\n- up: to the top\n- down: to the bottom",
    "- grow: larger\n- shrink: smaller",
    "Relations:\n- same: an event again\n- opposite: an event undone",
    "- turn: a motion, then another motion\n- mixed: none of these",
    "Analysis: a shape and the video\nConclusion: none",
)


def named(events: Sequence[str]) -> str:
    """The wording that traces use too: ``one left two up three grow.``"""
    return " ".join(f"{n} {event}" for n, event in zip(ORDINALS, events, strict=True)) + "."


def caption(events: Sequence[str], rng: Rng) -> Exchange:
    """A question about a clip, answered with its events; half of the questions are long."""
    kind = rng.random()
    if kind < 0.45:
        question, answer = _pick(_NAME, rng), named(events)
    elif kind < 0.6:
        question, answer = _pick(_COMMAS, rng), ", ".join(events) + "."
    elif kind < 0.75:
        question, answer = _pick(_THEN, rng), " then ".join(events) + "."
    elif kind < 0.85:
        question = _pick(_STORY, rng)
        answer = f"first {events[0]}, next {events[1]}, last {events[2]}."
    else:
        which = int(rng.integers(3))
        question, answer = _pick(_SINGLE, rng).format(n=ORDINALS[which]), f"{events[which]}."
    return Exchange(_surround(question, rng), answer, has_video=True)


def sentence(rng: Rng) -> Exchange:
    """A question that needs no video, with its answer."""
    kind = rng.random()
    if kind < 0.3:
        first, second = _pick(EVENTS, rng), _pick(EVENTS, rng)
        return Exchange(_pick(_PAIR, rng).format(a=first, b=second), relation(first, second) + ".")
    if kind < 0.7:
        events = [_pick(EVENTS, rng) for _ in range(3)]
        answer = f"{named(events)} " + " then ".join(relations(events))
        return Exchange(_surround(_pick(_RELATE, rng).format(named=named(events)), rng), answer)
    if kind < 0.85:
        word = _pick((*EVENTS, *RELATIONS, *LABELS), rng)
        return Exchange(f"Write {word} between <answer> and </answer>.", f"<answer>{word}</answer>")
    if kind < 0.95:
        events = [_pick(EVENTS, rng) for _ in range(3)]
        word = _pick((*EVENTS, *RELATIONS), rng)
        return Exchange(
            f"Write {named(events)} between <think> and </think>, "
            f"then write {word} between <answer> and </answer>.",
            f"<think>{named(events)}</think><answer>{word}</answer>",
        )
    label = _pick(LABELS, rng)
    return Exchange(f"What does {label} mean?", DEFINITIONS[label])


def every_text(rng: Rng, count: int = 2000) -> Iterator[str]:
    """A sample of all texts, in which every word occurs, for the tokenizer."""
    yield from (*EVENTS, *RELATIONS, *LABELS, *ORDINALS, "first", "next", "last", "yes", "no")
    yield from (f"- {label}: {text}\n" for label, text in DEFINITIONS.items())
    for _ in range(count):
        events = [_pick(EVENTS, rng) for _ in range(3)]
        for exchange in (caption(events, rng), sentence(rng)):
            yield f"{exchange.question}\n"
            yield exchange.answer


def _surround(question: str, rng: Rng) -> str:
    """Put other sentences around a question, so that the model answers in long prompts, too."""
    if rng.random() < 0.5:
        return question
    count = int(rng.integers(1, 6))
    order = rng.permutation(len(_FILLER))[:count]
    before = int(rng.integers(count + 1))
    parts = [_FILLER[i] for i in order]
    return "\n".join([*parts[:before], question, *parts[before:]])


def _pick(options: Sequence[str], rng: Rng) -> str:
    return options[int(rng.integers(len(options)))]
