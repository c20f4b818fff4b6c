"""Do the traces of a group say it in different words?"""

from collections import Counter
from collections.abc import Sequence
from typing import Any


def varied_words(completions: Sequence[str], least: int = 4, **columns: Any) -> list[float]:
    """The share of a trace's longer words that no other trace of its group has; TRL's shape.

    ``least``: letters of a longer word. 0 for a trace without any.
    """
    words = [
        {word for word in text.casefold().split() if len(word) >= least} for text in completions
    ]
    counts = Counter(word for own in words for word in own)
    return [sum(counts[word] == 1 for word in own) / len(own) if own else 0.0 for own in words]
