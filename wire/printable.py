"""Printable text: what other people wrote, with control characters as escapes.

    name of a file with an ESC in it -> printable -> the same with \\x1b in its place

File names, labels, ids, traces and errors come from anywhere. A terminal acts on control
characters, and shows text after a bidirectional override in another order than it has.
"""

import re

# C0 but tab and newline, DEL, C1; marks, overrides and isolates of direction; separators of lines;
# half characters (surrogates: bytes of a file name that are no UTF-8); invisible annotations, tags
_UNPRINTED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """Text that a terminal shows and does not act on; only new lines and tabs stay as they are."""
    return _UNPRINTED.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
