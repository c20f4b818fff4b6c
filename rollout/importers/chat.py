"""Chat rows in the shapes of several trainers -> turns of plain text, with the videos they show.

    messages       [{role, content}]      ms-swift, TRL
    conversations  [{from, value}]        LLaVA, ShareGPT
    query, response (, history)           ms-swift
    prompt, completion or solution        TRL

The content of a turn is text, or a list of typed parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.importers.reply import without_end
from rollout.importers.rows import Row, turns_in, videos_in

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"}
_PICTURES = ("image", "image_url", "images")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of a conversation.

    Example:
        Turn(role="user", text="What happens?", videos=("a.mp4",))
    """

    role: str
    text: str
    videos: tuple[str, ...] = ()
    """Paths in its typed parts; of a list of frames each."""
    has_picture: bool = False


def is_chat(row: Row) -> bool:
    """Whether a row holds a conversation in one of the shapes."""
    if "prompt" in row:
        return any(name in row for name in ("completion", "solution", "answer"))
    if "messages" in row:
        return True
    if {"query", "response"} <= set(row):
        return "label" not in row
    papers = "item_id" in row or {"id", "video"} <= set(row)
    return "conversations" in row and not papers


def turns_of(row: Row, where: str) -> list[Turn]:
    """The turns of a chat row. Raises DataError if it has none."""
    if "messages" in row:
        return _turns(turns_in(row, where, "messages"))
    if "conversations" in row:
        return _turns(turns_in(row, where))
    if "query" in row:
        past = row.get("history")
        pairs = [pair for pair in past if isinstance(pair, list)] if isinstance(past, list) else []
        pairs.append([row["query"], row.get("response")])
        roles = ("user", "assistant")
        return [
            _turn({"role": role, "content": text})
            for pair in pairs
            for role, text in zip(roles, pair, strict=False)
            if text is not None
        ]
    asked = _as_turns(row, where, "prompt", "user")
    replies = _as_turns(row, where, "completion") if row.get("completion") is not None else []
    return [*asked, *replies]


def question_in(turns: Sequence[Turn]) -> str:
    """Text of the last turn of the user, without which the answer means nothing."""
    return next((turn.text for turn in reversed(turns) if turn.role == "user"), "")


def reply_in(turns: Sequence[Turn]) -> str | None:
    """Text of the last turn, without a server's end of turn, if it is the assistant's and not
    empty."""
    last = turns[-1] if turns else None
    return (without_end(last.text) or None) if last and last.role == "assistant" else None


def shows_picture(row: Row, turns: Sequence[Turn] = ()) -> bool:
    """Whether a row shows a picture, in a column or a typed part."""
    return any(row.get(name) for name in ("images", "image")) or any(t.has_picture for t in turns)


def _as_turns(row: Row, where: str, name: str, role: str = "assistant") -> list[Turn]:
    if isinstance(row.get(name), str):
        return [_turn({"role": role, "content": row[name]})]
    return _turns(turns_in(row, where, name))


def _turns(turns: Sequence[Row]) -> list[Turn]:
    return [_turn(turn) for turn in turns]


def _turn(turn: Row) -> Turn:
    role = str(turn.get("role", turn.get("from")) or "").casefold()
    content = turn.get("content", turn.get("value"))
    listed = content if isinstance(content, list) else []
    parts = [part for part in listed if isinstance(part, Mapping)]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    return Turn(
        role=_ROLES.get(role, role),
        text=content if isinstance(content, str) else "\n".join(texts),
        videos=tuple(path for part in parts for path in videos_in(_video(part))),
        has_picture=any(part.get(name) for part in parts for name in _PICTURES)
        or any(part.get("type") in _PICTURES for part in parts),
    )


def _video(part: Mapping[str, Any]) -> Any:
    """What a typed part shows as a video: a path, a list of frames; None for other parts."""
    if part.get("type") not in (None, "video", "video_url"):
        return None
    shown = part.get("video") or part.get("video_url")
    if shown is None and part.get("type") == "video":
        shown = part.get("path") or part.get("url")
    return shown
