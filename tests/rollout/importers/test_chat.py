"""Chat rows of several trainers, read into turns."""

from typing import Any

import pytest

from rollout.importers.chat import (
    Turn,
    is_chat,
    question_in,
    reply_in,
    shows_picture,
    turns_of,
)
from wire.errors import DataError

PARTS = [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "What?"}]
ASKED = Turn(role="user", text="What?", videos=("a.mp4",))
TOLD = Turn(role="assistant", text="fall")
PLAIN = Turn(role="user", text="What?")


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        (
            {
                "messages": [
                    {"role": "user", "content": PARTS},
                    {"role": "assistant", "content": [{"type": "text", "text": "fall"}]},
                ]
            },
            [ASKED, TOLD],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "What?"},
                    {"from": "gpt", "value": "fall"},
                ]
            },
            [PLAIN, TOLD],
        ),
        ({"query": "What?", "response": "fall"}, [PLAIN, TOLD]),
        ({"query": "What?", "response": None}, [PLAIN]),
        (
            {"query": "What?", "response": "fall", "history": [["Hi", "Yes?"]]},
            [Turn(role="user", text="Hi"), Turn(role="assistant", text="Yes?"), PLAIN, TOLD],
        ),
        (
            {
                "prompt": [{"role": "user", "content": PARTS}],
                "completion": [{"role": "assistant", "content": "fall"}],
            },
            [ASKED, TOLD],
        ),
        ({"prompt": "What?", "completion": "fall"}, [PLAIN, TOLD]),
        ({"prompt": [{"role": "user", "content": "What?"}], "solution": "fall"}, [PLAIN]),
    ],
)
def test_a_conversation_is_read_in_every_shape(row: dict[str, Any], turns: list[Turn]) -> None:
    assert is_chat(row)
    read = turns_of(row, "row 1")
    assert read == turns
    assert question_in(read) == "What?"
    assert reply_in(read) == (None if len(turns) == 1 else "fall")


@pytest.mark.parametrize(
    ("part", "videos"),
    [
        ({"type": "video", "video": "file:///a.mp4"}, ("file:///a.mp4",)),
        ({"type": "video", "path": "a.mp4"}, ("a.mp4",)),
        ({"type": "video", "url": "https://h/a.mp4"}, ("https://h/a.mp4",)),
        ({"type": "video_url", "video_url": {"url": "https://h/a.mp4"}}, ("https://h/a.mp4",)),
        ({"video": "a.mp4", "text": None, "type": "video"}, ("a.mp4",)),
        ({"type": "video", "video": ["1.jpg", "2.jpg"]}, ("1.jpg", "2.jpg")),
        ({"type": "video"}, ()),
        ({"type": "text", "text": "x", "video": None}, ()),
        ({"type": "image", "path": "a.jpg"}, ()),
    ],
)
def test_a_typed_part_shows_its_video(part: dict[str, Any], videos: tuple[str, ...]) -> None:
    (turn,) = turns_of({"messages": [{"role": "user", "content": [part]}]}, "row 1")
    assert turn.videos == videos
    assert turn.has_picture == (part.get("type") == "image")


def test_a_picture_is_seen_in_columns_and_parts() -> None:
    assert shows_picture({"images": ["a.jpg"]})
    assert not shows_picture({"images": [], "image": None})
    assert shows_picture({}, [Turn(role="user", text="", has_picture=True)])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [], "reward_model": {}},
        {"query": "x", "response": "y", "label": "z", "video": "a.mp4"},
        {"id": 1, "video": "a.mp4", "conversations": []},
        {"item_id": 1, "conversations": []},
        {"video": "a.mp4", "label": "x"},
    ],
)
def test_rows_of_other_formats_are_no_chat(row: dict[str, Any]) -> None:
    assert not is_chat(row)


def test_a_row_of_empty_cells_has_no_turns() -> None:
    assert turns_of({"query": None, "response": None}, "row 1") == []
    assert (question_in([]), reply_in([])) == ("", None)


@pytest.mark.parametrize(
    ("text", "reply"), [("slide back<|im_end|>\n", "slide back"), ("</s>", None)]
)
def test_a_reply_ends_before_the_end_of_turn_that_a_server_left(
    text: str, reply: str | None
) -> None:
    assert reply_in([PLAIN, Turn(role="assistant", text=text)]) == reply


def test_a_row_without_turns_is_named() -> None:
    with pytest.raises(DataError, match="row 1: 'messages' is 'hi', expected a list of turns"):
        turns_of({"messages": "hi"}, "row 1")
