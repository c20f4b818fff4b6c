"""Lists as text: CSV with a header, and lines ``path label`` without one.

    first line -> delimiter (tab, semicolon, comma, else space) -> header or not -> rows

Rows of a file without a header have the columns ``0`` and ``1``.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rollout.importers.json_file import read_text
from rollout.importers.rows import VIDEO_SUFFIXES, Row
from rollout.manifest import raise_if_any
from wire.errors import DataError

FIRST, SECOND = "0", "1"
"""The columns of a list without a header."""

HEADERS = frozenset(
    (
        *("id", "video", "label", "path", "file", "file_name", "filename", "filepath", "file_path"),
        *("video_path", "video_id", "youtube_id", "clip", "clip_id", "class", "class_name", "url"),
        *("category", "action", "target", "split", "text", "name", "labels", "classes"),
        *("time_start", "time_end", "start_s", "end_s"),
    )
)
"""A first line with one of these words as a cell is a header."""

_DELIMITERS = "\t;,"
# A path may hold spaces; its suffix says where it ends.
_LINE = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, VIDEO_SUFFIXES))}))\s+(.+)", re.IGNORECASE)


def csv_rows(path: Path, headers: Iterable[str] = ()) -> list[tuple[str, Row]]:
    """(place, row) of each line that is not empty; ``headers``: further words of a header.

    Raises DataError naming lines with more or fewer cells than the first has.
    """
    lines = list(_cells(path, read_text(path)))
    if not lines:
        return []
    known = HEADERS | {word.casefold() for word in headers}
    first = [cell.strip() for cell in lines[0][1]]
    has_header = len(first) != 2 or any(cell.casefold() in known for cell in first)
    names = first if has_header else [FIRST, SECOND]
    if len(set(names)) < len(names) or not all(names):
        raise DataError(f"{path}: its header {names} has an empty or a double name; name each once")
    body = lines[1:] if has_header else lines
    faults = [
        f"{where} has {len(cells)} cells, expected {len(names)} ({', '.join(names)})"
        for where, cells in body
        if len(cells) != len(names)
    ]
    raise_if_any(str(path), faults)
    return [
        (where, {name: cell.strip() or None for name, cell in zip(names, cells, strict=True)})
        for where, cells in body
    ]


def _cells(path: Path, text: str) -> Iterator[tuple[str, list[str]]]:
    """(place, cells) of each line that is not empty."""
    lines = text.split("\n")  # not splitlines: a cell may hold other separators of lines
    first = next((line for line in lines if line.strip()), "")
    delimiter = next((mark for mark in _DELIMITERS if mark in first), None)
    if delimiter is None:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{path.name} line {number}", _split_line(line.strip())
        return
    reader = csv.reader([f"{line}\n" for line in lines], delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield f"{path.name} line {reader.line_num}", cells
    except csv.Error as error:
        raise DataError(
            f"{path} line {reader.line_num} is no CSV: {error}; save it with quotes closed"
        ) from error


def _split_line(line: str) -> list[str]:
    """``path label``, divided after the path's suffix, or at the last space."""
    match = _LINE.fullmatch(line)
    return list(match.groups()) if match else line.rsplit(maxsplit=1)
