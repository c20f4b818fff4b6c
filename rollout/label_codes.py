"""Label codes: token ids that stand for labels, of which none begins another.

    "drink" 7, "drink beer" 7 9 -> 7 <end>, 7 9
    codes -> questions (what may follow a beginning) -> logprob of each code

A score of codes of which one begins another counts the longer label twice: whatever continues with
it also begins with the shorter. What ends an answer tells them apart.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Code = tuple[int, ...]
_TOKENS_AT_ONCE = 128  # of which vLLM gives the logprobs in one request


class CodeQuestion(NamedTuple):
    """A question to an engine: the logprob of each of ``tokens`` after the prompt and ``begun``."""

    begun: Code
    tokens: Code


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


def code_questions(codes: Sequence[Code]) -> list[CodeQuestion]:
    """Fewest questions that give the logprob of every code: one for each beginning of a code, which
    those that share it share; the first is of no beginning. More where a beginning has very many
    continuations. Raises ValueError for a code without a token."""
    if not all(codes):
        raise ValueError("a label has no token in its code; it must have one at least")
    following: dict[Code, dict[int, None]] = {}
    for code in codes:
        for place, token in enumerate(code):
            following.setdefault(code[:place], {})[token] = None
    questions = []
    for begun in sorted(following, key=len):
        tokens = tuple(following[begun])
        for start in range(0, len(tokens), _TOKENS_AT_ONCE):
            questions.append(CodeQuestion(begun, tokens[start : start + _TOKENS_AT_ONCE]))
    return questions


def code_logprobs(codes: Sequence[Code], answers: Mapping[Code, float]) -> list[float]:
    """Logprob of each code: the sum over its tokens. ``answers``: logprob of the last token of a
    beginning, of all that the questions ask for."""
    return [sum(answers[code[: end + 1]] for end in range(len(code))) for code in codes]


def _beginning_another(codes: Mapping[str, Code]) -> set[str]:
    """Labels whose code begins that of another, or equals it. In sorted order, what a code begins
    follows it at once."""
    ordered = sorted(codes.items(), key=lambda item: item[1])
    pairs = itertools.pairwise(ordered)
    return {name for (name, code), (_, after) in pairs if after[: len(code)] == code}
