"""Addresses of files: a path or ``file://`` on this machine, ``https://`` and others elsewhere."""

import re
from pathlib import Path
from urllib.parse import unquote

_REMOTE = re.compile(r"(?!file://)[a-z][a-z0-9+]+://", re.IGNORECASE)
_FILE = "file://"


def is_remote(address: str) -> bool:
    """Whether an address is one of another machine: a URL, but not ``file://``."""
    return _REMOTE.match(address) is not None


def local_path(address: str) -> str:
    """``file:///x`` as ``/x``, with ``%20`` as a space unless it is part of the file's name;
    anything else as it is."""
    if not address.lower().startswith(_FILE):
        return address
    path = "/" + address[len(_FILE) :].removeprefix("localhost").lstrip("/")
    return path if "%" not in path or _is_there(path) else unquote(path)


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long, or with a null character
        return False
