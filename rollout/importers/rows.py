"""Fields of a row, for all formats: text, label, video, split, window, and the columns left over.

Rows are mappings, whatever file they stand in (content.py). Each function raises DataError that
begins with ``where`` if a row has not what it must have.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from rollout.importers.record import Window
from wire.errors import DataError
from wire.types import Split

Row = Mapping[str, Any]

VIDEO_SUFFIXES = (
    ".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp",
)  # fmt: skip
OWN_COLUMNS = ("id", "video", "label", "split", "trace", "text", "source", "start_s", "end_s")
"""Columns that an import writes itself."""

# As pandas writes a value that is not there; "None" and "null" may be classes.
_NO_VALUE = ("", "nan", "<na>", "nat")
_WHOLE_FLOAT = re.compile(r"\d+\.0")  # what a table makes of whole numbers beside empty cells
_LIST = re.compile(r"\[.*\]")
_UNSEEN = re.compile("[\u200b\u2060\ufeff]")

_SPLITS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "val": Split.VAL,
    "valid": Split.VAL,
    "validate": Split.VAL,
    "validation": Split.VAL,
    "dev": Split.VAL,
    "cal": Split.CAL,
    "calibration": Split.CAL,
    "test": Split.TEST,
    "testing": Split.TEST,
}


def text_in(row: Row, name: str, where: str) -> str:
    """A text that a record must have."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name!r} is {short(value)}, expected text")
    return value.strip()


def turns_in(row: Row, where: str, name: str = "conversations") -> list[Row]:
    """The conversation of a record: a list of objects, at least one."""
    turns = row.get(name)
    if not isinstance(turns, list) or not turns or not all(isinstance(t, dict) for t in turns):
        raise DataError(
            f"{where}: {name!r} is {short(turns)}, expected a list of turns; "
            "is --format the right one?"
        )
    return turns


def label_in(value: Any, where: str, name: str = "label") -> str | None:
    """A label with plain spaces, in one form of Unicode; a whole number as its digits; None for an
    empty cell, also as a table of pandas writes it (``nan``)."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{where}: {name!r} is {short(value)}, expected text or a whole number")
    text = plain_label(str(value))
    if _LIST.fullmatch(text):
        raise DataError(f"{where}: {name!r} is {short(text)}, a list; a clip has one label here")
    text = text.removesuffix(".0") if _WHOLE_FLOAT.fullmatch(text) else text
    return None if text.casefold() in _NO_VALUE else text


def plain_label(text: str) -> str:
    """A label's name by which spellings agree: plain spaces, no unseen characters, one form of
    Unicode."""
    return " ".join(_UNSEEN.sub("", unicodedata.normalize("NFC", text)).split())


def split_in(value: Any, where: str) -> Split | None:
    """A split by any of its usual names; None for an empty cell."""
    if value is None or not str(value).strip():
        return None
    split = split_named(str(value))
    if split is None:
        known = ", ".join(_SPLITS)
        raise DataError(f"{where}: 'split' is {short(value)}, expected one of {known}")
    return split


def split_named(name: str) -> Split | None:
    """The split that a folder or a cell names, or None."""
    return _SPLITS.get(name.strip().casefold())


def window_in(
    row: Row, start: str, end: str, where: str, *, may_be_open: bool = False
) -> Window | None:
    """The window between two columns, in seconds; None if neither is filled.

    ``may_be_open``: one that is not filled is the video's start or end.
    """
    values = [row.get(start), row.get(end)]
    is_filled = [value not in (None, "") and value == value for value in values]
    if not any(is_filled):
        return None
    if may_be_open:
        ends = (0.0, math.inf)
        values = [v if filled else e for v, filled, e in zip(values, is_filled, ends, strict=True)]
    try:
        first, last = (float(value) for value in values)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        first = last = math.nan
    if not 0 <= first < last or (last == math.inf and is_filled[1]):
        raise DataError(
            f"{where}: {start!r} to {end!r} is {short(values[0])} to {short(values[1])}, "
            "expected seconds, the start at least 0 and before the end"
        )
    return Window(start_s=first, end_s=last)


def videos_in(value: Any) -> list[str]:
    """The paths in a ``videos`` field: of texts, or of objects with the path in them."""
    entries = value if isinstance(value, list) else [value]
    return [path for entry in entries if (path := _path(entry))]


def id_of(video: str) -> str:
    """An id made of a video's address: without its scheme, outer slashes and suffix."""
    plain = re.sub(r"^[a-z0-9+]+://", "", video.replace("\\", "/"), flags=re.IGNORECASE)
    path = PurePosixPath(plain.strip("/"))
    return str(path.with_suffix("")) if is_video(path.name) else str(path)


def is_video(name: str) -> bool:
    """Whether a file is a video by its name."""
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def further(row: Row, used: Iterable[str]) -> dict[str, Any]:
    """The columns of a row that nobody used; those with a name of our own as ``source_NAME``."""
    left = {k: v for k, v in row.items() if k not in set(used) and v is not None}
    return {f"source_{k}" if k in OWN_COLUMNS else k: v for k, v in left.items()}


def short(value: object) -> str:
    """A value for a message, at most a line's half."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _path(entry: Any) -> str | None:
    if isinstance(entry, Mapping):
        entry = next((entry[k] for k in ("video", "path", "url") if entry.get(k)), None)
    return entry.strip() or None if isinstance(entry, str) else None
