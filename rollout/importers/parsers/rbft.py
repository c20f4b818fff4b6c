"""RB-FT's records (arXiv 2511.15923): a label word, a rationale or a trace as last turn.

    {id, video, ground_truth, conversations: [human, gpt]} -> Record

The label is the *assistant turn*: ``ground_truth`` says "abnormal" for every test clip. Only for
rationales and traces, whose end is what the model made of a label it was shown, is it all there
is, unless another file has the clip's label. The human turn is not read: in the rationale file it
tells the label.
"""

from pathlib import PurePosixPath

from rollout.importers.record import Record
from rollout.importers.reply import has_tags, is_label_word, parse_rationale, parse_trace
from rollout.importers.rows import Row, text_in, turns_in
from rollout.importers.text import mend
from wire.errors import DataError

WRONG_FIELD = "ground_truth differs from the assistant turn, which is believed"


def clip_id(record_id: str, video: str) -> str:
    """``record_id`` without the task it ends with: the video's name, where it starts with that."""
    stem = PurePosixPath(video.replace("\\", "/")).stem
    return stem if stem and record_id.startswith(stem + "-") else record_id


def parse(where: str, row: Row) -> Record:
    """One record. Raises DataError if it is none."""
    reply = _reply(row, where)
    video = text_in(row, "video", where)
    name = clip_id(text_in(row, "id", where), video)
    truth = row.get("ground_truth")
    truth = mend(truth) if isinstance(truth, str) and truth.strip() else None
    if not has_tags(reply) and is_label_word(reply):
        wrong = truth is not None and truth.casefold() != reply.casefold()
        notes = (WRONG_FIELD,) if wrong else ()
        return Record(id=name, where=where, videos=(video,), label=reply, notes=notes)
    trace = parse_trace(reply) if has_tags(reply) else parse_rationale(reply)
    return Record(
        id=name,
        where=where,
        videos=(video,),
        fallback_label=truth,
        reasoning=None if isinstance(trace, str) else trace,
        notes=(trace,) if isinstance(trace, str) else (),
    )


def _reply(row: Row, where: str) -> str:
    last = turns_in(row, where)[-1]
    value = last.get("value")
    if last.get("from") != "gpt" or not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: the last turn is no answer, expected {{'from': 'gpt', 'value'}}")
    return mend(value)
