import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from calibrate.service.config import DATABASE_FILE
from calibrate.service.state import audit, tokens
from calibrate.service.state.database import Database
from cluster.cli import main

DEADLINE_S = 60
IN_PROGRESS = "deepintuit_http_requests_in_progress "


def scopes_of(secret: str, state: Path) -> frozenset[str]:
    database = Database.open(state / DATABASE_FILE, (audit.SCHEMA, tokens.SCHEMA))
    try:
        return tokens.Tokens(database).caller_of(secret).scopes
    finally:
        database.close()


def new_state(folder: Path) -> Path:
    """A state directory without a classifier."""
    database = Database.open(folder / DATABASE_FILE, (audit.SCHEMA, tokens.SCHEMA))
    database.close()
    return folder


@contextmanager
def serving(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "cluster.cli", "serve", "--port", "0", "--device", "cpu"]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_S)


def line_with(process: "subprocess.Popen[str]", words: str) -> str:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return line.strip()
    raise AssertionError("".join(lines))


def test_a_new_token_is_printed_alone_and_has_its_scopes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    state = new_state(tmp_path)
    command = ["serve", str(state), "--new-token", "labelling", "--scopes", "classify, read"]
    assert main(command) == 0
    assert scopes_of(capsys.readouterr().out.strip(), state) == {"classify", "read"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--new-token", "a"], "needs --scopes, such as classify,read"),
        (["--new-token", "a", "--scopes", "clasify"], "scopes clasify for a token; expected some"),
        (["--port", "70000"], "port"),
        (["--max-loaded", "0"], "max_loaded"),
        (["--fit-gpus", "x"], "fit_gpus"),
        (["--config", "none.toml"], "cannot read --config none.toml"),
        (["--host", "no such host"], "give an address of this machine"),
    ],
)
def test_a_mistake_is_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
):
    assert main(["serve", str(new_state(tmp_path)), "--device", "cpu", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_first_start_shows_a_token_once_and_sigterm_ends_it_with_status_0(tmp_path: Path):
    state = new_state(tmp_path)
    with serving(str(state)) as process:
        opened = re.fullmatch(
            r"open (http://127.0.0.1:\d+/)#token=(di_\S+)", line_with(process, "open")
        )
        assert opened is not None
        headers = {"Authorization": f"Bearer {opened[2]}"}
        assert httpx.get(f"{opened[1]}metrics", headers=headers).status_code == 200
        assert httpx.get(f"{opened[1]}v1/health/ready").status_code == 503
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    with serving(str(state)) as process:
        assert "#token" not in line_with(process, "open")
        with serving(str(state)) as second:
            assert f"another service uses {state}" in line_with(second, "error")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0


@pytest.mark.slow
def test_a_second_signal_ends_at_once_what_a_stop_would_wait_for(tmp_path: Path):
    with serving(str(new_state(tmp_path))) as process:
        address, _, secret = line_with(process, "open").removeprefix("open ").partition("/#token=")
        host, port = address.removeprefix("http://").split(":")
        head = (
            f"POST /v1/classify HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 99\r\n\r\n--b\r\n"
        )
        with socket.create_connection((host, int(port)), DEADLINE_S) as upload:
            upload.sendall(head.encode())
            while accepted(address, secret) < 2:  # the upload, and this question
                pass
            process.send_signal(signal.SIGTERM)
            line_with(process, "stopping")
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 130


def accepted(address: str, secret: str) -> float:
    """Requests in progress, as the metrics have them."""
    text = httpx.get(f"{address}/metrics", headers={"Authorization": f"Bearer {secret}"}).text
    values = [line.split()[1] for line in text.splitlines() if line.startswith(IN_PROGRESS)]
    return float(values[0])
