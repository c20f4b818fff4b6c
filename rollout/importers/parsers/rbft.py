"""RB-FT's records (arXiv 2511.15923): a label word, a rationale or a trace as last turn.

    {id, video, ground_truth, conversations: [human, gpt]} -> Record

LLaVA's rows have the same columns, but for ``ground_truth``, and multiple choice among them.

The label is the *assistant turn*: ``ground_truth`` says "abnormal" for every test clip. Only for
rationales and traces, whose end is what the model made of a label it was shown, is it all there
is, unless another file has the clip's label. The human turn is not read: in the rationale file it
tells the label.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from rollout.importers.chat import question_in, shows_picture, turns_of
from rollout.importers.choices import (
    LETTER,
    NO_OPTION,
    Option,
    choose,
    is_key,
    options_in_text,
    question_without_options,
)
from rollout.importers.parsers.table import NO_VIDEO
from rollout.importers.record import LeftOut, Numbered, Record
from rollout.importers.reply import has_tags, is_label_word, parse_rationale, parse_trace
from rollout.importers.rows import Row, text_in, turns_in
from rollout.importers.text import mend
from wire.errors import DataError

WRONG_FIELD = "ground_truth differs from the assistant turn, which is believed"


def clip_id(record_id: str, video: str) -> str:
    """``record_id`` without the task it ends with: the video's name, where it starts with that."""
    stem = PurePosixPath(video.replace("\\", "/")).stem
    return stem if stem and record_id.startswith(stem + "-") else record_id


def parse(where: str, row: Row) -> Record | LeftOut:
    """One record. Raises DataError if it is none."""
    if not row.get("video") and shows_picture(row):
        return LeftOut(id=text_in(row, "id", where), reason=NO_VIDEO)
    reply = _reply(row, where)
    video = text_in(row, "video", where)
    question = question_in(turns_of(row, where))
    options = options_in_text(question)
    truth = _truth(row, options)
    record = Record(
        id=clip_id(text_in(row, "id", where), video),
        where=where,
        videos=(video,),
        question=question_without_options(question),
    )
    chosen = choose(reply, options)
    if is_key(truth) or (chosen is None and is_key(reply)):
        return LeftOut(id=record.id, reason=NO_OPTION if options else LETTER)
    if isinstance(chosen, Numbered):
        return replace(record, numbered=chosen)
    if chosen is not None or (not has_tags(reply) and is_label_word(reply)):
        label = chosen or reply
        wrong = truth is not None and truth.casefold() != label.casefold()
        return replace(record, label=label, notes=(WRONG_FIELD,) if wrong else ())
    trace = parse_trace(reply) if has_tags(reply) else parse_rationale(reply)
    if isinstance(trace, str):
        return replace(record, fallback_label=truth, notes=(trace,))
    return replace(record, fallback_label=truth, reasoning=trace)


def _truth(row: Row, options: Sequence[Option]) -> str | None:
    """``ground_truth``, of which a letter means an option."""
    truth = row.get("ground_truth")
    if not isinstance(truth, str) or not truth.strip():
        return None
    named = choose(truth, options)
    return named if isinstance(named, str) else mend(truth)


def _reply(row: Row, where: str) -> str:
    last = turns_in(row, where)[-1]
    value = last.get("value")
    if last.get("from") != "gpt" or not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: the last turn is no answer, expected {{'from': 'gpt', 'value'}}")
    return mend(value)
