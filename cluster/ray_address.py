"""Does anything answer at a Ray's address? Ray itself would try for minutes, page by page."""

import socket

_PATIENCE_S = 5.0


def answers(host: str, port: int) -> bool:
    """Whether a connection can be made."""
    try:
        socket.create_connection((host, port), timeout=_PATIENCE_S).close()
    except OSError:
        return False
    return True


def ray_answers(address: str) -> bool:
    """For ``HOST:PORT`` and ``ray://HOST:PORT``; Ray knows what other forms mean."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return not (host and port.isdecimal()) or answers(host.strip("[]"), int(port))
