"""Reward for agreement: does the reasoning argue for the given answer, be it right or wrong.

r = 1 if the label that the think block names last is the answer; else 0. Ours: a rule in place of
the judges that are asked whether trace and answer agree.
"""

import functools
import re

from pydantic import field_validator

from reward.builtins.params import Params
from reward.context import RewardContext
from wire.labels import plain, reasoning_in

# A letter or digit that belongs to the same word as its neighbour. Chinese, Japanese, Korean and
# Thai write a label without spaces around it, so their letters border on nothing.
_IN_WORD = r"[^\W\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"
_BORDER = f"(?!{_IN_WORD})"


class AgreementParams(Params):
    """How the reasoning names the label it argues for.

    Example:
        AgreementParams(phrase="the label is {label}")
    """

    phrase: str = "{label}"
    """Plain words with ``{label}`` where the label stands. Case and the width of space do not
    matter. The last place that matches counts, so ``{label}`` alone is the last label named, also
    after a "not"."""

    @field_validator("phrase")
    @classmethod
    def _names_the_label_once(cls, phrase: str) -> str:
        if phrase.count("{label}") != 1:
            raise ValueError("expected {label} once, such as 'the label is {label}'")
        return phrase


def agreement(completion: str, label: str, context: RewardContext, *, phrase: str) -> float:
    """1 if the label that the reasoning argues for is the answer, right or wrong; else 0.

    No think block, no answer, or reasoning that names no label: 0.
    """
    reasoning, answer = reasoning_in(completion), context.labels.answer_in(completion)
    if reasoning is None or answer is None:
        return 0.0
    named = _label_pattern(phrase, context.labels.names).findall(plain(reasoning))
    return float(bool(named) and named[-1] == plain(answer))


@functools.lru_cache(maxsize=64)
def _label_pattern(phrase: str, names: tuple[str, ...]) -> re.Pattern[str]:
    """Literals and one alternation: linear in the text. A longer label wins over its beginning."""
    before, after = (re.escape(part) for part in plain(phrase).split("{label}"))
    longest_first = sorted((plain(name) for name in names), key=len, reverse=True)
    spelled = [re.escape(name) + _BORDER * _is_in_word(name[-1]) for name in longest_first]
    starts = [_is_in_word(name[0]) for name in longest_first]
    # The test of the word's start stands before all its labels: most places of a text fail it.
    words = "|".join(text for text, starts_word in zip(spelled, starts, strict=True) if starts_word)
    others = [text for text, starts_word in zip(spelled, starts, strict=True) if not starts_word]
    either = "|".join([f"(?<!{_IN_WORD})(?:{words})"] * bool(words) + others)
    return re.compile(f"{before}({either}){after}")


def _is_in_word(letter: str) -> bool:
    return re.match(_IN_WORD, letter) is not None
