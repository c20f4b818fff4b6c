import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.importers.text import mend

PUNCTUATION = "\u2018\u2019\u201c\u201d\u2013\u2014\u2026"


@pytest.mark.parametrize("char", PUNCTUATION)
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_punctuation_that_was_misread_once_is_put_right(char: str, encoding: str) -> None:
    # a misreader keeps the bytes that Windows-1252 leaves undefined as control characters
    misread = "".join(
        bytes([byte]).decode(encoding, "ignore") or chr(byte) for byte in char.encode()
    )
    assert misread != char
    assert mend(f"a{misread}b") == f"a{char}b"


def test_a_closing_quote_that_lost_its_last_byte_is_put_right() -> None:
    assert mend("\u00e2\u20ac\u0153stop\u00e2\u20ac he said") == "\u201cstop\u201d he said"


def test_a_misread_hard_space_becomes_a_space() -> None:
    assert mend("two\u00c2\u00a0cats") == "two cats"


def test_outer_white_space_is_stripped_and_inner_kept() -> None:
    assert mend("\n  a\n\n b \t") == "a\n\n b"


@pytest.mark.parametrize(
    "text", ["caf\u00e9 \u00e2ge 5 \u20ac", "\u201cfine\u201d \u2014 it\u2019s"]
)
def test_text_that_was_read_right_stays(text: str) -> None:
    assert mend(text) == text


@given(st.text(st.characters(exclude_characters="\u00e2\u00c2")))
def test_text_without_the_marks_of_misreading_is_only_stripped(text: str) -> None:
    assert mend(text) == text.strip()


@given(st.text(st.sampled_from("ab \u2019\u201c\u201d\u2014\u00e9")))
def test_mending_is_the_inverse_of_misreading(text: str) -> None:
    misread = "".join(
        bytes([byte]).decode("cp1252", "ignore") or chr(byte)
        for char in text
        for byte in (char.encode() if char in PUNCTUATION else b"")
    )
    wanted = "".join(char for char in text if char in PUNCTUATION)
    assert mend(misread) == wanted
