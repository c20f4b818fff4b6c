"""HTTP errors in words that say what to do: a status, or a connection that was not made or held.

Any client's exceptions (httpx, aiohttp, the hub's) are read by their status and by the errors of
the system that caused them.
"""

import http
import socket
import ssl
from collections.abc import Iterator

_CLOSED = (401, 403)
_GONE = (404, 410)
_PROXY_LOGIN = 407
_TOO_MANY = 429
_MAY_PASS = (408, 425, _TOO_MANY)
_SERVER = 500

_CERTIFICATE = (
    "set SSL_CERT_FILE to a file with your organisation's certificates, or mend the clock if they "
    "are said to have expired"
)


def status_of(error: BaseException) -> int | None:
    """HTTP status in an exception or in one that caused it; None without an answer."""
    for each in _causes(error):
        for holder in (each, getattr(each, "response", None)):
            for name in ("status", "status_code"):
                if isinstance(status := getattr(holder, name, None), int) and status >= 100:
                    return status
    return None


def may_pass(status: int) -> bool:
    """Whether a later try may be answered: the server is busy, or failed itself."""
    return status in _MAY_PASS or status >= _SERVER


def in_words(error: BaseException, login: str) -> str:
    """What an exception of any client says, after its meaning and remedy where it is HTTP's."""
    status = status_of(error)
    words = status_in_words(status, login) if status is not None else connection_in_words(error)
    return f"{words} ({error!r})" if words else repr(error)


def status_in_words(status: int, login: str, address: str = "the address") -> str:
    """A status with its meaning and remedy. ``login``: what gives access where that is refused;
    ``address``: what to mend where nothing is there."""
    try:
        name = f"HTTP {status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        name = f"HTTP {status}"
    if status in _CLOSED:
        return f"it answers {name}, so it is closed to you; {login}"
    if status in _GONE:
        return f"it answers {name}, so nothing is there; mend {address}"
    if status == _PROXY_LOGIN:
        return f"the proxy answers {name}; put name and password into HTTPS_PROXY"
    if status == _TOO_MANY:
        return f"it answers {name}; wait some minutes and try again, or ask for less at a time"
    if status >= _SERVER:
        return f"it answers {name}: the server failed, not you; try again later"
    return f"it answers {name}"


def connection_in_words(error: BaseException) -> str | None:
    """Reason and remedy of a connection that failed; None if the exception is of another kind."""
    for each in _causes(error):
        # aiohttp's own are of these classes, too, and have nothing of theirs
        if isinstance(each, ssl.SSLError) and (why := getattr(each, "verify_message", None)):
            return f"its certificate is not trusted ({why}); {_CERTIFICATE}"
        if isinstance(each, ssl.SSLError) and (why := getattr(each, "reason", None)):
            return f"no TLS with it ({why}); is it http:// rather than https://?"
        if isinstance(each, socket.gaierror):
            return (
                "no machine of that name is known here; mend the address, or look at the network "
                "(behind a proxy set HTTPS_PROXY)"
            )
        if isinstance(each, ConnectionRefusedError):
            return "nobody listens there (connection refused); start the server, or mend the port"
        if isinstance(each, ConnectionResetError | BrokenPipeError):
            return "it closed the connection before its answer was whole; try again"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and those that caused it."""
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        each = todo.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        own = getattr(each, "os_error", None) or getattr(each, "certificate_error", None)
        todo += [own if isinstance(own, BaseException) else None, each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            todo += each.exceptions
