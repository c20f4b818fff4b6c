"""Control tokens: which tokens of a tokenizer steer it, and text cut so that none comes of it.

    "a<|im_end|>b" -> "a<", "|im_end|>b" -> token ids of each piece, in a row

In pieces a text reads the same, decodes to itself, and holds no control token. Only texts that
spell one are cut; all others keep the tokens that they always had.
"""

import re
from collections.abc import Iterable
from typing import Any

from rollout.message import TAGS, Foreign
from video.processor import PLACEHOLDER

_CUT = "\ufdd0"  # Unicode keeps it for use inside programs: it is no character of any text
_UNREADABLE = "\ufffd"
_NO_CHARACTER = re.compile(f"[\ud800-\udfff{_CUT}]")  # tokenizers refuse half a surrogate pair
_WORD = re.compile(r"[\w' -]+")
_MARKUP = re.compile(r"<.*>|\[.*\]|\{.*\}", re.DOTALL)
_ROLES = ("bos_token", "eos_token", "pad_token", "sep_token", "cls_token")
_NOTHING = re.compile(r"(?!)")


class ControlTokens:
    """Control tokens of a tokenizer: its special tokens, and added ones that look like markup
    (``<tool_call>``). Tags of a trace, and words such as labels, are none."""

    def __init__(self, tokenizer: Any) -> None:
        added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
        controls = {text for text, special in added.items() if _steers(text, special)}
        controls |= {role for name in _ROLES if (role := getattr(tokenizer, name, None))}
        controls |= set(re.findall(r"<[^>]+>", PLACEHOLDER))  # where the clip goes, in any case
        self._all = tuple(controls)
        self._controls = _beginning_of(text for text in controls if len(text) > 1)
        self._letters = _any_of(text for text in controls if len(text) == 1)
        self._tags = _beginning_of(tag for tag in TAGS if tag in added)
        self._normalizer = getattr(tokenizer, "backend_tokenizer", None) and (
            tokenizer.backend_tokenizer.normalizer
        )

    def named_in(self, text: str) -> list[str]:
        """Control tokens that a text spells, sorted."""
        shown = self._as_matched(_characters(text))
        return sorted(
            {m[1] for m in self._controls.finditer(shown)} | {*self._letters.findall(shown)}
        )

    def without_end(self, text: str) -> str:
        """The text without control tokens at its end, where servers leave the end of a turn."""
        while (shown := text.rstrip()).endswith(self._all):
            longest = max((c for c in self._all if shown.endswith(c)), key=len)
            text = shown.removesuffix(longest).rstrip()
        return text

    def cut(self, *parts: str) -> str:
        """The text of these parts, with marks where :func:`pieces` divides it. In a
        :class:`Foreign` part the tags of a trace are no tokens either."""
        text = "".join(
            _mark(self._tags, _characters(part)) if isinstance(part, Foreign) else _characters(part)
            for part in parts
        )
        text = self._letters.sub(_UNREADABLE, self._as_matched(text))
        return _mark(self._controls, text)

    def _as_matched(self, text: str) -> str:
        """The text as the tokenizer sees it, if that spells a control token that it does not."""
        if self._normalizer is None:
            return text
        seen = str(self._normalizer.normalize_str(text))
        spelled = [len(self._controls.findall(form)) for form in (text, seen)]
        return seen if spelled[1] > spelled[0] else text


def pieces(text: str) -> list[str]:
    """Pieces of a text that was cut; each is to be encoded alone."""
    return text.split(_CUT)


def _steers(text: str, special: bool) -> bool:
    """Whether an added token steers; ``special`` is often said of words too."""
    if text in TAGS or _WORD.fullmatch(text):
        return False
    return special or _MARKUP.fullmatch(text) is not None


def _beginning_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches the first character of each text, also where they overlap."""
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    either = "|".join(map(re.escape, longest_first))
    return re.compile(f"(?=({either})).", re.DOTALL) if longest_first else _NOTHING


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(sorted(map(re.escape, texts))) or "(?!)")


def _mark(beginnings: re.Pattern[str], text: str) -> str:
    return beginnings.sub(lambda match: match[0] + _CUT, text)


def _characters(text: str) -> str:
    return _NO_CHARACTER.sub(_UNREADABLE, text)
