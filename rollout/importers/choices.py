"""Multiple choice: options of a row, and the one that an answer names by letter, number or text.

    a list of options, columns A, B, C, lines "A. fall" of the question -> options
    "B", "(B)", "B. jump", "option 2", 1, "jump" -> the text of one option

A letter or number means something else in every row, so it is never a label. Whether numbers count
from 0 or from 1 is told by all rows of a source together (settle.py).
"""

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from rollout.importers.record import Numbered
from rollout.importers.rows import Row

NO_OPTION = "rows left out: the answer is none of the options"
LETTER = (
    "rows left out: the answer is the letter of an option, and no options stand in the row; if the "
    "letters themselves are the classes, give --format table --columns video=NAME,label=NAME"
)

_ANSWER = re.compile(r".*<answer>(.*?)</answer>\s*", re.DOTALL)
_BOXED = re.compile(r".*\\boxed\{(?:\\text\{)?([^{}]*)\}?\}\.?\$?\s*", re.DOTALL)
_FIRST_KEYS = ("a", "0", "1")
_LIST_COLUMNS = (
    *("options", "choices", "candidates", "answer_choices", "answer_options"),
    *("classes", "class_names", "label_names"),
)
_COLUMN = re.compile(
    r"(?P<kind>(?:option|choice|candidate|answer|opt)[ _-]?|a(?=\d)|(?=[a-z]$))"
    r"(?P<key>[a-z]|\d{1,2})",
    re.IGNORECASE,
)
_MARK = r"(?P<open>[(\[]?)(?P<key>[A-Za-z]|\d{1,2})(?P<close>[.:)\]])\**"
_AT_LINE_START = re.compile(rf"^[ \t>*-]*{_MARK}(?:[ \t]+|(?=[^\s\d]))", re.MULTILINE)
_ANYWHERE = re.compile(rf"(?:(?<=[\s;,:?])|\A){_MARK}(?:(?<=[)\]*])[ \t]*|[ \t]+)(?=\S)")
# Numbered lines are often instructions; they are options if the question says so.
_SPEAKS_OF_OPTIONS = re.compile(
    r"\b(?:options?|choices?|candidates?|class(?:es)?|categor(?:y|ies)|labels?|actions?|following)\b",
    re.IGNORECASE,
)
# What follows the last option on its line: how to answer.
_INSTRUCTION = re.compile(
    r"(?<=[.;!?])\s+(?:Please|Answer|Only|Your|Respond|Reply|Select|Choose|Provide|Give|Output|Write|"
    r"Pick)\b.*",
)
_NAMES_KEY = re.compile(
    r"(?P<words>(?:(?:the|correct|right|best|final|answer|option|choice|is|number)\b[\s:]*)*)"
    r"[(\[*]*(?P<key>[A-Za-z]|\d{1,4})(?P<close>[)\].:,*]*)(?:\s+(?P<rest>.+))?",
    re.IGNORECASE | re.DOTALL,
)
_SEVERAL_KEYS = re.compile(r"[A-Z](?:\s*(?:,|;|/|&|\+|and|or)\s*[A-Z])+")
_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a question.

    Example:
        Option(key="B", text="jump")
    """

    key: str
    """Letter or number before it, folded; empty where it has none."""
    text: str


def options_in_columns(row: Row) -> tuple[Option, ...]:
    """The options in columns of a row: a list of them, or a column for each; empty without."""
    for name in _LIST_COLUMNS:
        if name in row and (options := _as_options(row[name])):
            return options
    by_kind: dict[str, dict[str, str]] = {}
    for name, value in row.items():
        kind_and_key = _kind_and_key(name)
        if kind_and_key and isinstance(value, str | int) and not isinstance(value, bool):
            kind, key = kind_and_key
            by_kind.setdefault(kind, {})[key] = str(value)
    for texts in by_kind.values():
        keys = sorted(texts, key=lambda key: (len(key), key))
        if _is_run(keys) and not all(map(_is_number, texts.values())):
            return _telling([Option(key, _plain(texts[key])) for key in keys])
    return ()


@lru_cache(maxsize=4096)  # a source has the same columns in every row
def _kind_and_key(column: str) -> tuple[str, str] | None:
    """``option_a`` -> (``option_``, ``a``); None for a column of another kind."""
    match = _COLUMN.fullmatch(column.strip())
    return (match["kind"].casefold(), match["key"].casefold()) if match else None


def options_in_text(question: str) -> tuple[Option, ...]:
    """The options that stand in a question's text, lettered or numbered; empty without."""
    run, is_inline = _run_in(question)
    return _telling(_between(question, run, is_inline)) if run else ()


def bare(answer: Any) -> Any:
    """An answer without its tags or its box."""
    match = isinstance(answer, str) and (_ANSWER.fullmatch(answer) or _BOXED.fullmatch(answer))
    return match[1].strip() if match else answer


def choose(answer: str | int, options: Sequence[Option]) -> str | Numbered | None:
    """The text of the option that an answer names; its number where that is all it is; None if it
    names none of them, or more than one."""
    wanted = _fold(str(answer))
    by_text = next((option.text for option in options if _fold(option.text) == wanted), None)
    if by_text is not None and not isinstance(answer, int):
        return by_text
    match = _NAMES_KEY.fullmatch(str(answer).strip())
    if by_text is not None or match is None or not options:
        return None  # a number, of which nobody knows whether it is a text or a place
    key, rest = match["key"].casefold(), match["rest"]
    chosen = _by_key(key, options)
    if rest and (not isinstance(chosen, str) or _fold(rest) != _fold(chosen)):
        return None
    return chosen


