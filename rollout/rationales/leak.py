"""Leaks of the hint: phrases of a rationale that speak of the label that it was given.

A model that learns from them learns to refer to something that it is not shown at inference.
"""

import re
from collections.abc import Sequence

LEAK_PATTERNS = (
    r"\b(given|provided|stated|assigned|specified|true|correct|actual|known|expected|supplied)"
    r" (label|classification|answer|category|class)\b",
    r"\b(label|classification|answer|category|class)( that| which)?( (is|was|were|has been|had been"
    r"|i was|i am|we were|you|you have|you've))? (given|provided|stated|told|assigned|specified"
    r"|supplied|named)\b",
    r"\bas (is )?(given|provided|stated|told|instructed|specified|label?led|hinted)\b",
    r"\b(i|we) (was|were|am|are|have been|had been) (told|given|informed|instructed)\b",
    r"\bground[- ]?truth\b",
    r"\b(the|this|your) hint\b",
    r"\b(according to|based on|because of|consistent with|matches|match|as per) (the|this|your|its)"
    r" label\b",
)
"""Phrases that speak of the given label, as regular expressions; ours, not RB-FT's, which filters
nothing."""


def leak_in(text: str, patterns: Sequence[str] = LEAK_PATTERNS) -> str | None:
    """The first phrase that speaks of the given label; None if none does. Case and the width of
    space are ignored."""
    plain = " ".join(text.split())
    for pattern in patterns:
        if match := re.search(pattern, plain, re.IGNORECASE):
            return match[0]
    return None
