"""HTTP errors in words, from the exceptions of the clients that we use, against real sockets."""

import datetime
import http.server
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from wire.http_faults import connection_in_words, in_words, may_pass, status_in_words, status_of

Ask = Callable[[str], None]


def ask_httpx(url: str) -> None:
    httpx.get(url, timeout=5, trust_env=False).raise_for_status()


def ask_aiohttp(url: str) -> None:
    import fsspec

    fsspec.filesystem("http").cat(url)


CLIENTS = [ask_httpx, ask_aiohttp]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/hang-up":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
            return
        self.send_response(int(self.path[1:]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def error_of(ask: Ask, url: str) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011  (each client has its own)
        ask(url)
    return raised.value


@pytest.mark.parametrize("ask", CLIENTS)
@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_status_is_read_from_every_client(
    server: http.server.ThreadingHTTPServer, ask: Ask, status: int
) -> None:
    assert status_of(error_of(ask, f"http://127.0.0.1:{server.server_port}/{status}")) == status


def test_an_exception_keeps_its_own_words_behind_the_remedy(
    server: http.server.ThreadingHTTPServer,
) -> None:
    error = error_of(ask_httpx, f"http://127.0.0.1:{server.server_port}/403")
    said = in_words(error, "log in")
    assert said.startswith(
        "it answers HTTP 403 Forbidden, so it is closed to you; log in (HTTPStat"
    )
    assert in_words(OSError("full"), "log in") == "OSError('full')"


def test_what_has_no_status_has_none() -> None:
    assert status_of(OSError("full")) is None
    assert connection_in_words(OSError("full")) is None


@pytest.mark.parametrize(
    ("status", "words", "passes"),
    [
        (401, "HTTP 401 Unauthorized, so it is closed to you; log in", False),
        (403, "HTTP 403 Forbidden, so it is closed to you; log in", False),
        (404, "HTTP 404 Not Found, so nothing is there; mend the address", False),
        (407, "the proxy answers HTTP 407 .*HTTPS_PROXY", False),
        (418, "it answers HTTP 418", False),
        (429, "HTTP 429 Too Many Requests; wait some minutes", True),
        (500, "HTTP 500 Internal Server Error: the server failed, not you; try again later", True),
        (599, "HTTP 599: the server failed", True),
    ],
)
def test_every_status_has_its_remedy(status: int, words: str, passes: bool) -> None:
    import re

    assert re.search(words, status_in_words(status, "log in"))
    assert may_pass(status) == passes


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_port_where_nobody_listens_is_told(ask: Ask) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = connection_in_words(error_of(ask, f"http://127.0.0.1:{port}/"))
    assert words is not None
    assert words.startswith("nobody listens there (connection refused)")


def test_a_name_of_no_machine_is_told() -> None:
    words = connection_in_words(error_of(ask_httpx, "http://nowhere.invalid/"))
    assert words is not None
    assert words.startswith("no machine of that name is known here")


def test_a_connection_that_is_reset_is_told(server: http.server.ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{server.server_port}/hang-up"
    words = connection_in_words(error_of(ask_httpx, url))
    assert words is not None
    assert words.startswith("it closed the connection")


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_certificate_of_nobody_is_told(
    server: http.server.ThreadingHTTPServer, ask: Ask, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_certificate(tmp_path))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    words = connection_in_words(error_of(ask, f"https://127.0.0.1:{server.server_port}/"))
    assert words is not None
    assert words.startswith("its certificate is not trusted (self")
    assert "SSL_CERT_FILE" in words


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_server_without_tls_is_told(server: http.server.ThreadingHTTPServer, ask: Ask) -> None:
    words = connection_in_words(error_of(ask, f"https://127.0.0.1:{server.server_port}/"))
    assert words is not None
    assert "is it http:// rather than https://?" in words


def write_certificate(folder: Path) -> Path:
    """A certificate that signed itself, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(
        key.private_bytes(pem, form, serialization.NoEncryption()) + certificate.public_bytes(pem)
    )
    return path
