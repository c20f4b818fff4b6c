"""Content types of clips for a browser, by their first bytes, never by their name.

What is no container that browsers play is sent as bytes to be saved: nothing that a client sent is
ever shown as a page or run as a script.
"""

from pathlib import Path

UNKNOWN = "application/octet-stream"


def content_type_of(path: Path) -> str:
    """Content type of a clip's file. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(64)
    if start[4:8] == b"ftyp":
        return "video/quicktime" if start[8:12] == b"qt  " else "video/mp4"
    if start.startswith(b"\x1a\x45\xdf\xa3"):
        return "video/webm" if b"webm" in start else "video/x-matroska"
    if start.startswith(b"OggS"):
        return "video/ogg"
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    return UNKNOWN
