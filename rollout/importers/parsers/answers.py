"""Rows of other systems that ask a question about a video -> the label that is its answer.

    verl       {data_source, prompt, reward_model: {ground_truth}, videos, extra_info}
    EasyR1     {problem, answer, videos}
    ms-swift   {messages, videos, solution}; without solution the last turn is the answer
    Video-R1   {problem, options, solution, problem_type, data_type, path, process}

Their prompts are not used: ours asks for one label of a closed set. A multiple choice's label is
the text of the right option; rows that no set of labels can answer are left out and counted.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rollout.importers.record import LeftOut, Reasoning, Record
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

NO_VIDEO = "rows left out: they show no video"
SEVERAL = "rows left out: they show several videos or a list of frames, a clip is one file"
OPEN = "rows left out: the answer is free text, not a label (several lines, tags, over 12 words)"
NO_ANSWER = "rows left out: no answer"
OPEN_TYPE = "rows left out: problem_type {!r} has no closed set of labels"
NO_OPTION = "rows left out: the answer is none of the options"

_MAX_WORDS = 12  # the longest class names of SSv2
_OPEN_TYPES = ("numerical", "free-form", "regression", "ocr", "math", "code")
_CHOICE = "multiple choice"
_ANSWER = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL)
_OPTION = re.compile(r"\s*\(?([A-Za-z])(?:[.):]\s*|\s+)(.*)", re.DOTALL)


def is_verl(row: Row) -> bool:
    """Whether a row has verl's columns."""
    return {"prompt", "reward_model"} <= set(row)


def is_easyr1(row: Row) -> bool:
    """Whether a row has EasyR1's columns."""
    return {"problem", "answer"} <= set(row) and bool({"videos", "images"} & set(row))


def is_swift(row: Row) -> bool:
    """Whether a row has ms-swift's columns."""
    return "messages" in row and "prompt" not in row


def is_video_r1(row: Row) -> bool:
    """Whether a row has Video-R1's columns."""
    return {"problem", "solution", "path"} <= set(row)


def parse_verl(where: str, row: Row) -> Record | LeftOut:
    """One row of verl's. Raises DataError if it has no chat or no ground truth."""
    turns_in(row, where, "prompt")
    judge = row["reward_model"]
    if not isinstance(judge, Mapping) or "ground_truth" not in judge:
        raise DataError(f"{where}: 'reward_model' is {short(judge)}, expected a 'ground_truth'")
    extra = row.get("extra_info")
    extra = extra if isinstance(extra, Mapping) else {}
    split = str(extra.get("split") or "")
    used = ("prompt", "reward_model", "videos", "images", "extra_info", "id", "split")
    columns = {**further(extra, ("split", "id")), **further(row, used)}
    flat = {**row, "id": row.get("id", extra.get("id"))}
    flat["split"] = row.get("split") or (split if split_named(split) else None)
    return _record(where, flat, row.get("videos"), judge["ground_truth"], columns)


def parse_easyr1(where: str, row: Row) -> Record | LeftOut:
    """One row of EasyR1's."""
    columns = further(row, ("problem", "answer", "videos", "images", "id", "split"))
    return _record(where, row, row.get("videos"), row.get("answer"), columns)


def parse_swift(where: str, row: Row) -> Record | LeftOut:
    """One row of ms-swift's. Raises DataError if it has no messages."""
    turns = turns_in(row, where, "messages")
    last = turns[-1].get("content") if turns[-1].get("role") == "assistant" else None
    reply = last if isinstance(last, str) and last.strip() else None
    reasoning, notes = _trace(reply) if reply and has_tags(reply) else (None, ())
    solution = row.get("solution")
    if solution is None:
        solution = reasoning.answer if reasoning else reply
    columns = further(row, ("messages", "videos", "images", "solution", "id", "split"))
    return _record(where, row, row.get("videos"), solution, columns, reasoning, notes)


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
    answer = _bare(row.get("solution"))
    options = row.get("options")
    if kind == _CHOICE or options:
        answer = _option(answer, options if isinstance(options, list) else [])
        if answer is None:
            return LeftOut(id=path, reason=NO_OPTION)
        if reasoning:
            named = _option(reasoning.answer, options if isinstance(options, list) else [])
            reasoning = Reasoning(text=reasoning.text, answer=named or reasoning.answer)
    columns = further(row, ("path", "solution", "process", "options", "id", "split", "data_type"))
    return _record(where, row, path, answer, columns, reasoning, notes)


def _record(
    where: str,
    row: Row,
    videos: Any,
    answer: Any,
    columns: Mapping[str, Any],
    reasoning: Reasoning | None = None,
    notes: tuple[str, ...] = (),
) -> Record | LeftOut:
    paths = videos_in(videos)
    name = str(row["id"]) if row.get("id") is not None else (id_of(paths[0]) if paths else where)
    if not paths:
        return LeftOut(id=name, reason=SEVERAL if videos else NO_VIDEO)
    if len(paths) > 1:
        return LeftOut(id=name, reason=SEVERAL)
    if fault := _no_label(_bare(answer)):
        return LeftOut(id=name, reason=fault)
    return Record(
        id=name,
        where=where,
        videos=(paths[0],),
        split=split_in(row.get("split"), where),
        label=label_in(_bare(answer), where, "answer"),
        reasoning=reasoning,
        columns=columns,
        notes=notes,
    )


def _bare(answer: Any) -> Any:
    """An answer without its tags."""
    match = _ANSWER.fullmatch(answer) if isinstance(answer, str) else None
    return match[1].strip() if match else answer


def _no_label(answer: Any) -> str | None:
    """The reason why an answer can be no label of a closed set."""
    if answer is None or not str(answer).strip():
        return NO_ANSWER
    text = str(answer).strip()
    return OPEN if "\n" in text or "<" in text or len(text.split()) > _MAX_WORDS else None


def _option(answer: Any, options: Sequence[Any]) -> str | None:
    """The text of the option that an answer names by its letter or by its text."""
    texts = list(_texts(options))
    wanted = str(answer or "").strip()
    letter = wanted.rstrip(".):").lstrip("(").casefold()
    for key, text in texts:
        if letter == key.casefold() or wanted.casefold() in (
            text.casefold(),
            f"{key}. {text}".casefold(),
        ):
            return text
    return None


def _texts(options: Iterable[Any]) -> Iterable[tuple[str, str]]:
    for index, option in enumerate(options):
        match = _OPTION.fullmatch(str(option))
        yield (
            (match[1], match[2].strip()) if match else (chr(ord("A") + index), str(option).strip())
        )


def _trace(text: str) -> tuple[Reasoning | None, tuple[str, ...]]:
    trace = parse_trace(text)
    return (None, (NOT_A_TRACE,)) if isinstance(trace, str) else (trace, ())
