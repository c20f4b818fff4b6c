"""Downloads reach allowed hosts alone, at public addresses, and end at their limits."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from calibrate.service.intake.downloads import Downloads
from calibrate.service.problems import Problem

Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """HTTP server that notes each request and answers as it is told."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[str] = []
        self._answer = answer
        self.port = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.requests.append(request)
        with contextlib.suppress(ConnectionError):
            await self._answer(request.split()[1], writer)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(answer)
    async with await asyncio.start_server(server, "127.0.0.1", 0, ssl=tls) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server
        listening.close()


def reply(status: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def clip(path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(reply("200 OK", b"a clip"))


def resolver(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    async def resolve(host: str, port: int) -> Sequence[str]:
        resolve.calls += 1  # type: ignore[attr-defined]
        return addresses

    resolve.calls = 0  # type: ignore[attr-defined]
    return resolve


async def fetched(downloads: Downloads, url: str) -> bytes:
    body = bytearray()

    async def write(chunk: bytes) -> None:
        body.extend(chunk)

    await downloads.fetch(url, write)
    return bytes(body)


async def refusal(downloads: Downloads, url: str) -> Problem:
    with pytest.raises(Problem) as caught:
        await fetched(downloads, url)
    return caught.value


def local(port: int, *more: str, timeout_s: float = 10.0) -> Downloads:
    hosts = [f"clips.example:{port}", *more]
    return Downloads([], private_hosts=hosts, timeout_s=timeout_s, resolver=resolver("127.0.0.1"))


async def test_a_file_of_an_allowed_host_comes_under_the_urls_host_name() -> None:
    async with serving(clip) as server:
        downloads = local(server.port)
        assert (
            await fetched(downloads, f"http://clips.example:{server.port}/a%20b?x=1") == b"a clip"
        )
    (request,) = server.requests
    assert request.startswith("GET /a%20b?x=1 HTTP/1.1\r\n")
    assert f"Host: clips.example:{server.port}\r\n" in request
    assert "Accept-Encoding: identity\r\n" in request


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://other.example/a.mp4", 403),
        ("https://clips.example.evil.test/a.mp4", 403),
        ("https://clips.example:8443/a.mp4", 403),
        ("https://clips.example:80/a.mp4", 403),
        ("https://user:pass@clips.example/a.mp4", 403),
        ("https://clips.example@evil.test/a.mp4", 403),
        ("https://evil.test#@clips.example/a.mp4", 403),
        ("https://evil.test\\@clips.example/a.mp4", 403),
        ("file:///etc/passwd", 422),
        ("ftp://clips.example/a.mp4", 422),
        ("gopher://clips.example/", 422),
        ("//clips.example/a.mp4", 422),
        ("https:///a.mp4", 422),
        ("https://clips.example:99999/a.mp4", 422),
        ("https://[::1/a.mp4", 422),
        ("https://clips.example/\0a", 422),
        ("https://clips.example/a\r\nHost: evil.test", 422),
        ("https://clips.example/ä", 422),
        ("https://clips.example/" + "x" * 5000, 422),
        ("", 422),
    ],
)
async def test_a_url_that_is_not_allowed_is_refused_before_a_name_is_resolved(
    url: str, status: int
) -> None:
    resolve = resolver("1.1.1.1")
    downloads = Downloads(["clips.example"], timeout_s=1.0, resolver=resolve)
    assert (await refusal(downloads, url)).status == status
    assert resolve.calls == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["::ffff:10.0.0.1"],
        ["1.1.1.1", "10.0.0.1"],
    ],
)
async def test_a_host_with_a_private_address_is_refused(addresses: list[str]) -> None:
    downloads = Downloads(["clips.example"], timeout_s=1.0, resolver=resolver(*addresses))
    problem = await refusal(downloads, "http://clips.example/a.mp4")
    assert (problem.status, problem.slug) == (403, "url-refused")
    assert "public internet" in problem.detail


