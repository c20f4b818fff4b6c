import unicodedata

import pytest

from wire.printable import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clip\x1b[2J\x1b]0;title\x07.mp4", r"clip\x1b[2J\x1b]0;title\x07.mp4"),
        ("100%\r  0%", r"100%\r  0%"),
        ("a\x08\x08b\x00\x7f", r"a\x08\x08b\x00\x7f"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egpj.exe\u2069", r"\u202egpj.exe\u2069"),
        ("a\u2028b", r"a\u2028b"),
        ("\udcff.mp4", r"\udcff.mp4"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_a_terminal_would_act_on_is_an_escape(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable(expected) == expected


def test_text_of_any_language_stays_as_it_is() -> None:
    text = "caf\u00e9 \u8d70\u308b \u05e9\u05dc\u05d5\u05dd \u0939\u093f\u200d [red] \\x41\n\tend"
    assert printable(text) == text


def test_no_control_character_but_tab_and_newline_is_left() -> None:
    every = "".join(map(chr, range(0x11_0000)))
    left = {c for c in printable(every) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    assert left == {"\t", "\n"}
    bidirectional = {c for c in every if unicodedata.bidirectional(c) in _DIRECTIONS}
    assert not bidirectional & set(printable(every))


_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
