"""Downloads of clips by URL, from allowed hosts, so that a client reaches nothing through them.

    URL -> scheme, host and port allowed -> name resolved once -> all its addresses public
        -> connection to one of them, Host and TLS name of the URL -> bytes, at most max_bytes
    redirect -> all of it again, at most three times

Proxies and credentials of the environment are ignored, connections are not shared, and a body that
is compressed on its way is refused, so that bytes on the wire are those that count.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urljoin, urlsplit

import httpx

from calibrate.service.intake.addresses import is_public
from calibrate.service.intake.names import shown_url
from calibrate.service.problems import Problem

_PORTS = {"http": 80, "https": 443}
_LONGEST = 4096
_REDIRECTS = 3
_MOVED = (301, 302, 303, 307, 308)
_CHUNK = 2**18
_SILENCE_S = 10.0
"""A server that sends nothing for so long is given up."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Write = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Place that a URL names."""

    url: str
    scheme: str
    host: str
    port: int
    path: str
    may_be_private: bool

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


async def resolve(host: str, port: int) -> list[str]:
    """IP addresses of a host, by this machine's resolver. Raises OSError."""
    loop = asyncio.get_running_loop()
    rows = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in rows))


class Downloads:
    """Downloads from allowed hosts."""

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        private_hosts: Sequence[str] = (),
        timeout_s: float,
        resolver: Resolve = resolve,
    ) -> None:
        """``hosts``: names, for http and https at their own ports, or ``NAME:PORT``;
        ``private_hosts``: those that may have a private address; ``timeout_s``: for a whole
        download."""
        self._private = frozenset(host.lower() for host in private_hosts)
        self._hosts = frozenset(host.lower() for host in hosts) | self._private
        self._timeout_s, self._resolver = timeout_s, resolver

    async def fetch(self, url: str, write: Write) -> None:
        """Give the body at a URL to ``write``, chunk by chunk. Raises Problem 403 if the URL is not
        allowed, 422 if it is none or cannot be fetched, and whatever ``write`` raises."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._follow(url, write)
        except TimeoutError as error:
            raise _failed(url, f"no whole answer within {self._timeout_s:g} s") from error

    async def _follow(self, url: str, write: Write) -> None:
        for _ in range(1 + _REDIRECTS):
            target = self._target(url)
            location = await self._get(target, await self._addresses(target), write)
            if location is None:
                return
            url = urljoin(url, location)
        raise _failed(url, f"more than {_REDIRECTS} redirects")

    def _target(self, url: str) -> _Target:
        if not 0 < len(url) <= _LONGEST or not url.isascii() or not url.isprintable() or " " in url:
            raise Problem(
                422, "bad-url", f"this is no URL; give 1 to {_LONGEST} ASCII characters, no spaces"
            )
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError as error:
            raise Problem(422, "bad-url", f"this is no URL: {error}") from error
        if parts.scheme not in _PORTS or not host:
            raise Problem(422, "bad-url", "give a URL that begins with https:// or http://")
        if "@" in parts.netloc:
            raise _refused("a URL with a user name or password is not taken")
        known = {f"{host}:{port or _PORTS[parts.scheme]}"}
        if port in (None, _PORTS[parts.scheme]):
            known.add(host)
        if not self._hosts.intersection(known):
            raise _refused(
                f"{host} is not a host that this service fetches from; upload the clip, or serve "
                "with --url-host HOST"
            )
        query = f"?{parts.query}" if parts.query else ""
        return _Target(
            url=url,
            scheme=parts.scheme,
            host=host,
            port=port or _PORTS[parts.scheme],
            path=f"{parts.path or '/'}{query}",
            may_be_private=bool(self._private.intersection(known)),
        )

    async def _addresses(self, target: _Target) -> Sequence[str]:
        """Addresses of a host, all of them allowed."""
        try:
            addresses = await self._resolver(target.host, target.port)
        except OSError as error:
            raise _failed(target.url, f"{target.host} has no address") from error
        if not target.may_be_private and not all(map(is_public, addresses)):
            raise _refused(f"{target.host} has an address that is not of the public internet")
        return addresses

    async def _get(self, target: _Target, addresses: Sequence[str], write: Write) -> str | None:
        """Ask one address after another; the location if the answer is a redirect."""
        for place, address in enumerate(addresses, 1):
            try:
                return await self._ask(target, address, write)
            except httpx.ConnectError as error:
                if place == len(addresses):
                    raise _failed(target.url, f"no connection ({error})") from error
            except (httpx.HTTPError, httpx.StreamError) as error:
                reason = str(error) or type(error).__name__
                raise _failed(target.url, f"the answer broke off ({reason})") from error
        raise _failed(target.url, f"{target.host} has no address")

    async def _ask(self, target: _Target, address: str, write: Write) -> str | None:
        # a client for each request: a connection made for another host's name is never used
        async with httpx.AsyncClient(
            verify=self._tls, trust_env=False, follow_redirects=False, timeout=_SILENCE_S
        ) as client:
            host = f"[{address}]" if ":" in address else address
            request = client.build_request(
                "GET",
                f"{target.scheme}://{host}:{target.port}{target.path}",
                headers={
                    "Host": target.host_header,
                    "Accept-Encoding": "identity",
                    "User-Agent": "deepintuit",
                },
                extensions={"sni_hostname": target.host},
            )
            response = await client.send(request, stream=True)
            try:
                return await _read(target, response, write)
            finally:
                await response.aclose()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()


async def _read(target: _Target, response: httpx.Response, write: Write) -> str | None:
    if response.status_code in _MOVED and "location" in response.headers:
        return str(response.headers["location"])
    if response.status_code != 200:
        raise _failed(target.url, f"its server answered {response.status_code}")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise _failed(target.url, "its server compresses it; name a URL that gives the file itself")
    async for chunk in response.aiter_raw(_CHUNK):
        await write(chunk)
    return None


def _failed(url: str, reason: str) -> Problem:
    return Problem(422, "url-failed", f"{shown_url(url)} could not be fetched: {reason}")


def _refused(reason: str) -> Problem:
    return Problem(403, "url-refused", reason)