async def test_a_name_is_resolved_once_for_check_and_connection() -> None:
    """A name that answers otherwise the second time (DNS rebinding) is not asked twice."""
    async with serving(clip) as server:
        resolve = resolver("127.0.0.1")
        host = f"clips.example:{server.port}"
        downloads = Downloads([], private_hosts=[host], timeout_s=5.0, resolver=resolve)
        await fetched(downloads, f"http://{host}/a")
    assert resolve.calls == 1  # type: ignore[attr-defined]


async def test_another_address_is_tried_where_one_does_not_answer() -> None:
    async with serving(clip) as server:
        host = f"clips.example:{server.port}"
        resolve = resolver("127.0.0.2", "127.0.0.1")  # nothing listens at the first
        downloads = Downloads([], private_hosts=[host], timeout_s=5.0, resolver=resolve)
        assert await fetched(downloads, f"http://{host}/a") == b"a clip"


async def test_a_redirect_is_checked_as_the_first_url_was() -> None:
    async def away(path: str, writer: asyncio.StreamWriter) -> None:
        target = {"/in": "/there", "/out": "http://169.254.169.254/latest", "/file": "file:///etc"}
        if path in target:
            writer.write(reply("302 Found", Location=target[path]))
        else:
            await clip(path, writer)

    async with serving(away) as server:
        downloads, base = local(server.port), f"http://clips.example:{server.port}"
        assert await fetched(downloads, f"{base}/in") == b"a clip"
        assert (await refusal(downloads, f"{base}/out")).status == 403
        assert (await refusal(downloads, f"{base}/file")).status == 422


async def test_redirects_in_a_circle_end() -> None:
    async def circle(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(reply("301 Moved", Location=path))

    async with serving(circle) as server:
        problem = await refusal(local(server.port), f"http://clips.example:{server.port}/a")
    assert "more than 3 redirects" in problem.detail
    assert len(server.requests) == 4


async def test_a_server_that_trickles_is_given_up_at_the_deadline() -> None:
    async def trickle(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        for _ in range(200):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with serving(trickle) as server:
        downloads = local(server.port, timeout_s=0.3)
        problem = await refusal(downloads, f"http://clips.example:{server.port}/a?token=s3cret")
    assert problem.status == 422
    assert "within 0.3 s" in problem.detail
    assert "s3cret" not in problem.detail


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply("404 Not Found", b"no"), "answered 404"),
        (reply("206 Partial Content", b"a"), "answered 206"),
        (reply("200 OK", b"x", Content_Encoding="gzip"), "compresses"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "broke off"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "broke off"),
        (b"", "broke off"),
    ],
)
async def test_an_answer_that_is_no_file_is_422(answer: bytes, words: str) -> None:
    async def say(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with serving(say) as server:
        problem = await refusal(local(server.port), f"http://clips.example:{server.port}/a")
    assert problem.status == 422
    assert words in problem.detail


async def test_a_refusal_of_the_reader_ends_the_download() -> None:
    async def endless(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    async def full(chunk: bytes) -> None:
        raise Problem(413, "clip-too-large", "enough")

    async with serving(endless) as server:
        with pytest.raises(Problem, match="enough"):
            await local(server.port).fetch(f"http://clips.example:{server.port}/a", full)


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(clip) as server:
        url = f"http://clips.example:{server.port}/a"
        assert await fetched(local(server.port), url) == b"a clip"


async def test_the_certificate_must_be_that_of_the_urls_host(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    new = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=clips.example"
    names = ["-addext", "subjectAltName=DNS:clips.example"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*new.split(), *names, *files], check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with serving(clip, tls) as server:
        downloads = local(server.port, f"other.example:{server.port}")
        downloads.__dict__["_tls"] = trusting
        assert await fetched(downloads, f"https://clips.example:{server.port}/a") == b"a clip"
        problem = await refusal(downloads, f"https://other.example:{server.port}/a")
    assert "certificate" in problem.detail
