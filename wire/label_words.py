"""Finds the labels that a text names: their words as whole words, ignoring case, punctuation and
the spelling of compounds (``brush_hair``, ``BrushHair``). Labels of one or two letters are not
looked for."""

import re
from collections.abc import Mapping, Sequence

from wire.labels import LabelSet

_SHORTEST_LABEL = 3
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[^\W\d_]+|\d+")
_UNSPACED = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")  # scripts that put no spaces between words


class LabelWords:
    """Finds the labels that a text names; its cost does not grow with the number of labels."""

    def __init__(
        self, labels: LabelSet, spellings: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """``spellings``: further names of a label."""
        self._by_words: dict[tuple[str, ...], str] = {}
        self._unspaced: dict[str, str] = {}
        self.ignored: list[str] = []
        """Labels too short to be looked for."""
        for label in labels.names:
            for name in (label, *(spellings or {}).get(label, ())):
                words = words_of(name)
                if _UNSPACED.search(name):
                    self._unspaced[name] = label
                elif sum(map(len, words)) >= _SHORTEST_LABEL:
                    self._by_words.setdefault(words, label)
                elif name == label:
                    self.ignored.append(label)
        self._longest = max(map(len, self._by_words), default=0)

    def named_in(self, text: str) -> frozenset[str]:
        """Labels named in a text; of two that begin at the same word, the longer."""
        words = words_of(text)
        labels = {label for name, label in self._unspaced.items() if name in text}
        at = 0
        while at < len(words):
            lengths = range(min(self._longest, len(words) - at), 0, -1)
            length = next((n for n in lengths if words[at : at + n] in self._by_words), 0)
            if length:
                labels.add(self._by_words[words[at : at + length]])
            at += length or 1
        return frozenset(labels)


def words_of(text: str) -> tuple[str, ...]:
    """Words and numbers of a text, in lower case, compounds taken apart."""
    return tuple(_WORD.findall(_HUMP.sub(" ", text).casefold()))
