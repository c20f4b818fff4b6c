"""Label texts of a split: groups of labels, and the phrase that sets each apart from its group.

    a TOML or JSON file   -> read_label_texts ->  LabelTexts, with gaps
    names of labels       -> propose_groups   ->  groups
    groups                -> completed        ->  LabelTexts, with a phrase per label

    "Pushing something": "Pushing something from left to right" -> "from left to right"

A proposed phrase is what is left of a label without the words that it shares with the name of its
group, or, where nothing would be left, with all labels of the group. Proposals are ours: in the
paper groups and phrases are made by hand. Words are compared, not meanings, so a proposal is shown
before it is used.
"""

import json
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calibrate.splitting.modifier_types import modifier_type
from wire.errors import DataError
from wire.nearest import nearest

_SECTIONS = ("groups", "modifiers", "types")
_EXPECTED = (
    "expected [groups] (coarse = [fine, ...]), [modifiers] (fine = phrase), [types] (fine = type), "
    "or the public group_scheme.json"
)
_NO_MEANING = "a an the of to in on at by with and or for from something someone it its his her"
_FUNCTION_WORDS = frozenset(_NO_MEANING.split(" "))


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTexts:
    """Groups of labels and their modifier phrases.

    Example:
        LabelTexts(groups={"push": ("push left", "push right")},
                   modifiers={"push left": "left", "push right": "right"},
                   types={"push left": "direction", "push right": "direction"})
    """

    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Fine labels of each coarse one; a fine label is in one group at most."""
    modifiers: Mapping[str, str] = field(default_factory=dict)
    """Phrase of a fine label: what sets it apart from the others of its group."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Kind of that phrase, such as direction or count; figures are reported per kind."""
    proposed: frozenset[str] = frozenset()
    """Fine labels whose phrase was proposed, and not read from a file."""

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        for coarse, labels in self.groups.items():
            if not labels:
                raise DataError(f"the group {coarse!r} is empty; name its labels, or take it out")
            for label in labels:
                if label in owner:
                    both = f"{owner[label]!r} and {coarse!r}"
                    raise DataError(
                        f"the label {label!r} stands twice in the groups ({both}); name it in one"
                    )
                owner[label] = coarse
        empty = [label for label, phrase in self.modifiers.items() if not phrase.strip()]
        if empty:
            raise DataError(f"the modifier phrase of {empty[0]!r} is empty; write one")

    def over(self, other: "LabelTexts") -> "LabelTexts":
        """These texts, and those of ``other`` where these say nothing."""
        return LabelTexts(
            groups={**other.groups, **self.groups},
            modifiers={**other.modifiers, **self.modifiers},
            types={**other.types, **self.types},
            proposed=self.proposed | (other.proposed - self.modifiers.keys()),
        )

    def completed(self) -> "LabelTexts":
        """These texts with a proposed phrase and type for each label of a group that has none. A
        label that is alone in its group needs none."""
        phrases: dict[str, str] = {}
        for coarse, labels in self.groups.items():
            if len(labels) > 1 and any(label not in self.modifiers for label in labels):
                phrases |= propose_modifiers(coarse, labels)
        proposed = {k: v for k, v in phrases.items() if k not in self.modifiers}
        modifiers = {**self.modifiers, **proposed}
        types = {label: modifier_type(phrase) for label, phrase in modifiers.items()}
        return replace(
            self,
            modifiers=modifiers,
            types={**types, **self.types},
            proposed=self.proposed | proposed.keys(),
        )

    def check(self, known: Iterable[str]) -> None:
        """Raise DataError if a group, phrase or type names a label that is not among ``known``."""
        names = set(known)
        members = [label for labels in self.groups.values() for label in labels]
        for label in (*members, *self.modifiers, *self.types):
            if label not in names:
                raise DataError(
                    f"the label texts name {label!r}, which is no label here; "
                    f"{nearest(label, sorted(names), 'labels')}"
                )

    def to_toml(self) -> str:
        """The file that ``read_label_texts`` reads, to be edited by hand."""
        lines = ["[groups]"]
        for coarse, labels in self.groups.items():
            inner = ", ".join(_quoted(label) for label in labels)
            lines.append(f"{_quoted(coarse)} = [{inner}]")
        for name, values in (("modifiers", self.modifiers), ("types", self.types)):
            lines += ["", f"[{name}]"]
            lines += [f"{_quoted(label)} = {_quoted(text)}" for label, text in values.items()]
        return "\n".join(lines) + "\n"


