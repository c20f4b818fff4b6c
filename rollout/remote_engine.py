"""Engine behind HTTP: a vLLM server that answers token for token, on this machine or another.

    prompt ids + processed clip -> POST /inference/v1/generate -> token ids + logprobs

The server (``vllm serve MODEL --enable-scale-out``) gets token ids and processed pixels, as an
engine of our own does, so that no chat template and no frame sampling of its own comes between. Its
weights are its operator's: models are asked for by name (docs/service.md has the command lines).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import httpx

from rollout.engine import Answer, Generation, Sampling
from rollout.label_codes import Code, CodeQuestion, code_logprobs, code_questions
from rollout.lora import Adapter
from rollout.vllm_calls.request import encoded_clip
from video.positions import PositionRule
from video.processor import ProcessedClip
from wire.errors import ConfigError, DeadlineExceeded, GenerationError
from wire.http_faults import in_words
from wire.types import FinishReason, Prompt

_LOGIN = "give the server's key in DEEPINTUIT_ENGINE_KEY"
_BAD_REQUEST = 400


class RemoteEngine:
    """vLLM server at a URL. Make it with :meth:`connect`."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        model: str,
        dtype: str,
        rule: PositionRule,
        blocked_tokens: Sequence[int],
        adapter_model: str | None,
    ) -> None:
        self._client, self._adapter_model = client, adapter_model
        self._model, self._dtype, self._rule = model, dtype, rule
        self._bias = {str(token): -100.0 for token in blocked_tokens}
        self.is_alive = True

    @classmethod
    async def connect(
        cls,
        url: str,
        model: str,
        *,
        dtype: str,
        rule: PositionRule,
        blocked_tokens: Sequence[int],
        adapter_model: str | None = None,
        key: str | None = None,
        timeout_s: float = 600.0,
    ) -> Self:
        """Connect to a server, and see that it has the models and the route.

        ``dtype``: precision of its weights; ``adapter_model``: name of an adapter on them; ``key``:
        its API key. Raises ConfigError if it lacks one of them, DeadlineExceeded or GenerationError
        if it does not answer.
        """
        client = _client(url, key, timeout_s)
        engine = cls(client, model, dtype, rule, blocked_tokens, adapter_model)
        try:
            await engine._refuse_other_server()
        except BaseException:
            await client.aclose()
            raise
        return engine

    async def generate(
        self,
        prompt: Prompt,
        clip: ProcessedClip,
        sampling: Sampling,
        adapter: Adapter | None = None,
    ) -> Generation:
        """Draw ``sampling.n`` answers. Raises GenerationError, DeadlineExceeded."""
        params = [
            {
                "temperature": sampling.temperature,
                "max_tokens": sampling.max_tokens,
                "seed": None if sampling.seed is None else sampling.seed + number,
                "logprobs": 0,
                "logit_bias": self._bias or None,
                "detokenize": False,
            }
            for number in range(sampling.n)
        ]
        choices = await self._ask(prompt, clip, params, adapter)
        return Generation(answers=tuple(map(_answer, choices)), num_cached_tokens=0)

    async def label_logprobs(
        self,
        prompt: Prompt,
        clip: ProcessedClip,
        codes: Sequence[Code],
        adapter: Adapter | None = None,
    ) -> list[float]:
        """Logprob (nats, at temperature 1) of each code after a prompt, under the whole
        vocabulary."""
        questions = code_questions(codes)
        params = [
            {
                "temperature": 0.0,
                "max_tokens": 1,
                "logprobs": len(question.tokens),
                "logprob_token_ids": list(question.tokens),
                # the server gives as many as were asked for, the drawn token first
                "allowed_token_ids": list(question.tokens),
                "detokenize": False,
            }
            for question in questions
        ]
        begun = [question.begun for question in questions]
        choices = await self._ask(prompt, clip, params, adapter, begun)
        answers: dict[Code, float] = {}
        for question, choice in zip(questions, choices, strict=True):
            answers |= _question_answers(question, choice)
        return code_logprobs(codes, answers)

    async def load_adapter(self, adapter: Adapter) -> None:
        """Nothing: the server has its adapters from its start, each under a model name."""

    async def end(self) -> None:
        """Close the connections; the server goes on."""
        self.is_alive = False
        await self._client.aclose()

    async def _refuse_other_server(self) -> None:
        """Raise ConfigError if the server lacks a model, or the route."""
        names = await _names(self._client)
        for name in filter(None, (self._model, self._adapter_model)):
            if name not in names:
                raise ConfigError(
                    f"the server at {self._client.base_url} serves {', '.join(names)}, expected "
                    f"{name}; start it with that name (--served-model-name, or --lora-modules "
                    "NAME=DIR for an adapter)"
                )
        async with _in_words(self._client.base_url):
            paths = (await self._client.get("/openapi.json")).json().get("paths", {})
        if _ROUTE not in paths:
            raise ConfigError(
                f"the server at {self._client.base_url} has no {_ROUTE}, which takes token ids and "
                "processed clips; start vLLM with --enable-scale-out"
            )

    async def _ask(
        self,
        prompt: Prompt,
        clip: ProcessedClip,
        params: Sequence[dict[str, Any]],
        adapter: Adapter | None,
        begun: Sequence[Sequence[int]] | None = None,
    ) -> list[dict[str, Any]]:
        """Choices of requests with one prompt; ``begun``: tokens that follow it in each."""
        more = begun or [()] * len(params)
        start, length = self._rule.video_span(prompt.token_ids)
        if not self._rule.is_video(prompt.token_ids[start : start + length]).all():
            raise GenerationError(_SPARSE)
        encoded = await asyncio.to_thread(encoded_clip, clip, self._dtype)
        bodies = [
            {
                "model": self._adapter_model if adapter else self._model,
                "token_ids": [*prompt.token_ids, *tokens],
                "features": {
                    "mm_hashes": {"video": [clip.fingerprint]},
                    "mm_placeholders": {"video": [{"offset": start, "length": length}]},
                    "kwargs_data": {"video": [encoded]},
                },
                "sampling_params": one,
            }
            for one, tokens in zip(params, more, strict=True)
        ]
        return await asyncio.gather(*map(self._post, bodies))

    async def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        async with _in_words(self._client.base_url):
            response = await self._client.post(_ROUTE, json=body)
            if response.status_code == _BAD_REQUEST:
                raise GenerationError(f"the server refused a request: {response.text[:500]}")
            response.raise_for_status()
            (choice,) = response.json()["choices"]
            return dict(choice)


