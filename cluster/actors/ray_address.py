"""Tests whether Ray's address answers, within seconds; Ray itself would try for minutes."""

import socket

_PATIENCE_S = 5.0


def answers(host: str, port: int) -> bool:
    """Whether an address accepts connections."""
    try:
        socket.create_connection((host, port), timeout=_PATIENCE_S).close()
    except OSError:
        return False
    return True


def ray_answers(address: str) -> bool:
    """Whether ``HOST:PORT`` or ``ray://HOST:PORT`` answers; True for forms that only Ray knows."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return not (host and port.isdecimal()) or answers(host.strip("[]"), int(port))