def read_label_texts(path: Path) -> LabelTexts:
    """Label texts of a TOML or JSON file; each section may be absent. Raises DataError.

    The public group_scheme.json is read as it is, and so is a JSON file of phrases alone,
    {label: phrase}.
    """
    values = _parse(path)
    if isinstance(values, dict) and "group_scheme" in values:  # A and B say which side splits it
        values = {"groups": values["group_scheme"]}
    elif isinstance(values, dict) and values and all(isinstance(v, str) for v in values.values()):
        values = {"modifiers": values}
    if not isinstance(values, dict) or not values or values.keys() - set(_SECTIONS):
        shown = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise DataError(f"{path} has {str(shown)[:200]}; {_EXPECTED}")
    groups = _section(path, values, "groups", list)
    for coarse, labels in groups.items():
        if not all(isinstance(label, str) for label in labels):
            raise DataError(f"{path}: the group {coarse!r} is no list of names; {_EXPECTED}")
    try:
        return LabelTexts(
            groups={coarse: tuple(labels) for coarse, labels in groups.items()},
            modifiers=_section(path, values, "modifiers", str),
            types=_section(path, values, "types", str),
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def propose_groups(labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Groups of labels that begin with the same words: each label joins the longest beginning that
    it shares with another one. A label that shares none is alone, under its own name."""
    starts: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for label in labels:
        for start in _beginnings(label):
            starts[start].append(label)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        shared = next((s for s in _beginnings(label) if len(starts[s]) > 1), None)
        name = label if shared is None else " ".join(label.split()[: len(shared)])
        groups[name.strip(" ,;:")].append(label)
    return {name: tuple(group) for name, group in groups.items()}


def propose_modifiers(coarse: str, labels: Sequence[str]) -> dict[str, str]:
    """A phrase per label of a group: its words without those that it shares with the group. Where
    nothing is left, or the same for two labels, the whole label."""
    bases = [_common(_words(coarse), _words(label)) for label in labels]
    rests = [_rest(label, base) for label, base in zip(labels, bases, strict=True)]
    if not all(bases) or not _distinct(rests):  # then by what the labels have in common
        base = _words(labels[0])
        for label in labels[1:]:
            base = _common(base, _words(label))
        rests = [_rest(label, base) for label in labels]
    return {
        label: rest if rest and rests.count(rest) == 1 else label
        for label, rest in zip(labels, rests, strict=True)
    }


def _beginnings(label: str) -> list[tuple[str, ...]]:
    """Beginnings of a label, the whole of it first, down to its first word that has a meaning."""
    words = _words(label)
    first = next((i for i, word in enumerate(words) if word not in _FUNCTION_WORDS), 0)
    return [tuple(words[:n]) for n in range(len(words), first, -1)]


def _words(text: str) -> list[str]:
    """Words as they are compared."""
    return [word.lower().strip(".,;:()\"'") for word in text.split()]


def _distinct(rests: Sequence[str]) -> bool:
    return all(rests) and len(set(rests)) == len(rests)


def _rest(label: str, base: Sequence[str]) -> str:
    """What is left of a label without the words of ``base``, which stand in it in this order."""
    left = list(base)
    rest = []
    for word in label.split():
        if left and _words(word) == left[:1]:
            left.pop(0)
        else:
            rest.append(word)
    return " ".join(rest).strip(" ,;:")


def _common(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """Longest common subsequence of two lists of words."""
    lengths = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]  # of what a[i:] and b[j:] share
    for i in reversed(range(len(a))):
        row, below = lengths[i], lengths[i + 1]
        for j in reversed(range(len(b))):
            row[j] = 1 + below[j + 1] if a[i] == b[j] else max(below[j], row[j + 1])
    common, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            common.append(a[i])
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return common


def _quoted(text: str) -> str:
    """A TOML basic string: one of JSON's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _parse(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; {_EXPECTED}") from error
    except (ValueError, RecursionError) as error:  # also of a text that is not UTF-8
        raise DataError(f"{path} is no TOML or JSON: {error}; {_EXPECTED}") from error


def _section(path: Path, values: dict[str, Any], name: str, kind: type) -> dict[str, Any]:
    section = values.get(name, {})
    if not isinstance(section, dict):
        raise DataError(f"{path}: {name} is no table; {_EXPECTED}")
    for label, value in section.items():
        if not isinstance(value, kind):
            raise DataError(f"{path}: {name}.{label!r} = {str(value)[:80]!r}; {_EXPECTED}")
    return section
