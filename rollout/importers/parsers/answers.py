"""Rows of other systems that ask a question about a video -> the label that is its answer.

    verl       {data_source, prompt, reward_model: {ground_truth}, videos, extra_info}
    EasyR1     {problem, answer, videos}
    chat       {messages, videos, solution}; without solution the last turn is the answer (chat.py)
    Video-R1   {problem, options, solution, problem_type, data_type, path, process}

Their prompts are not used: ours asks for one label of a closed set. A multiple choice's label is
the text of the right option, wherever the options stand (choices.py); rows that no set of labels
can answer are left out and counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rollout.importers.chat import is_chat, question_in, reply_in, shows_picture, turns_of
from rollout.importers.choices import (
    LETTER,
    NO_OPTION,
    Option,
    bare,
    choose,
    is_key,
    names_keys,
    options_in_columns,
    options_in_text,
    question_without_options,
)
from rollout.importers.parsers.table import NO_VIDEO, SEVERAL
from rollout.importers.record import LeftOut, Numbered, Reasoning, Record
from rollout.importers.reply import NOT_A_TRACE, has_tags, parse_trace
from rollout.importers.rows import (
    Row,
    further,
    id_of,
    label_in,
    short,
    split_in,
    split_named,
    text_in,
    turns_in,
    videos_in,
)
from wire.errors import DataError

PICTURE = "rows left out: they show a picture beside the video, a clip is one file"
OPEN = "rows left out: the answer is free text, not a label (several lines, tags, over 12 words)"
NO_ANSWER = "rows left out: no answer"
OPEN_TYPE = "rows left out: problem_type {!r} has no closed set of labels"

_SOLUTIONS = ("solution", "answer")
_MAX_WORDS = 12  # the longest class names of SSv2
_OPEN_TYPES = ("numerical", "free-form", "regression", "ocr", "math", "code")
_CHOICE = "multiple choice"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a row asks and answers, before it is known whether that makes a label."""

    videos: Any
    answer: Any
    question: str = ""
    has_picture: bool = False
    is_choice: bool = False
    """The row says that its answer is one of options."""
    reasoning: Reasoning | None = None
    notes: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)


def is_verl(row: Row) -> bool:
    """Whether a row has verl's columns."""
    return {"prompt", "reward_model"} <= set(row)


def is_easyr1(row: Row) -> bool:
    """Whether a row has EasyR1's columns."""
    return {"problem", "answer"} <= set(row) and bool({"videos", "images"} & set(row))


def is_swift(row: Row) -> bool:
    """Whether a row is a chat, as ms-swift, TRL and LLaVA have them."""
    return is_chat(row) and not is_verl(row)


def is_video_r1(row: Row) -> bool:
    """Whether a row has Video-R1's columns."""
    return {"problem", "solution", "path"} <= set(row)


def parse_verl(where: str, row: Row) -> Record | LeftOut:
    """One row of verl's. Raises DataError if it has no chat or no ground truth."""
    turns_in(row, where, "prompt")
    turns = turns_of({"messages": row["prompt"]}, where)
    judge = row.get("reward_model")
    if not isinstance(judge, Mapping) or "ground_truth" not in judge:
        raise DataError(f"{where}: 'reward_model' is {short(judge)}, expected a 'ground_truth'")
    extra = row.get("extra_info")
    extra = extra if isinstance(extra, Mapping) else {}
    split = str(extra.get("split") or "")
    used = ("prompt", "reward_model", "videos", "images", "extra_info", "id", "split")
    flat = {**extra, **row, "id": row.get("id", extra.get("id"))}
    flat["split"] = row.get("split") or (split if split_named(split) else None)
    asked = _Asked(
        videos=row.get("videos") or [video for turn in turns for video in turn.videos],
        answer=judge["ground_truth"],
        question=question_in(turns),
        has_picture=shows_picture(row, turns),
        columns={**further(extra, ("split", "id")), **further(row, used)},
    )
    return _record(where, flat, asked)


def parse_easyr1(where: str, row: Row) -> Record | LeftOut:
    """One row of EasyR1's."""
    asked = _Asked(
        videos=row.get("videos"),
        answer=row.get("answer"),
        question=str(row.get("problem") or ""),
        has_picture=shows_picture(row),
        columns=further(row, ("problem", "answer", "videos", "images", "id", "split")),
    )
    return _record(where, row, asked)


