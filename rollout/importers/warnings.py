"""Warnings about what an import wrote: labels that tell nothing or mean the same, traces and side
texts that give the label away.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollout.importers.labels import are_numbers
from rollout.importers.reply import speaks_of_hint
from rollout.importers.rows import is_video
from wire.types import Split

# More labels than this, and less than two clips for most of them, is no closed set.
_MANY_LABELS = 50
_SHOWN = 5
_MAX_WORDS = 12  # the longest class names of SSv2
_EMPTY_CELLS = frozenset(("none", "null", "n/a", "na", "#n/a", "undefined", "-", "?"))
_SEPARATORS = re.compile(r"\s*[,;|/&+]\s*|\s+and\s+")
_SIGNS = re.compile(r"[\W_]+")


def warnings_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Warnings about the rows of a manifest, ``names`` its labels."""
    counts = Counter(str(row["label"]) for row in rows)
    return [
        *_telling_nothing(names),
        *_alike(names),
        *_combined(names),
        *_open(counts),
        *_not_trained(rows, names),
        *_traces(rows),
        *_side_texts(rows, names),
    ]


def _telling_nothing(names: Sequence[str]) -> Iterator[str]:
    if are_numbers(names):
        yield "the labels are numbers, which tell a model nothing; give --label-names FILE"
    if {name.casefold() for name in names} <= {"true", "false"}:
        yield "the labels are true and false, which tell a model nothing; name the two classes"
    if all(re.fullmatch(r"[A-Za-z]", name) for name in names):
        yield (
            "the labels are letters, which tell a model nothing, unless the clips show letters; "
            "where they are options, give the options as columns, or their text as the label"
        )
    if paths := [name for name in names if is_video(name)]:
        yield f"label {paths[0]!r} is the name of a video; see that --columns names the right ones"
    if empty := [name for name in names if name.casefold() in _EMPTY_CELLS]:
        yield (
            f"label {' or '.join(map(repr, empty))} is what tables write in an empty cell; if it "
            "is no class of yours, empty these cells in the source, and give --on-conflict skip"
        )


def _alike(names: Sequence[str]) -> Iterator[str]:
    """Labels that differ by signs or by leading zeros only."""
    spellings = defaultdict(list)
    for name in names:
        number = str(int(name)) if name.isdecimal() else ""
        spellings[number or _SIGNS.sub("", name.casefold()) or name].append(name)
    if twice := [each for each in spellings.values() if len(each) > 1]:
        shown = "; ".join(" and ".join(map(repr, each)) for each in twice[:_SHOWN])
        yield f"labels that look like one, written differently: {shown}; write each one way"


def _combined(names: Sequence[str]) -> Iterator[str]:
    """Labels made of others: several classes of one clip in a cell."""
    known = {name.casefold() for name in names}
    combined = [
        name
        for name in names
        if len(parts := _SEPARATORS.split(name.casefold())) > 1 and set(parts) <= known
    ]
    if combined:
        yield (
            f"labels that name several others: {', '.join(map(repr, combined[:_SHOWN]))}; a clip "
            "has one label here, so this is a class of its own"
        )


def _open(counts: Counter[str]) -> Iterator[str]:
    if sentences := [name for name in counts if len(name.split()) > _MAX_WORDS]:
        yield (
            f"{len(sentences)} labels have over {_MAX_WORDS} words, such as {sentences[0][:60]!r}: "
            "these look like sentences; a policy has to write its label in full"
        )
    once = sum(count == 1 for count in counts.values())
    if len(counts) > _MANY_LABELS and once > len(counts) / 2:
        yield (
            f"{len(counts)} labels, {once} of them for one clip only: these look like answers to "
            "questions; a classifier needs a closed set of labels"
        )


def _not_trained(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[str]:
    trained = {row["label"] for row in rows if row["split"] == Split.TRAIN}
    absent = [name for name in names if name not in trained]
    if trained and absent:
        named = ", ".join(absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else "")
        yield f"{len(absent)} of {len(names)} labels have no train clip: {named}"


def _traces(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    traces = [row["trace"] for row in rows if row["trace"]]
    if hinted := sum(map(speaks_of_hint, traces)):
        yield (
            f"{hinted} of {len(traces)} traces mention a label, text or option that they were "
            "given; --drop-hinted-traces leaves them out"
        )


def _side_texts(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[str]:
    texts = [row["text"] for row in rows if row["text"]]
    if not texts:
        return
    word = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b", re.IGNORECASE)
    num_with_label = sum(word.search(text) is not None for text in texts)
    yield (
        f"a label word occurs in {num_with_label} of {len(texts)} side texts "
        f"({num_with_label / len(texts):.0%}); such texts can give the label away: "
        "measure without them too"
    )
