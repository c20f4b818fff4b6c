"""Server of the service: uvicorn on the running loop, and a stop that answers what it accepted.

signal -> ready turns false, new requests get 503 -> requests in progress are answered
       -> sockets close -> the caller closes the service's parts (jobs pause)
second signal -> the process ends at once
"""

import asyncio
import json
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import NoReturn

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from calibrate.service.http.faults import MEDIA_TYPE
from calibrate.service.problems import Problem
from calibrate.service.service import Service
from wire.errors import ConfigError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_S = 0.05
_MAX_HEAD = 64 * 2**10
_KEEP_ALIVE_S = 75
"""Rest of a connection between requests. After uvicorn's 5 s the next request of a busy client
could meet a connection that is being closed."""
_HEAD_S = 20.0
_TALKATIVE = ("uvicorn.error", "python_multipart.multipart")
"""Loggers that warn of whatever a client sends."""


async def serve(
    app: FastAPI,
    stop: asyncio.Event,
    listening: Callable[[str], None],
    readiness: Callable[[list[str]], None] = lambda reasons: None,
) -> None:
    """Serve the application of ``make_app`` until ``stop`` is set, and then until what was accepted
    is answered. ``listening`` is called with the address as soon as health answers, and
    ``readiness`` whenever it changes: with the reasons for which clips are not answered. Raises
    ConfigError if the address cannot be listened on, and what ``service.start`` raises."""
    service: Service = app.state.service
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    listener = _listener(service.config.host, service.config.port)
    server = _Server(
        uvicorn.Config(
            app,
            http=_Protocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=5,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
    )
    tasks = [
        asyncio.create_task(server.serve([listener])),
        asyncio.create_task(_watch(service, readiness)),
        asyncio.create_task(stop.wait()),
    ]
    served, watched, stopped = tasks
    try:
        host, port = listener.getsockname()[:2]
        listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if watched.done():
            watched.result()
        service.draining = True
        await _drained(service)
    finally:
        service.draining = True
        server.should_exit = True
        watched.cancel()
        stopped.cancel()
        await asyncio.wait(tasks)
    served.result()


@contextmanager
def signals_stop(
    stop: asyncio.Event, first: Callable[[], None], at_once: Callable[[], None]
) -> Iterator[None]:
    """Handlers on the running loop: the first signal calls ``first`` and sets ``stop``, the second
    calls ``at_once``. A signal that is ignored (nohup) stays so."""
    loop = asyncio.get_running_loop()

    def handle() -> None:
        if stop.is_set():
            at_once()
        first()
        stop.set()

    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 whose heads are short and soon there, and whose refusals are problems, too."""

    _in_head, _head_bytes = True, 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data) if self._in_head else 0
        super().data_received(data)
        if self._in_head and self._head_bytes > _MAX_HEAD:
            self._refuse(431, f"the head of the request is longer than {_MAX_HEAD:,} bytes")

    def on_message_begin(self) -> None:
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(400, "this is no HTTP/1.1 request, or its address is too long")

    def _await_head(self) -> None:
        self._stop_timer()
        self._in_head = True
        self._head_timer = self.loop.call_later(
            _HEAD_S, self._refuse, 408, f"the head of the request was not there in {_HEAD_S:g} s"
        )

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()

    def _refuse(self, status: int, detail: str) -> None:
        """Answer without the application, and close the connection."""
        phrase = HTTPStatus(status).phrase
        problem = Problem(status, phrase.lower().replace(" ", "-"), detail)
        body = json.dumps(problem.as_json()).encode()
        head = (
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class _Server(uvicorn.Server):
    """Server that leaves signals to its caller."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _watch(service: Service, readiness: Callable[[list[str]], None]) -> NoReturn:
    """Start the service's parts, and report each change of its readiness."""
    await service.start()
    reported: list[str] | None = None
    while True:
        if (reasons := service.not_ready()) != reported and not service.draining:
            readiness(reasons)
            reported = reasons
        await asyncio.sleep(_LOOK_S)


async def _drained(service: Service) -> None:
    """Returns when nothing accepted is left, or what is left has had its time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(service.config.drain_timeout_s):
            while service.in_progress:
                await asyncio.sleep(_LOOK_S)
            await service.drain()


def _listener(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ConfigError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sends at once (TCP_NODELAY) only where it sees that this is TCP; else an answer
        # waits 40 ms for an acknowledgement
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ConfigError(
            f"--host {host}: {error.strerror}; give an address of this machine"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2_048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}; give another --host or --port"
        ) from error
    listener.setblocking(False)
    return listener
