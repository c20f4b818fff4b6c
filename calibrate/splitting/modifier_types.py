"""Types of modifier phrases, by their words: intent, success, count, direction, place, outcome.

The paper reports that splits by direction succeed best, and those by count, intent and success
worst; its assignment of labels to types is not public. These rules are ours, and a file of label
texts may say otherwise (``[types]``).
"""

import re

OTHER = "other"

_RULES = (  # the first that matches
    ("intent", r"pretend\w*"),
    ("success", r"trying|failing|fail\w*|without|cannot|can't|\w+n't|unbendable|almost|nothing"),
    ("count", r"\d[\d.]*|one|two|three|double|triple|multiple|number|both|twice|once|bit"),
    (
        "direction",
        r"left|right|up|down|upwards?|downwards?|forwards?|backwards?|sidewards?|sideways|"
        r"towards?|away|closer|apart|clockwise|counterclockwise",
    ),
    (
        "place",
        r"behind|front|next|inside|under\w*|over|onto|into|on|top|edge|against|along|from|out|in",
    ),
    ("outcome", r"until|so|then|collid\w*|deflect\w*|falls?|falling|breaks?|stops?"),
)
_PATTERNS = tuple((name, re.compile(rf"\b(?:{words})\b", re.IGNORECASE)) for name, words in _RULES)


def modifier_type(phrase: str) -> str:
    """Type of a modifier phrase: that of the first rule that matches a word of it."""
    return next((name for name, pattern in _PATTERNS if pattern.search(phrase)), OTHER)
