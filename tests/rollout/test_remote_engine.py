"""The engine behind HTTP, with a server of a few lines; the real one: test_remote_engines.py of
tests/cluster/classify."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from rollout import remote_engine
from rollout.engine import Sampling
from rollout.lora import Adapter
from rollout.remote_engine import RemoteEngine
from tests.learner.builders import VIDEO_TOKEN, make_clip
from video.positions import PositionRule
from wire.errors import ConfigError, DeadlineExceeded, GenerationError
from wire.token_arrays import TokenIds
from wire.types import PolicyVersion, Prompt

Handler = Callable[[httpx.Request], httpx.Response]
REAL = httpx.AsyncClient
CLIP = make_clip()
PATHS = {"paths": {"/inference/v1/generate": {}}}


class Rule(PositionRule):
    """Of a family whose clip is all video tokens."""

    def __init__(self) -> None:
        pass

    def video_span(self, ids: Any) -> tuple[int, int]:
        return 1, 3

    def is_video(self, ids: Any) -> Any:
        import numpy as np

        return np.array(ids) == VIDEO_TOKEN


def prompt(video_token: int = VIDEO_TOKEN) -> Prompt:
    ids = TokenIds((1, *[video_token] * 3, 2))
    return Prompt(token_ids=ids, clip_key=CLIP.clip_key, fingerprint=CLIP.fingerprint)


class Server:
    """Answers each request for logprobs with -token / 100 for the tokens asked for."""

    def __init__(self, **changes: Any) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.changes = changes

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path in self.changes:
            return self.changes[request.url.path](request)  # type: ignore[no-any-return]
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "policy"}, {"id": "verdict"}]})
        if request.url.path == "/openapi.json":
            return httpx.Response(200, json=PATHS)
        body = json.loads(request.content)
        self.bodies.append(body)
        wanted = body["sampling_params"].get("logprob_token_ids", [5, 6])
        drawn = wanted[:1] if "logprob_token_ids" in body["sampling_params"] else [5, 6]
        rows = [
            {
                "token_id": token,
                "logprob": -token / 100,
                "top_logprobs": [{"token_id": one, "logprob": -one / 100} for one in wanted],
            }
            for token in drawn
        ]
        choice = {"token_ids": drawn, "finish_reason": "stop", "logprobs": {"content": rows}}
        return httpx.Response(200, json={"choices": [choice]})


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    async def connected(server: Handler, model: str = "policy", **more: Any) -> RemoteEngine:
        transport = httpx.MockTransport(server)
        monkeypatch.setattr(
            remote_engine.httpx, "AsyncClient", lambda **given: REAL(**given, transport=transport)
        )
        return await RemoteEngine.connect(
            "http://gpu:8000",
            model,
            dtype="float32",
            rule=Rule(),
            blocked_tokens=[9],
            **more,
        )

    return connected


async def test_answers_come_back_with_their_logprobs_one_seed_each(connect: Any):
    server = Server()
    engine = await connect(server)
    sampling = Sampling(n=2, temperature=0.5, max_tokens=4, seed=7)
    generation = await engine.generate(prompt(), CLIP, sampling)
    assert [answer.token_ids for answer in generation.answers] == [(5, 6), (5, 6)]
    assert generation.answers[0].logprobs == (-0.05, -0.06)
    assert sorted(body["sampling_params"]["seed"] for body in server.bodies) == [7, 8]
    assert server.bodies[0]["sampling_params"]["logit_bias"] == {"9": -100.0}
    assert server.bodies[0]["features"]["mm_hashes"] == {"video": [CLIP.fingerprint]}
    assert server.bodies[0]["token_ids"] == [1, *[VIDEO_TOKEN] * 3, 2]


async def test_labels_of_several_tokens_are_summed_over_the_beginnings_they_share(connect: Any):
    server = Server()
    engine = await connect(server)
    logprobs = await engine.label_logprobs(prompt(), CLIP, [(10,), (20, 30), (20, 40)])
    assert logprobs == pytest.approx([-0.10, -0.50, -0.60])
    assert [body["token_ids"][5:] for body in server.bodies] == [[], [20]]


async def test_an_adapter_is_asked_for_by_its_own_name(connect: Any):
    server = Server()
    engine = await connect(server, adapter_model="verdict")
    adapter = Adapter(number=1, version=PolicyVersion(attempt=0, step=1), path="x")
    await engine.label_logprobs(prompt(), CLIP, [(10,)], adapter)
    await engine.label_logprobs(prompt(), CLIP, [(10,)])
    assert [body["model"] for body in server.bodies] == ["verdict", "policy"]


async def test_another_model_or_a_server_without_the_route_is_refused(connect: Any):
    with pytest.raises(ConfigError, match="serves policy, verdict, expected other"):
        await connect(Server(), "other")
    bare = {"/openapi.json": lambda _: httpx.Response(200, json={"paths": {}})}
    with pytest.raises(ConfigError, match="--enable-scale-out"):
        await connect(Server(**bare))


def _times_out(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("slow", request=request)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (lambda _: httpx.Response(401), GenerationError, "DEEPINTUIT_ENGINE_KEY"),
        (lambda _: httpx.Response(400, text="too long"), GenerationError, "refused.*too long"),
        (lambda _: httpx.Response(500), GenerationError, "500"),
        (lambda _: httpx.Response(200, text="<html>"), GenerationError, "no vLLM's JSON"),
        (lambda _: httpx.Response(200, json={"choices": []}), GenerationError, "no vLLM's JSON"),
        (
            lambda _: httpx.Response(200, json={"choices": [{"finish_reason": "abort"}]}),
            GenerationError,
            "after 0 tokens",
        ),
        (_times_out, DeadlineExceeded, "did not answer in time"),
    ],
)
async def test_faults_of_the_server_are_typed(
    connect: Any, answer: Handler, error: type[Exception], words: str
):
    engine = await connect(Server(**{"/inference/v1/generate": answer}))
    with pytest.raises(error, match=words):
        await engine.generate(prompt(), CLIP, Sampling(n=1, temperature=0.0, max_tokens=4))


async def test_a_family_with_time_stamps_between_its_tokens_is_refused_before_it_is_sent(
    connect: Any,
):
    server = Server()
    engine = await connect(server)
    with pytest.raises(GenerationError, match="Qwen3-VL"):
        await engine.label_logprobs(prompt(video_token=3), CLIP, [(10,)])
    assert server.bodies == []


async def test_an_ended_engine_is_not_alive(connect: Any):
    engine = await connect(Server())
    assert engine.is_alive
    await engine.end()
    assert not engine.is_alive
