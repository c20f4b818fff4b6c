"""Repairs of source texts: UTF-8 punctuation that was read as Windows-1252, outer white space."""

# What such a mistake makes of them: three characters, the first two of most being \u00e2\u20ac.
_PUNCTUATION = "\u2018\u2019\u201a\u201c\u201d\u201e\u2010\u2011\u2012\u2013\u2014\u2026\u2022"


def _misread(char: str, encoding: str) -> str:
    """``char`` as UTF-8 bytes that were read one by one; Windows-1252 leaves some undefined."""
    parts = [bytes([byte]) for byte in char.encode()]
    return "".join(
        part.decode(encoding, errors="ignore") or part.decode("latin-1") for part in parts
    )


_REPAIRS = {
    **{_misread(char, "cp1252"): char for char in _PUNCTUATION},
    **{_misread(char, "latin-1"): char for char in _PUNCTUATION},
    "\u00c2\u00a0": " ",
}
# A closing quote whose last byte got lost: last, since the others begin with the same two.
_CUT_QUOTE = "\u00e2\u20ac"


def mend(text: str) -> str:
    """``text`` with misread punctuation put right and without outer white space."""
    for wrong, right in _REPAIRS.items():
        text = text.replace(wrong, right)
    return text.replace(_CUT_QUOTE, "\u201d").strip()
