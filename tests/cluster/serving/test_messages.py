import asyncio

import pytest

from calibrate.service.protocols import ClipToClassify
from cluster.serving.messages import clip_of, clip_values, packed, read_message


async def test_messages_are_read_one_by_one_and_nonsense_is_refused() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(packed({"a": 1}) + packed({"b": [0.1, None]}) + b"\xff\xff\xff\xff")
    assert await read_message(reader) == {"a": 1}
    assert await read_message(reader) == {"b": [0.1, None]}
    with pytest.raises(ValueError, match="a message of 4294967295 bytes"):
        await read_message(reader)
    reader.feed_eof()
    with pytest.raises(EOFError):
        await read_message(reader)
    other = asyncio.StreamReader()
    other.feed_data(b"\0\0\0\x021\n")
    with pytest.raises(ValueError, match="a message that is a int"):
        await read_message(other)


def test_a_clip_comes_back(tmp_path) -> None:
    clip = ClipToClassify(
        id="ä", path=tmp_path / "b c", window=(0.1, 2.5), columns={"q": "x"}, text="t"
    )
    assert clip_of(clip_values(clip)) == clip
    plain = ClipToClassify(id="a", path=tmp_path)
    assert clip_of(clip_values(plain)) == plain
