"""Any table with a column for the video and one for the label, and lists ``path label``.

    video | path | file_name | ..., label | class | ..., split, trace, text, any more -> Record

``--columns`` gives other columns these names. ``id`` is made of the path where there is none. A
``trace`` counts if it concludes with the clip's label; ``text`` is side text. Where a row has
options (choices.py), a label that is a letter or number means one of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rollout.importers.chat import shows_picture
from rollout.importers.choices import (
    NO_OPTION,
    bare,
    choose,
    names_keys,
    options_in_columns,
    options_in_text,
    question_without_options,
)
from rollout.importers.csv_file import FIRST, SECOND
from rollout.importers.record import LeftOut, Numbered, Reasoning, Record, Window
from rollout.importers.reply import parse_trace
from rollout.importers.rows import (
    Row,
    further,
    id_of,
    is_video,
    label_in,
    short,
    split_in,
    videos_in,
    window_in,
)
from wire.errors import DataError

VIDEO_COLUMNS = (
    "video", "path", "file_name", "filename", "file", "filepath", "file_path", "video_path", "clip",
    "url", "video_id",
)  # fmt: skip
LABEL_COLUMNS = ("label", "class", "class_name", "category", "action", "target", "answer")

NO_VIDEO = "rows left out: they show no video"
SEVERAL = "rows left out: they show several videos or a list of frames, a clip is one file"

_QUESTIONS = ("question", "problem", "query")
_OWN_WINDOW = ("start_s", "end_s")
_WINDOWS = (("time_start", "time_end"), ("start", "end"))


def is_table(row: Row) -> bool:
    """Whether a row has a column for the video and one for the label."""
    label = _first(row, LABEL_COLUMNS)
    is_problem = label == "answer" and not {"problem", "prompt"}.isdisjoint(row)
    return _first(row, VIDEO_COLUMNS) is not None and label is not None and not is_problem


def is_list(row: Row) -> bool:
    """Whether a row is a line of a list without header that begins with a path."""
    return set(row) == {FIRST, SECOND} and not is_numbered(row)


def is_numbered(row: Row) -> bool:
    """Whether a line without header is ``id;label``, and the id a number as in SSv2."""
    first, second = str(row.get(FIRST)), str(row.get(SECOND))
    return set(row) == {FIRST, SECOND} and first.isdigit() and not second.isdigit()


def parse(where: str, row: Row) -> Record | LeftOut:
    """One row of a table. Raises DataError if it names no video."""
    video_column = _first(row, VIDEO_COLUMNS) or "video"
    label_column = _first(row, LABEL_COLUMNS) or "label"
    videos = videos_in(row.get(video_column))
    if not videos and shows_picture(row):
        return LeftOut(id=_id(row.get("id"), where), reason=NO_VIDEO)
    if len(videos) > 1:
        return LeftOut(id=_id(row.get("id"), videos[0]), reason=SEVERAL)
    if not videos:
        raise DataError(
            f"{where}: {video_column!r} is {short(row.get(video_column))}, expected one path; give "
            "--columns video=NAME if the path is in another column"
        )
    reasoning, notes = _trace(row.get("trace"))
    text, label = row.get("text"), bare(row.get(label_column))
    window, window_columns = _window(row, where)
    used = (video_column, label_column, "split", "id", "trace", "text", *window_columns)
    record = Record(
        id=_id(row.get("id"), videos[0]),
        where=where,
        videos=(videos[0],),
        untrimmed=(videos[0],),
        window=window,
        is_part=window_columns == _OWN_WINDOW,
        split=split_in(row.get("split"), where),
        label=label_in(label, where, label_column),
        reasoning=reasoning,
        side_text={"text": text} if isinstance(text, str) and text.strip() else {},
        columns=further(row, used),
        notes=notes,
    )
    return _chosen(row, label, record)


def _chosen(row: Row, value: Any, record: Record) -> Record | LeftOut:
    """The record with the text of an option where its label is the letter or number of one."""
    question = next((row[name] for name in _QUESTIONS if isinstance(row.get(name), str)), "")
    options = options_in_columns(row) or options_in_text(question)
    asked = question_without_options(question)
    record = replace(record, question=asked, has_options=bool(options))
    if record.label is None or not options:
        return record
    chosen = choose(value if isinstance(value, int) else record.label, options)
    if isinstance(chosen, Numbered):
        return replace(record, label=None, numbered=chosen)
    if chosen is None and names_keys(record.label, options):
        return LeftOut(id=record.id, reason=NO_OPTION)
    return replace(record, label=chosen or record.label)


def parse_list(where: str, row: Row) -> Record:
    """One line ``path label``. Raises DataError if it has no path."""
    if row.get(FIRST) is None:
        raise DataError(f"{where}: no path before the label, expected such as 'clips/a.mp4 label'")
    path, rest = str(row[FIRST]), str(row.get(SECOND) or "").split()
    if len(rest) > 1 and all(each.isdigit() for each in rest):
        raise DataError(
            f"{where}: after the path are {len(rest)} numbers ({short(row[SECOND])}), expected one "
            "label; leave the number of frames out, and clips of several labels"
        )
    return Record(
        id=id_of(path), where=where, videos=(path,), label=label_in(row.get(SECOND), where)
    )


def _first(row: Row, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)


def _id(value: Any, video: str) -> str:
    plain = str(value).strip() if isinstance(value, str | int) else ""
    return plain or (id_of(video) if is_video(video) else video)


def _trace(value: Any) -> tuple[Reasoning | None, tuple[str, ...]]:
    if not isinstance(value, str) or not value.strip():
        return None, ()
    trace = parse_trace(value)
    return (None, (trace,)) if isinstance(trace, str) else (trace, ())


def _window(row: Row, where: str) -> tuple[Window | None, tuple[str, ...]]:
    if set(_OWN_WINDOW) & set(row):
        return window_in(row, *_OWN_WINDOW, where, may_be_open=True), _OWN_WINDOW
    for start, end in _WINDOWS:
        if start in row and end in row:
            return window_in(row, start, end, where), (start, end)
    return None, ()