def parse_swift(where: str, row: Row) -> Record | LeftOut:
    """One row of a chat. Raises DataError if it has no turns."""
    turns = turns_of(row, where)
    reply = reply_in(turns)
    reasoning, notes = _trace(reply) if reply and has_tags(reply) else (None, ())
    solution = next((row[name] for name in _SOLUTIONS if row.get(name) is not None), None)
    if solution is None:
        solution = reasoning.answer if reasoning else reply
    used = ("messages", "conversations", "query", "response", "history", "system", "prompt")
    more = ("completion", "video", "videos", "image", "images", *_SOLUTIONS, "id", "split")
    shown = row.get("videos") or row.get("video")
    asked = _Asked(
        videos=shown or [video for turn in turns for video in turn.videos],
        answer=solution,
        question=question_in(turns),
        has_picture=shows_picture(row, turns),
        reasoning=reasoning,
        notes=notes,
        columns=further(row, (*used, *more)),
    )
    return _record(where, row, asked)


def parse_video_r1(where: str, row: Row) -> Record | LeftOut:
    """One row of Video-R1's. Raises DataError if it has no path."""
    path = text_in(row, "path", where)
    kind = str(row.get("problem_type") or "").strip().casefold()
    if str(row.get("data_type") or "video").casefold() != "video":
        return LeftOut(id=path, reason=NO_VIDEO)
    if kind in _OPEN_TYPES:
        return LeftOut(id=path, reason=OPEN_TYPE.format(kind))
    process = row.get("process")
    whole = f"{process}{row.get('solution')}" if isinstance(process, str) and process else ""
    reasoning, notes = _trace(whole) if whole else (None, ())
    used = ("path", "solution", "process", "options", "id", "split", "data_type")
    asked = _Asked(
        videos=path,
        answer=row.get("solution"),
        question=str(row.get("problem") or ""),
        is_choice=kind == _CHOICE or bool(row.get("options")),
        reasoning=reasoning,
        notes=notes,
        columns=further(row, used),
    )
    return _record(where, row, asked)


def _record(where: str, row: Row, asked: _Asked) -> Record | LeftOut:
    paths = videos_in(asked.videos)
    name = str(row["id"]) if row.get("id") is not None else (id_of(paths[0]) if paths else where)
    if fault := _no_clip(asked, paths):
        return LeftOut(id=name, reason=fault)
    record = Record(
        id=name,
        where=where,
        videos=(paths[0],),
        split=split_in(row.get("split"), where),
        question=question_without_options(asked.question),
        reasoning=asked.reasoning,
        columns=asked.columns,
        notes=asked.notes,
    )
    return _with_answer(where, row, asked, record)


def _no_clip(asked: _Asked, paths: list[str]) -> str | None:
    """The reason why what a row shows is not one clip."""
    if not paths:
        return SEVERAL if asked.videos else NO_VIDEO
    if len(paths) > 1:
        return SEVERAL
    return PICTURE if asked.has_picture else None


def _with_answer(where: str, row: Row, asked: _Asked, record: Record) -> Record | LeftOut:
    """The record with the label that its row answers, or with the number of an option."""
    answer = bare(asked.answer)
    in_columns = options_in_columns(row)
    options = in_columns or options_in_text(asked.question)
    if isinstance(answer, str | int) and not isinstance(answer, bool) and str(answer).strip():
        chosen = choose(answer, options)
        is_choice = asked.is_choice or bool(in_columns)
        if chosen is None and (fault := _no_option(answer, options, is_choice=is_choice)):
            return LeftOut(id=record.id, reason=fault)
        record = replace(record, reasoning=_with_option(asked.reasoning, options))
        if isinstance(chosen, Numbered):
            return replace(record, numbered=chosen)
        answer = answer if chosen is None else chosen
    if fault := _no_label(answer):
        return LeftOut(id=record.id, reason=fault)
    return replace(record, label=label_in(answer, where, "answer"))


def _no_option(answer: str | int, options: Sequence[Option], *, is_choice: bool) -> str | None:
    """The reason why an answer that is none of the options can be no label either."""
    if is_choice or (options and names_keys(answer, options)):
        return NO_OPTION
    return LETTER if is_key(answer) else None


def _with_option(reasoning: Reasoning | None, options: tuple[Option, ...]) -> Reasoning | None:
    """Reasoning that concludes with an option's text where it concludes with its letter."""
    named = choose(reasoning.answer, options) if reasoning else None
    return replace(reasoning, answer=named) if reasoning and isinstance(named, str) else reasoning


def _no_label(answer: Any) -> str | None:
    """The reason why an answer can be no label of a closed set."""
    if answer is None or not str(answer).strip():
        return NO_ANSWER
    text = str(answer).strip()
    return OPEN if "\n" in text or "<" in text or len(text.split()) > _MAX_WORDS else None


def _trace(text: str) -> tuple[Reasoning | None, tuple[str, ...]]:
    trace = parse_trace(text)
    return (None, (NOT_A_TRACE,)) if isinstance(trace, str) else (trace, ())
