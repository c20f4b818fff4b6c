"""Label codes: token ids that stand for labels, of which none begins another.

    "drink" 7, "drink beer" 7 9 -> 7 <end>, 7 9

A score of codes of which one begins another counts the longer label twice: whatever continues with
it also begins with the shorter. What ends an answer tells them apart.
"""

import itertools
from collections.abc import Callable, Mapping

Code = tuple[int, ...]


def tell_apart(codes: Mapping[str, Code], ended: Callable[[str], Code]) -> dict[str, Code]:
    """Codes in the same order, those that begin another one ended; all others as they are.

    ``ended``: a label's code with the token or tokens that end an answer.
    """
    apart = dict(codes)
    left = set(codes)
    while shorter := _beginning_another(apart) & left:
        apart |= {name: ended(name) for name in shorter}
        left -= shorter
    return apart


def _beginning_another(codes: Mapping[str, Code]) -> set[str]:
    """Labels whose code begins that of another, or equals it. In sorted order, what a code begins
    follows it at once."""
    ordered = sorted(codes.items(), key=lambda item: item[1])
    pairs = itertools.pairwise(ordered)
    return {name for (name, code), (_, after) in pairs if after[: len(code)] == code}
