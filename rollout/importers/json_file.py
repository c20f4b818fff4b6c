"""JSON files of other people: a list of objects, or one object a line."""

import codecs
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollout.importers.rows import Row, is_video
from wire.errors import DataError

_GZIP = b"\x1f\x8b"


def load(path: Path) -> Any:
    """The JSON value in a file, or a list of the values on its lines (JSON Lines)."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply; expected a list of records") from error
    except ValueError as whole:
        lines = [line.strip() for line in text.split("\n")]
        return _values(path, lines, whole)


def _values(path: Path, lines: Sequence[str], whole: ValueError) -> list[Any]:
    """Values of JSON Lines; ``whole``: why the text is no single value, reported if its first line
    is none."""
    values = []
    for number, line in enumerate(lines, start=1):
        try:
            values += [json.loads(line)] if line else []
        except (ValueError, RecursionError) as error:
            reason = f"line {number}: {error}" if values else str(whole)
            raise DataError(
                f"{path} is not valid JSON: {reason}; mend it, or leave that line out"
            ) from error
    return values


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark: UTF-8, or UTF-16 that has the mark. Raises
    DataError if it is none."""
    try:
        with path.open("rb") as file:
            is_wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        return path.read_text(encoding="utf-16" if is_wide else "utf-8-sig")
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; give the path of a file or folder"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}; {_remedy(path)}") from error


def _remedy(path: Path) -> str:
    if is_video(path.name):
        return "it is a video; give the folder above its class"
    with path.open("rb") as file:
        is_packed = file.read(len(_GZIP)) == _GZIP
    if is_packed:
        return "it is compressed; unpack it with gunzip"
    return f"save it as UTF-8, such as by: iconv -f WINDOWS-1252 -t UTF-8 {path}"


def json_rows(path: Path) -> list[tuple[str, Row]]:
    """(place, object) of each record. Raises DataError if the file holds none."""
    value = load(path)
    if isinstance(value, dict):
        value = [value]  # a file of one line
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise DataError(f"{path} is no list of records; expected a JSON list of objects")
    return [(f"{path.name} record {number}", row) for number, row in enumerate(value, start=1)]
