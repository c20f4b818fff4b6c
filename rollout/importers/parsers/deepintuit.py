"""DeepIntuit's records (arXiv 2603.10300): a trace, a label word or nothing as assistant turn.

    {item_id, conversations: [user: [video, text], assistant], policy_title, anno_label,
     reward_label, title, asr_text, sticker, image} -> Record

``anno_label`` is 1 for abnormal, while the label *index* of abnormal is 0 (sorted titles): it is
compared by meaning, never used as an index. Its prompts are not read, but for the side texts of
files that have them nowhere else. The "ASR transcript" is a person's description of the clip, the
"sticker text" of the cold start the reason for its label (seeds.md 1.10).
"""

import re
from typing import Any

from rollout.importers.record import Reasoning, Record
from rollout.importers.reply import has_tags, is_label_word, parse_trace
from rollout.importers.rows import Row, text_in, turns_in
from rollout.importers.text import mend
from wire.errors import DataError

UNKNOWN_REPLY = "an assistant turn is neither a trace nor a label"

_ANNOTATED = {"abnormal": 1, "normal": 0}
_SIDE = {"title": "Title", "asr_text": "ASR Transcript", "sticker": "Sticker Text"}
_SHOWN = {"title": "title", "asr_text": "transcript", "sticker": "text in the picture"}
# The materials close the prompt; a text goes on until the next name or the end.
_MATERIAL = r"^{name}:(.*?)(?=^(?:" + "|".join(_SIDE.values()) + r"):|\Z)"


def parse(where: str, row: Row) -> Record:
    """One record. Raises DataError if it is none."""
    turns = turns_in(row, where)
    label = mend(text_in(row, "policy_title", where))
    item_id = text_in(row, "item_id", where)
    reply = mend(_text(turns[1].get("content"))) if len(turns) > 1 else ""
    reasoning, notes, conflicts = _reply(reply, label)
    conflicts += _contradictions(row, label)
    return Record(
        id=item_id,
        where=where,
        videos=(_video(row, turns[0], where),),
        label=label,
        reasoning=reasoning,
        side_text=_side_text(row, _text(turns[0].get("content")), item_id),
        conflicts=tuple(conflicts),
        notes=tuple(notes),
    )


def _reply(reply: str, label: str) -> tuple[Reasoning | None, list[str], list[str]]:
    """Reasoning, notes and conflicts with ``label`` that the assistant turn gives."""
    if not reply or reply.casefold() == label.casefold():
        return None, [], []
    if has_tags(reply):
        trace = parse_trace(reply)
        if isinstance(trace, str):
            return None, [trace], []
        if trace.answer.casefold() != label.casefold():
            return trace, [], [f"its trace answers {trace.answer!r}"]
        return trace, [], []
    if is_label_word(reply):
        return None, [], [f"its assistant turn is {reply!r}"]
    return None, [UNKNOWN_REPLY], []


def _contradictions(row: Row, label: str) -> list[str]:
    contradictions = []
    reward_label = row.get("reward_label")
    if reward_label is not None and str(reward_label).strip().casefold() != label.casefold():
        contradictions.append(f"reward_label is {reward_label!r}")
    number, expected = row.get("anno_label"), _ANNOTATED.get(label.casefold())
    if number is not None and expected is not None and number not in (expected, str(expected)):
        contradictions.append(f"anno_label is {number!r}")
    return contradictions


def _video(row: Row, turn: Row, where: str) -> str:
    parts = turn.get("content")
    for part in parts if isinstance(parts, list) else []:
        video = part.get("video") if isinstance(part, dict) else None
        if isinstance(video, str) and video.strip():
            return video.strip()
    try:
        return text_in(row, "image", where)  # some files name it a second time
    except DataError as error:
        raise DataError(f"{where}: no video in the first turn, expected a path") from error


def _text(content: Any) -> str:
    """The text of a turn: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _side_text(row: Row, prompt: str, item_id: str) -> dict[str, str]:
    texts = {}
    for key, name in _SIDE.items():
        value = row.get(key) if key in row else _material(prompt, name)
        text = mend(value) if isinstance(value, str) else ""
        if text and text.casefold() != "none" and text != item_id:
            texts[_SHOWN[key]] = text
    return texts


def _material(prompt: str, name: str) -> str:
    match = re.search(_MATERIAL.format(name=name), prompt, re.MULTILINE | re.DOTALL)
    return match[1] if match else ""
