"""Names of clips as people read them: short, printable, without folders and secrets.

A name stands in answers, decisions and audit rows. It never becomes the name of a file.
"""

from urllib.parse import urlsplit

_LONGEST = 200
_NAMELESS = "clip"


def shown_name(name: str) -> str:
    """Last part of a name that a client gave, in printable characters, shortened."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return _printable(last) or _NAMELESS


def shown_url(url: str) -> str:
    """A URL without its query and fragment, which may hold secrets."""
    parts = urlsplit(url)
    return _printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def _printable(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[: 2 * _LONGEST])
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."
