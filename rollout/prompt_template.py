"""Template of a prompt: a text with named fields in braces, parsed once and filled in one pass.

    "Labels: {labels}" -> Template -> fill({"labels": "fall, walk"}) -> ("Labels: ", "fall, walk")

A literal brace is written twice. Braces in a value stay as they are.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollout.message import Parts

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_NAME = re.compile(r"\w[\w .-]*")
_JINJA = re.compile(r"\{\{\s*[\w.]+\s*\|[^{}]*\}\}|\{%[^{}]*%\}")
_JINJA_FIELD = re.compile(r"\{\{\s+([\w.]+)\s+\}\}")
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Template:
    """Template of a prompt.

    Example:
        Template.parse("Labels: {labels}.").parts == (("Labels: ", "labels"), (".", ""))
    """

    parts: tuple[tuple[str, str], ...]
    """Pairs of a literal text and the name of the field after it; empty: none."""

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Parse a template. Raises ValueError for a brace that is neither doubled nor a field's,
        and for Jinja, which is another language."""
        if jinja := _JINJA.search(text) or _JINJA_FIELD.search(text):
            raise ValueError(
                f"{jinja[0]!r} is Jinja; a field is a name in single braces, such as {{labels}}, "
                "and a literal brace is written twice"
            )
        parts: list[tuple[str, str]] = []
        literal, start = "", 0
        for piece in _PIECE.finditer(text):
            literal += text[start : piece.start()]
            start = piece.end()
            if piece[0] in ("{{", "}}"):
                literal += piece[0][0]
                continue
            parts.append((literal, _field_name(text, piece)))
            literal = ""
        return cls((*parts, (literal + text[start:], "")))

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, each once, in their order."""
        return tuple(dict.fromkeys(name for _, name in self.parts if name))

    def fill(self, values: Mapping[str, str | Parts]) -> Parts:
        """Parts of the text with every field's value, which may have parts itself; a value that is
        Foreign stays so."""
        filled: list[str] = []
        for text, name in self.parts:
            value = values[name] if name else ""
            filled += (text, value) if isinstance(value, str) else (text, *value)
        return tuple(part for part in filled if part)


def _field_name(text: str, piece: re.Match[str]) -> str:
    name = (piece[1] or "").strip()
    if _NAME.fullmatch(name):
        return name
    line = text.count("\n", 0, piece.start()) + 1
    shown = " ".join(text[piece.start() : piece.start() + _SHOWN].split())
    what = "is no field's name" if piece[1] is not None else "stands alone"
    raise ValueError(
        f"line {line}: the brace of {shown!r} {what}; a literal brace is written twice: "
        "{{ and }}"
    )


def value_text(value: Any) -> str | None:
    """Text of a manifest's value, as a prompt shows it; None where the row has none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # Parquet makes whole numbers of it where a row has none
    if isinstance(value, list | tuple):
        return ", ".join(value_text(item) or "" for item in value)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