_SPARSE = (
    "this family puts time stamps between the tokens of a clip (Qwen3-VL), of which vLLM's server "
    "cannot be told yet; serve it with engines of this machine"
)
_ROUTE = "/inference/v1/generate"
_LIST_S = 30.0
_LIMITS = httpx.Limits(max_connections=512, max_keepalive_connections=64)


async def model_names(url: str, key: str | None = None) -> list[str]:
    """Names of the models and adapters that a server serves. Raises GenerationError,
    DeadlineExceeded if it does not answer."""
    async with _client(url, key, _LIST_S) as client:
        return await _names(client)


def _client(url: str, key: str | None, timeout_s: float) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(
        base_url=url, headers=headers, timeout=timeout_s, trust_env=False, limits=_LIMITS
    )


async def _names(client: httpx.AsyncClient) -> list[str]:
    async with _in_words(client.base_url):
        response = await client.get("/v1/models")
        response.raise_for_status()
        return [str(one["id"]) for one in response.json()["data"]]


@asynccontextmanager
async def _in_words(url: httpx.URL) -> AsyncIterator[None]:
    """Faults of HTTP as errors of this project."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise DeadlineExceeded(f"the server at {url} did not answer in time") from error
    except httpx.HTTPError as error:
        raise GenerationError(f"the server at {url}: {in_words(error, _LOGIN)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise GenerationError(f"the server at {url} answers no vLLM's JSON: {error!r}") from error


def _answer(choice: dict[str, Any]) -> Answer:
    ids, reason = choice.get("token_ids") or [], choice.get("finish_reason")
    if not ids or reason not in set(FinishReason):
        raise GenerationError(f"the server ended an answer after {len(ids)} tokens ({reason})")
    rows = choice["logprobs"]["content"]
    return Answer(
        token_ids=tuple(ids),
        logprobs=tuple(float(row["logprob"]) for row in rows),
        finish_reason=FinishReason(reason),
    )


def _question_answers(question: CodeQuestion, choice: dict[str, Any]) -> dict[Code, float]:
    """Logprob of the last token of each beginning of a code."""
    (row,) = choice["logprobs"]["content"]
    given = {one["token_id"]: float(one["logprob"]) for one in row["top_logprobs"]}
    try:
        return {(*question.begun, token): given[token] for token in question.tokens}
    except KeyError as error:
        raise GenerationError(
            f"the server left out the logprob of token {error}; it needs vLLM 0.32 or later"
        ) from error
