"""The judge against a real vLLM server with the demo's tiny model: what it says is noise, but it
says it through vLLM's own API, held to the form of a score by structured output."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from reward.builtins.judge import Judge
from reward.builtins.judge_params import JudgeParams
from tests.vllm_server import vllm_server
from wire.errors import JudgeError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MODEL = Path(__file__).parents[3] / "cluster" / "demo" / "base"


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    flags = ["--max-model-len", "1024", "--api-key", "s3cret"]
    flags += ["--limit-mm-per-prompt", '{"image": 2, "video": 0}']
    log = tmp_path_factory.mktemp("vllm") / "log"
    with vllm_server(MODEL, "tiny", log, *flags) as url:
        yield f"{url}/v1"


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
