"""The whole HTTP surface against what its OpenAPI description promises, with values that nobody
would think of."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from calibrate.service.service import Service
from tests.calibrate.service.fakes import ScriptedBackend, publish_tiny
from tests.calibrate.service.running import DEADLINE_S, Running, make_config, make_parts, running

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "allow_header_conformance",
)
NUM_EXAMPLES = 10
DEADLINE_OF_ALL_S = 480


@pytest.mark.slow
def test_no_request_that_schemathesis_invents_is_a_server_error_or_breaks_its_description(
    tmp_path: Path,
):
    for name in ("first", "second"):
        publish_tiny(tmp_path / "published", name)

    def prepare(service: Service) -> None:
        for name in ("first", "second"):
            service.registry.register(tmp_path / "published" / name, source=name, by="test")
        service.registry.promote(1, by="test", expected_champion=None, reason="test")

    config = make_config(
        tmp_path,
        rate={"per_second": 1e6, "burst": 1_000_000},
        request_timeout_s=5,
        roots=(tmp_path / "published",),
    )
    parts = make_parts(backend=ScriptedBackend())
    with running(config, parts, prepare) as service:
        wait_until_ready(service)
        outcome = attack(service, tmp_path)
        schema = httpx.get(f"{service.url}/openapi.json", headers=service.headers()).json()
    assert outcome.returncode == 0, outcome.stdout[-20_000:] + outcome.stderr[-2_000:]
    num_operations = sum(len(operations) for operations in schema["paths"].values())
    assert num_operations > 50
    assert f"Tested: {num_operations}\n" in outcome.stdout


def wait_until_ready(service: Running) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while httpx.get(f"{service.url}/v1/health/ready").status_code != 200:
        assert time.monotonic() < deadline


def attack(service: Running, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Schemathesis' own command, with a token that may do everything."""
    authorization = service.headers()["Authorization"]
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"),
        *("--header", f"Authorization: {authorization}"),
        *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"),
        *("--max-examples", str(NUM_EXAMPLES), "--continue-on-failure", "--seed", "18"),
        *("--request-timeout", "20", "--suppress-health-check", "all", "--warnings", "off"),
        "--no-color",
    ]
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_OF_ALL_S,
        check=False,
    )
