"""Mentions: which attributes a text names, so that no segment of a clip needs a label of its own.

    "A square goes left, then grows.", ("goes left", "goes right", "grows") -> (0, 2)

Words are compared, not letters: case, underscores and punctuation are left aside, and "left" is not
in "leftover". Imports nothing heavy.
"""

import re
from collections.abc import Iterable, Sequence

_NO_WORD = re.compile(r"[\W_]+")


def mentions(texts: Iterable[str], attributes: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the attributes that one of a clip's texts names, in order."""
    spaced = [_words(text) for text in texts]
    phrases = [_words(attribute) for attribute in attributes]
    return tuple(
        number
        for number, phrase in enumerate(phrases)
        if phrase.strip() and any(phrase in text for text in spaced)
    )


def _words(text: str) -> str:
    """The words of a text, each between spaces."""
    return f" {_NO_WORD.sub(' ', text.lower()).strip()} "
