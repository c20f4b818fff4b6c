"""Judge reward: a language model scores a completion, over any OpenAI-compatible endpoint.

    completion, label, question (, frames) -> prompt -> cache, or POST /chat/completions
        -> reply -> the one score in it -> r = (score - min_score) / (max_score - min_score)

LLM as a judge: Zheng et al. (arXiv 2306.05685). Temperature 0. A judge that cannot be reached, or
that gives no score or two, is a JudgeError and so a failure of the scoring, never a zero. What the
policy writes goes into the judge's prompt, so it can try to talk the judge round: keep ``accuracy``
beside it. Control tokens that it spells are shown with a space in them, so that no server of the
judge takes them for its own.
"""

import asyncio
import base64
import json
import random
import re
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward.builtins.judge_params import JudgeParams, fill, spaced
from reward.builtins.judge_thread import LoopThread
from reward.context import RewardContext
from wire.errors import ConfigError, JudgeError
from wire.http_faults import connection_in_words, may_pass, status_in_words
from wire.types import stable_hash

if TYPE_CHECKING:
    import httpx

FrameReader = Callable[[str, int], Sequence[bytes]]
"""(path of the clip, number of frames) -> JPEG files. Blocks; called in a thread."""

_MAX_WAIT_S = 60.0
_MAX_REPLY_BYTES = 1_000_000
_MAX_SHOWN_CHARS = 200
_ADDRESS = "base_url, which ends in /v1, or model"
_CONNECTIONS = 16  # of a client
_KEPT_S = 60.0  # an idle connection is kept
_CLIPS_KEPT = 8  # a group's completions come together, and few groups at once


