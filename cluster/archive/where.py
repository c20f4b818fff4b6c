"""Filters of traces: ``label=undo``, ``reward>=1``, ``text~door`` -> pyarrow Expression.

    words -> parse_where -> Where.expression, Where.columns

All of the words must hold. ``a|b`` is any of several values, ``null`` is no value, and a value in
double quotes is taken as it is written: ``label="null"``.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cluster.archive.columns import column_type, column_types
from wire.errors import ConfigError
from wire.nearest import nearest
from wire.types import FailureKind, FinishReason, Purpose, Split

GRAMMAR = "COLUMN followed by one of = != < <= > >= ~ and a value, such as label=undo or reward>=1"
_WORD = re.compile(r"\s*(\w+)(?:\.([^=!<>~]*?))?\s*(==|!=|<=|>=|=|<|>|~)\s*(.*?)\s*", re.DOTALL)
_ORDER = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}
_VALUES: dict[str, list[str]] = {
    "purpose": [one.value for one in Purpose],
    "split": [one.value for one in Split],
    "finish_reason": [one.value for one in FinishReason],
    "failure_kind": [one.value for one in FailureKind],
}
_INT_RANGE = {pa.int32(): 2**31, pa.int64(): 2**63}


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A filter of rows, and the columns that it reads."""

    expression: pc.Expression | None
    """None: every row."""
    columns: frozenset[str]


EVERY_ROW = Where(expression=None, columns=frozenset())


def parse_where(words: Sequence[str]) -> Where:
    """The filter that all of ``words`` say. Raises ConfigError, with the nearest name for a column
    or a value that there is not."""
    expression: pc.Expression | None = None
    read: set[str] = set()
    for word in words:
        name, condition = _condition(word)
        read.add(name)
        expression = condition if expression is None else expression & condition
    return Where(expression=expression, columns=frozenset(read))


def _condition(word: str) -> tuple[str, pc.Expression]:
    match = _WORD.fullmatch(word)
    if match is None:
        raise ConfigError(f"--where {word!r} is no filter; give {GRAMMAR}")
    name, part, operator, text = match.groups()
    operator = "=" if operator == "==" else operator
    column = name if part is None else f"{name}.{part}"
    kind = column_type(column)
    if kind is None and part is not None and column_type(name) is not None:
        raise ConfigError(
            f"--where {word!r}: {name!r} has no parts; give {name}{operator}{text}, or a part of "
            "the reward as in reward_parts.accuracy>=1"
        )
    if kind is None:
        raise ConfigError(f"--where {word!r}: there is no column {name!r}; {_near(name)}")
    if not _is_plain(kind):
        advice = (
            "give one of its parts, as in reward_parts.accuracy>=1"
            if name == "reward_parts"
            else "use `deepintuit archive query` with SQL"
        )
        raise ConfigError(f"--where {word!r}: no filter compares {name!r}, a {kind}; {advice}")
    if text == "":
        raise ConfigError(f'--where {word!r} has no value; give one, null, or "" for empty text')
    return column, _compare(word, column, pc.field(column), kind, operator, text)


def _near(name: str) -> str:
    types = column_types()
    return nearest(name, [known for known, kind in types.items() if _is_plain(kind)], "there are")


def _is_plain(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _compare(
    word: str, name: str, column: pc.Expression, kind: pa.DataType, operator: str, text: str
) -> pc.Expression:
    if operator == "~":
        if not pa.types.is_string(kind):
            raise ConfigError(f"--where {word!r}: ~ looks inside text, but {name!r} is a number")
        return pc.match_substring(column, _unquoted(text), ignore_case=True)
    if operator in _ORDER:
        if pa.types.is_string(kind):
            raise ConfigError(f"--where {word!r}: {name!r} is text; compare it by =, != or ~")
        return _ORDER[operator](column, _value(word, name, kind, text))
    choices = [_equal(word, name, column, kind, choice) for choice in _choices(text)]
    either = choices[0]
    for choice in choices[1:]:
        either = either | choice
    return either if operator == "=" else ~either


def _equal(
    word: str, name: str, column: pc.Expression, kind: pa.DataType, text: str
) -> pc.Expression:
    """Never null, so that its negation holds for rows without a value."""
    if text == "null":
        return ~column.is_valid()
    return column.is_valid() & (column == _value(word, name, kind, text))


def _choices(text: str) -> list[str]:
    """Values between ``|`` that stand outside double quotes."""
    return re.findall(r'(?:\A|(?<=\|))("(?:[^"\\]|\\.)*"(?=\||\Z)|[^|]*)', text)


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if quoted else text


def _value(word: str, name: str, kind: pa.DataType, text: str) -> pa.Scalar:
    if pa.types.is_string(kind):
        value = _unquoted(text)
        if value not in _VALUES.get(name, [value]):
            known = nearest(value, _VALUES[name], "there are")
            raise ConfigError(f"--where {word!r}: no {name} is {value!r}; {known}")
        return pa.scalar(value, kind)
    whole = pa.types.is_integer(kind)
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        what = "whole number" if whole else "number"
        raise ConfigError(
            f"--where {word!r}: {name!r} is a {what}, got {text!r}; give one, or null"
        ) from None
    if math.isnan(number) or (whole and not -_INT_RANGE[kind] <= number < _INT_RANGE[kind]):
        raise ConfigError(f"--where {word!r}: {name!r} is never {text}; give another number")
    return pa.scalar(number, kind)
