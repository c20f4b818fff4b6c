from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video.address import Address, View, Window, with_tokens, with_view
from wire.errors import ClipError
from wire.types import Sample, Split

seconds = st.floats(0, 1e6, allow_nan=False)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    start = draw(seconds)
    end = draw(st.none() | st.floats(start, 2e6, exclude_min=True))
    return Window(start, end)


VERSION = "3f9c0a7b51de"


@given(st.none() | windows(), st.none() | st.sampled_from(View), st.none() | st.just(VERSION))
def test_an_address_is_taken_apart_as_it_was_put_together(
    window: Window | None, view: View | None, tokens: str | None
) -> None:
    address = Address(path=Path("clips/a.mp4"), window=window, view=view, tokens=tokens)
    if view is not None and view.needs_tokens and tokens is None:
        with pytest.raises(ClipError, match="known: blank, shuffled, reversed; leave"):
            Address.parse(str(address))
    else:
        assert Address.parse(str(address)) == address


def test_a_sample_is_shown_as_a_narrative_in_its_window_and_view():
    shown = with_tokens("a.mp4#t=1,2&view=reversed", VERSION)
    assert shown == f"a.mp4#t=1,2&tokens={VERSION}&view=reversed"
    assert with_tokens(shown, None) == "a.mp4#t=1,2&view=reversed"
    sample = Sample(id="a", video="a.mp4", label="x", split=Split.TRAIN)
    assert with_tokens(sample, VERSION) == replace(sample, video=f"a.mp4#tokens={VERSION}")
    assert with_view(f"a.mp4#tokens={VERSION}", View.DROPPED).endswith(f"{VERSION}&view=dropped")


@pytest.mark.parametrize(
    ("text", "window", "view"),
    [
        ("a.mp4", None, None),
        ("a#1.mp4", None, None),
        ("a.mp4#chapter", None, None),
        ("a.mp4#t=3.5,9", Window(3.5, 9.0), None),
        ("a.mp4#t=3.5", Window(3.5), None),
        ("a.mp4#t=,9", Window(0.0, 9.0), None),
        ("a.mp4#t=3.5,9&view=blank", Window(3.5, 9.0), View.BLANK),
        ("a.mp4#view=blank&t=3.5,9", Window(3.5, 9.0), View.BLANK),
    ],
)
def test_what_an_address_says(text: str, window: Window | None, view: View | None) -> None:
    parsed = Address.parse(f"clips/{text}")
    assert (parsed.window, parsed.view) == (window, view)
    assert parsed.path == Path("clips") / (text.partition("#")[0] if window or view else text)


@pytest.mark.parametrize(
    ("fragment", "words"),
    [
        ("t=9,3.5", "from 9 s to 3.5 s holds no frame"),
        ("t=3,3", "holds no frame"),
        ("t=-1,3", "holds no frame"),
        ("t=nan", "holds no frame"),
        ("t=inf,inf", "holds no frame"),
        ("t=a,b", "could not convert"),
        ("t=", "no time in it"),
        ("t=1,2,3", "could not convert"),
        ("t=1&t=2", "a part twice"),
        ("t=1&view=grey", "known: blank, shuffled, reversed; leave"),
        ("view=dropped", "known: blank, shuffled, reversed; leave"),
        (
            "tokens=3f9c0a7b51de&view=grey",
            "known of a narrative: blank, .*, dropped, random; leave",
        ),
        ("tokens=latest", "tokenizer 'latest'; expected a version of 12 hex digits"),
    ],
)
def test_a_window_that_is_none_is_a_clip_error(fragment: str, words: str) -> None:
    with pytest.raises(ClipError, match=words) as caught:
        Address.parse(f"clips/a.mp4#{fragment}")
    assert "clips/a.mp4#" in str(caught.value)


def test_a_view_keeps_the_window() -> None:
    assert with_view("a.mp4#t=3,9", View.BLANK) == "a.mp4#t=3,9&view=blank"
    assert with_view("a.mp4#t=3,9&view=blank", None) == "a.mp4#t=3,9"


def test_a_file_that_is_named_like_a_window_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4#t=3,9"
    file.write_bytes(b"")
    assert Address.parse(file) == Address(path=file)
    assert Address.parse(f"{file}#t=1") == Address(path=file, window=Window(1.0))