class _Again(Exception):
    """A request worth another try; ``wait_s``: the wait that the server asked for. Never leaves
    this module."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Judge:
    """One judge with its connections, its rate and its cache; belongs to one event loop.

    Example:
        judge = Judge(JudgeParams(base_url="http://judge:8000/v1", model="judge"))
        reward = await judge.score("<think>...", "fall", context)
    """

    def __init__(self, params: JudgeParams, read_frames: FrameReader | None = None) -> None:
        """Connects to nothing yet. Raises ConfigError if the key or the frames are missing."""
        if params.frames and read_frames is None:
            raise ConfigError(
                f"judge {params.model!r}: frames = {params.frames}, but nothing here can read "
                "clips; set frames = 0"
            )
        import httpx  # here, not above: a recipe is read without it

        self._params = params
        self._read_frames = read_frames
        self._url = f"{params.base_url}/chat/completions"
        key = params.api_key_env
        self._login = (
            f"mend the key in ${key}" if key else "name the key's variable with params.api_key_env"
        )
        context = httpx.create_ssl_context()  # shared: it reads all certificates
        clients = [
            httpx.AsyncClient(
                headers=_key_header(params),
                timeout=params.timeout_s,
                limits=httpx.Limits(max_connections=places, keepalive_expiry=_KEPT_S),
                verify=context,
            )
            for places in _shares(params.max_concurrency)
        ]
        self._clients = clients
        # the last used first, as its connection is open
        self._places: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
        for client, places in zip(clients, _shares(params.max_concurrency), strict=True):
            for _ in range(places):
                self._places.put_nowait(client)
        self._next_slot = 0.0
        self._frames: dict[str, list[str]] = {}
        self._reading = asyncio.Lock()

    async def score(self, completion: str, label: str, context: RewardContext) -> float:
        """The judge's score of a completion, in [0, 1].

        Raises JudgeError if there is none: not reached, refused, or a reply without one score.
        Takes at most ``max_retries + 1`` times timeout and wait, plus waiting for a place.
        """
        body = await self._body(completion, label, context)
        entry = self._entry(body)
        reply = await asyncio.to_thread(_read, entry) if entry else None
        if reply is None:
            reply = await self._ask(body)
            value = self._value(reply)
            if entry:  # only replies that hold a score: another try may bring one
                await asyncio.to_thread(_write, entry, reply)
            return value
        return self._value(reply)

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*[client.aclose() for client in self._clients])

    async def _body(self, completion: str, label: str, context: RewardContext) -> dict[str, Any]:
        params = self._params
        question = str(context.extra.get("question") or params.question)
        values = {"completion": completion, "label": label, "question": question}
        shown = {name: spaced(value) for name, value in values.items()}
        text = fill(params.prompt, shown).encode(errors="replace").decode()  # lone surrogates
        images = [
            {"type": "image_url", "image_url": {"url": url}}
            for url in await self._frames_of(context.video)
        ]
        content = [*images, {"type": "text", "text": text}] if images else text
        return {
            **params.extra_body,
            "model": params.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0.0,
            "max_tokens": params.max_tokens,
        }

    async def _frames_of(self, video: str) -> list[str]:
        if self._read_frames is None or not self._params.frames:
            return []
        async with self._reading:  # the completions of a group ask for the same clip
            if video not in self._frames:
                files = await asyncio.to_thread(self._read_frames, video, self._params.frames)
                urls = [f"data:image/jpeg;base64,{base64.b64encode(f).decode()}" for f in files]
                kept = list(self._frames.items())[1 - _CLIPS_KEPT :]
                self._frames = {**dict(kept), video: urls}
            return self._frames[video]

    def _entry(self, body: Mapping[str, Any]) -> Path | None:
        """The cache file of a request, named by everything that could change reply or score."""
        params = self._params
        if params.cache_dir is None:
            return None
        scale = (params.score_pattern, params.min_score, params.max_score)
        key = stable_hash("judge 1", self._url, body, scale)
        return Path(params.cache_dir).expanduser() / key[:2] / f"{key}.json"

    async def _ask(self, body: Mapping[str, Any]) -> str:
        wait_s = self._params.backoff_s
        for tries_left in range(self._params.max_retries, -1, -1):
            try:
                client = await self._places.get()
                try:
                    await self._wait_for_slot()
                    return await self._post(client, body)
                finally:
                    self._places.put_nowait(client)
            except _Again as again:
                if not tries_left:
                    tries = self._params.max_retries + 1
                    reason = f"gave no reply in {tries} tries; the last: {again}"
                    raise self._error(reason) from again
                own = wait_s * random.uniform(0.5, 1.0)
                await asyncio.sleep(min(max(own, again.wait_s), _MAX_WAIT_S))
                wait_s = min(2 * wait_s, _MAX_WAIT_S)
        raise AssertionError("the last try returns or raises")

    async def _wait_for_slot(self) -> None:
        rate = self._params.requests_per_minute
        if rate is not None:
            now = time.monotonic()
            slot = max(now, self._next_slot)
            self._next_slot = slot + 60.0 / rate
            await asyncio.sleep(slot - now)

    async def _post(self, client: "httpx.AsyncClient", body: Mapping[str, Any]) -> str:
        """Send one request. Raises _Again for an error that may pass, JudgeError for any other."""
        import httpx

        try:
            # httpx's own timeout is per read: a server that drips would hold us for ever.
            async with asyncio.timeout(self._params.timeout_s):
                async with client.stream("POST", self._url, json=body) as response:
                    data = b""
                    async for chunk in response.aiter_bytes():
                        data += chunk
                        if len(data) > _MAX_REPLY_BYTES:
                            raise self._error(f"replied with over {_MAX_REPLY_BYTES} bytes")
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _Again(f"no reply within {self._params.timeout_s:g} s") from error
        except httpx.HTTPError as error:
            reason = connection_in_words(error) or error
            raise _Again(f"{type(error).__name__}: {reason}") from error
        status, shown = response.status_code, data[:_MAX_SHOWN_CHARS].decode(errors="replace")
        if status != 200:
            fault = f"HTTP {status}: {shown} ({status_in_words(status, self._login, _ADDRESS)})"
            if may_pass(status):
                raise _Again(fault, _retry_after(response))
            raise self._error(f"refused the request with {fault}")
        return _content(data)

    def _value(self, reply: str) -> float:
        scores = re.findall(self._params.score_pattern, reply)
        if len(scores) != 1:
            many = f"{len(scores)} scores" if scores else "no score"
            raise self._error(f"gave {many}: {reply[:_MAX_SHOWN_CHARS]!r}; expected one")
        low, high = self._params.min_score, self._params.max_score
        try:
            score = float(scores[0])
        except ValueError as error:
            raise self._error(f"gave {scores[0]!r} as its score; expected a number") from error
        if not low <= score <= high:
            raise self._error(f"gave the score {score:g}; expected {low:g} to {high:g}")
        return (score - low) / (high - low)

    def _error(self, what: str) -> JudgeError:
        return JudgeError(f"judge {self._params.model!r} at {self._params.base_url} {what}")


class _Judges:
    """The judges of one event loop, by their parameters, and the thread in which they are asked."""

    def __init__(self) -> None:
        self._thread = LoopThread("judges")
        self._judges: dict[str, Judge] = {}

    async def score(
        self,
        params: Mapping[str, Any],
        read_frames: FrameReader | None,
        *about: Any,
    ) -> float:
        """Score by the judge with these parameters."""
        return await self._thread.run(self._score(params, read_frames, *about))

    async def _score(
        self, params: Mapping[str, Any], read_frames: FrameReader | None, *about: Any
    ) -> float:
        key = stable_hash(params)
        if key not in self._judges:
            self._judges[key] = Judge(JudgeParams(**params), read_frames)
        return await self._judges[key].score(*about)

    async def close(self) -> None:
        """Close all connections, and end the thread."""
        await asyncio.gather(*[self._thread.run(one.close()) for one in self._judges.values()])
        await self._thread.stop()


_judges: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Judges]" = (
    weakref.WeakKeyDictionary()
)


async def judge(
    completion: str,
    label: str,
    context: RewardContext,
    *,
    read_frames: FrameReader | None = None,
    **params: Any,
) -> float:
    """Score in [0, 1] of the judge that JudgeParams describe; JudgeError if it gives none.

    Calls with the same parameters in one event loop share a Judge, which works in a thread.
    """
    loop = asyncio.get_running_loop()
    judges = _judges.get(loop)
    if judges is None:
        judges = _judges[loop] = _Judges()
    return await judges.score(params, read_frames, completion, label, context)


async def close_judges() -> None:
    """Close the connections of every judge of this event loop."""
    judges = _judges.pop(asyncio.get_running_loop(), None)
    if judges is not None:
        await judges.close()


def _shares(max_concurrency: int) -> list[int]:
    """Connections of each client: httpx looks at all connections of a client at every request, so
    that one with hundreds takes all of a core."""
    full, rest = divmod(max_concurrency, _CONNECTIONS)
    return [_CONNECTIONS] * full + ([rest] if rest else [])


def _key_header(params: JudgeParams) -> dict[str, str]:
    if params.api_key_env is None:
        return {}
    return {"Authorization": f"Bearer {params.api_key()}"}


def _retry_after(response: "httpx.Response") -> float:
    """Seconds that the server asks to wait; 0 if it asks for none (dates are not read)."""
    value = response.headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"[0-9]{1,6}", value) else 0.0


def _content(data: bytes) -> str:
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        shown = data[:_MAX_SHOWN_CHARS].decode(errors="replace")
        raise _Again(f"the reply is no chat completion: {shown!r}") from error
    if not isinstance(content, str):  # a reasoning model that ran out of tokens
        raise _Again("the reply has no content; a larger max_tokens may help")
    return content


def _read(entry: Path) -> str | None:
    """The reply in a cache file; None if there is none, or it is damaged: then it is rewritten."""
    try:
        reply = json.loads(entry.read_text(encoding="utf-8"))["reply"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return reply if isinstance(reply, str) else None


def _write(entry: Path, reply: str) -> None:
    """Write a cache file by rename: other processes see the whole file or none."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=entry.parent, suffix=".part", delete=False
    ) as file:
        json.dump({"reply": reply}, file)
    Path(file.name).replace(entry)
