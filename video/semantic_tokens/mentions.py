"""Mentions: which attributes a text names, so that no segment of a clip needs a label of its own.

    "A square goes left, then grows.", ("goes left", "goes right", "grows") -> (0, 2)

Words are compared, not letters: case, underscores and punctuation are left aside, and "left" is not
in "leftover". Imports nothing heavy.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

_NO_WORD = re.compile(r"[\W_]+")


def mentions(texts: Iterable[str], attributes: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the attributes that one of a clip's texts names, in order. One that only ever
    stands within a longer one is not named: "left" in "left hand", where both are attributes."""
    phrases = [_words(attribute) for attribute in attributes]
    named: set[int] = set()
    for text in map(_words, texts):
        places = {
            n: places for n, phrase in enumerate(phrases) if (places := _places(text, phrase))
        }
        named |= {n for n, own in places.items() if not own <= _within(places, phrases, n)}
    return tuple(sorted(named))


def _within(places: Mapping[int, set[int]], phrases: Sequence[str], number: int) -> set[int]:
    """Places in a text where longer phrases have this one within them."""
    phrase = phrases[number]
    return {
        start + offset
        for other, starts in places.items()
        if len(phrases[other]) > len(phrase)
        for offset in _places(phrases[other], phrase)
        for start in starts
    }


def _places(text: str, phrase: str) -> set[int]:
    """Where a phrase stands in a text; nowhere without a word."""
    places, start = set[int](), text.find(phrase) if phrase.strip() else -1
    while start >= 0:
        places.add(start)
        start = text.find(phrase, start + 1)
    return places


def _words(text: str) -> str:
    """The words of a text, each between spaces."""
    return f" {_NO_WORD.sub(' ', unicodedata.normalize('NFC', text).lower()).strip()} "
