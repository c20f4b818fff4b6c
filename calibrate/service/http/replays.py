"""Replays of answers: a POST that comes again with its Idempotency-Key gets the answer it had.

    key free     -> run the request; an answer below 400 is kept, then sent
    key answered -> read the payload; the same one: the kept answer; another one: 422
    key in use   -> 409

Failures are not kept: they changed nothing, so that a retry may succeed. Answers with a secret in
them (new tokens) are not kept either.
"""

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calibrate.service.caller import Caller
from calibrate.service.http.fingerprint import Fingerprint
from calibrate.service.problems import Problem
from calibrate.service.service import Service
from calibrate.service.state.idempotency import IdempotencyKeys, KeyScope, StoredAnswer

_SECRET_PATHS = ("/v1/tokens",)
_MAX_KEY = 255
_MAX_KEPT = 8 * 2**20
"""Bytes of an answer that is kept; a larger one is sent and forgotten."""


class Replays:
    """ASGI middleware, inside the gate."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._keys = app, service.idempotency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        answer = await self._keys.claim(key)
        payload = _Payload(scope, receive)
        if answer is not None:
            await payload.read_to_end()
            if payload.whole:
                await _replay(answer, payload)(scope, receive, send)
            return
        kept = _Keep(key, self._keys, payload, send)
        try:
            await self._app(scope, payload, kept)
        finally:
            self._keys.release(key)


def _key(scope: Scope) -> KeyScope | None:
    """The key of a request, if it has one that counts. Raises Problem 400."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] in _SECRET_PATHS:
        return None
    caller: Caller | None = scope["state"].get("caller")
    keys = Headers(scope=scope).getlist("idempotency-key")
    if caller is None or not keys:
        return None
    key = keys[0]
    if len(keys) > 1 or not 1 <= len(key) <= _MAX_KEY or not all("!" <= c <= "~" for c in key):
        raise Problem(
            400,
            "invalid-idempotency-key",
            f"Idempotency-Key is 1 to {_MAX_KEY} visible ASCII characters, given once; a UUID does",
        )
    return KeyScope(caller=caller.token_id, route=f"POST {scope['path']}", key=key)


def _replay(answer: StoredAnswer, payload: "_Payload") -> Response:
    """The kept answer. Raises Problem 422 for another payload."""
    if payload.fingerprint.broken or payload.fingerprint.hex() != answer.fingerprint:
        raise Problem(
            422,
            "idempotency-key-reused",
            "this Idempotency-Key was used for another payload; give each request its own",
        )
    headers = {"Idempotency-Replayed": "true"}
    if answer.location is not None:
        headers["Location"] = answer.location
    return Response(answer.body, answer.status, headers, media_type=answer.content_type)


class _Payload:
    """ASGI ``receive`` that takes the fingerprint of what goes by."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        content_type = Headers(scope=scope).get("content-type", "")
        self.fingerprint = Fingerprint(content_type, scope["query_string"])
        self.whole = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.fingerprint.add(message.get("body", b""))
            self.whole = not message.get("more_body", False)
        return message

    async def read_to_end(self) -> None:
        """Read what is left; afterwards the payload is whole unless the client has gone."""
        while not self.whole and (await self())["type"] == "http.request":
            pass


class _Keep:
    """ASGI ``send`` that holds a good answer back until it is kept."""

    def __init__(self, key: KeyScope, keys: IdempotencyKeys, payload: _Payload, send: Send) -> None:
        self._key, self._keys, self._payload, self._send = key, keys, payload, send
        self._held: list[Message] = []
        self._holds = True
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._holds = message["status"] < 400
        else:
            self._body += message.get("body", b"") if self._holds else b""
            self._holds = self._holds and len(self._body) <= _MAX_KEPT
        if self._holds:
            self._held.append(message)
            if message.get("more_body", False) or message["type"] == "http.response.start":
                return
            await self._keep()
        else:
            self._held.append(message)
        held, self._held = self._held, []
        for one in held:
            await self._send(one)

    async def _keep(self) -> None:
        await self._payload.read_to_end()
        if not self._payload.whole or self._payload.fingerprint.broken:
            return
        start = self._held[0]
        headers = Headers(raw=start["headers"])
        await self._keys.keep(
            self._key,
            StoredAnswer(
                fingerprint=self._payload.fingerprint.hex(),
                status=start["status"],
                content_type=headers.get("content-type", "application/json"),
                location=headers.get("location"),
                body=self._body,
            ),
        )