def is_key(answer: Any) -> bool:
    """Whether an answer is nothing but the letter of an option, or several: ``B``, ``(b).``,
    ``option B``, ``B. jump``, ``A, C``."""
    if not isinstance(answer, str):
        return False
    if _SEVERAL_KEYS.fullmatch(answer.strip()):
        return True
    match = _NAMES_KEY.fullmatch(answer.strip())
    if match is None or match["key"].isdigit():
        return False
    return not match["rest"] or bool(match["close"])


def names_keys(answer: Any, options: Sequence[Option]) -> bool:
    """Whether an answer names options by letter or number, though perhaps none or several of these:
    ``BD``, ``7``."""
    text = str(answer).strip()
    joined = text.isupper() and len(text) > 1 and list(text) == sorted(set(text))
    letters = {chr(ord("A") + place) for place in range(len(options))}
    return is_key(answer) or text.isdigit() or (joined and set(text) <= letters)


def question_without_options(question: str) -> str:
    """A question's text by which two are compared: without options, tags and spacing."""
    run, _ = _run_in(question)
    return _fold(_TAG.sub(" ", question[: run[0].start()] if run else question))


def _run_in(question: str) -> tuple[list[re.Match[str]], bool]:
    """The marks of the options in a question, and whether they stand within a line."""
    for pattern in (_AT_LINE_START, _ANYWHERE):
        run = _last_run(pattern.finditer(question))
        if run and not (
            run[0]["key"].isdigit() and not _SPEAKS_OF_OPTIONS.search(question[: run[0].start()])
        ):
            return run, pattern is _ANYWHERE
    return [], False


def _as_options(value: Any) -> tuple[Option, ...]:
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, Mapping):
        texts, keys = value.get("text"), value.get("label")
        if isinstance(texts, list) and isinstance(keys, list) and len(texts) == len(keys):
            value = dict(zip(map(str, keys), texts, strict=True))
        pairs = [(str(k), v) for k, v in value.items() if isinstance(v, str | int)]
        return _telling([Option(key.casefold(), _plain(str(text))) for key, text in pairs])
    if not isinstance(value, list) or not all(isinstance(each, str | int) for each in value):
        return ()
    marks = [_AT_LINE_START.match(str(each)) for each in value]
    if all(marks) and _is_run([mark["key"].casefold() for mark in marks if mark]):
        both = zip(value, (mark for mark in marks if mark), strict=True)
        return _telling([Option(m["key"].casefold(), _plain(str(v)[m.end() :])) for v, m in both])
    return _telling([Option("", _plain(str(each))) for each in value])


def _parsed(text: str) -> Any:
    """A list or object in a cell, as JSON or Python writes it, or as lettered lines."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, list | tuple | dict):
            return list(value) if isinstance(value, tuple) else value
    if lettered := options_in_text(text):
        return {option.key: option.text for option in lettered}
    lines = [line for line in text.splitlines() if line.strip()]
    return lines if len(lines) > 1 else None


def _telling(options: Sequence[Option]) -> tuple[Option, ...]:
    """The options, unless they are fewer than two or say no more than their letters."""
    kept = [option for option in options if option.text]
    if len(kept) < 2 or all(re.fullmatch(r"[A-Z]", option.text) for option in kept):
        return ()
    return tuple(kept)


def _is_run(keys: Sequence[str]) -> bool:
    """Whether keys are a, b, c ... or 0, 1, 2 ... or 1, 2, 3 ..., two of them or more."""
    follow = all(_next(one) == other for one, other in pairwise(keys))
    return len(keys) > 1 and keys[0] in _FIRST_KEYS and follow


def _last_run(marks: Iterable[re.Match[str]]) -> list[re.Match[str]]:
    """The last marks that count on from A, 0 or 1 in one way of writing; empty without two."""
    best: list[re.Match[str]] = []
    runs: dict[tuple[str, str, bool], list[re.Match[str]]] = {}
    for mark in marks:
        run = runs.get(_style(mark), [])
        key = mark["key"].casefold()
        if run and key == _next(run[-1]["key"].casefold()):
            run.append(mark)
            if not best or run[0].start() >= best[0].start():
                best = run
        elif key in _FIRST_KEYS:
            runs[_style(mark)] = [mark]
    return best


def _next(key: str) -> str:
    return str(int(key) + 1) if key.isdigit() else chr(ord(key) + 1)


def _style(mark: re.Match[str]) -> tuple[str, str, bool]:
    return mark["open"], mark["close"], mark["key"].isupper()


def _between(question: str, run: Sequence[re.Match[str]], is_inline: bool) -> list[Option]:
    ends = [*(mark.start() for mark in run[1:]), len(question)]
    texts = [question[mark.end() : end] for mark, end in zip(run, ends, strict=True)]
    texts[-1] = texts[-1].strip().partition("\n")[0]
    if is_inline:
        texts[-1] = _INSTRUCTION.sub("", texts[-1])
    return [
        Option(mark["key"].casefold(), _plain(text)) for mark, text in zip(run, texts, strict=True)
    ]


def _by_key(key: str, options: Sequence[Option]) -> str | Numbered | None:
    keys = [option.key for option in options]
    texts = tuple(option.text for option in options)
    if key in keys:
        return texts[keys.index(key)]
    if not key.isdigit():
        place = ord(key) - ord("a")
        return texts[place] if not any(map(str.isalpha, keys)) and place < len(texts) else None
    return None if any(map(str.isdigit, keys)) else Numbered(int(key), texts)


def _plain(text: str) -> str:
    """Text of an option without markdown and the sign that parts it from the next."""
    return " ".join(text.split()).strip("*").strip().rstrip(",;|/.").strip()


def _fold(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".").strip()


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*[+-]?\d*\.?\d+(?:[eE][+-]?\d+)?\s*", text) is not None
