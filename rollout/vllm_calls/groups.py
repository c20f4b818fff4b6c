"""Groups of requests in vLLM's engine: added one right after another, then awaited.

requests -> added, the clip with the first -> each one's last output, in their order

After an update the engine goes on with the next request, the proof of its weights, and that comes
first: behind kept traces that fill the engine it would wait until one of them ends, and the learner
for it.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

InFlight = Literal["wait", "keep", "restart"]
_PAUSE_MODES = {"wait": "wait", "keep": "keep", "restart": "abort"}
"""vLLM's name of each."""
_PROOF_COMES_S = 1.0
FIRST = -1
"""Priority of requests that come before all others; theirs is 0."""


class RequestGroups:
    """Runs groups of requests.

    The last bits of vLLM's outputs depend on what is computed beside a request and on what a cache
    spares. ``alone``, as in a deterministic run, a group has the engine to itself, its requests
    enter the same first step, and they find nothing in the caches: seen to be needed and enough on
    vLLM 0.32 (docs/resume.md has what it costs).
    """

    def __init__(self, llm: Any, *, alone: bool, in_flight: InFlight = "keep") -> None:
        """``in_flight``: what an update of the weights does with requests that run."""
        self._llm, self._in_flight = llm, in_flight
        self._turn = asyncio.Lock() if alone else None
        self._adding = asyncio.Lock()
        self._count = 0
        self.running = 0
        """Groups that have not ended."""
        self.num_interrupted = 0
        """Requests that updates ended, so far."""
        self._num_endings = 0
        self._resuming: asyncio.Task[None] | None = None
        """Resumes an engine to which no request has come since its update."""
        self.tower: str | None = None
        """Name of the frozen vision tower of the weights to come; None: it is trained."""
        self._seen_by: str | None = None
        """The tower whose outputs vLLM's encoder cache holds."""

    async def run(
        self, requests: Sequence[Any], params: Sequence[Any], lora: Any, priority: int = 0
    ) -> list[Any]:
        """Run a group. Requests but the first may lack their clip. Raises what vLLM raises; then
        none of the group runs any more. The output of a request that an update has ended is None:
        it is to be run again."""
        self.running += 1
        try:
            if self._turn is None:
                queues = await self._add(requests, params, lora, priority)
                before = self._num_endings
                outputs = await self._ended(queues)
                return outputs if self._num_endings == before else self._uninterrupted(outputs)
            async with self._turn:
                await self.pause()
                try:
                    queues = await self._add(requests, params, lora, priority)
                finally:
                    await self._llm.resume_generation()
                return await self._ended(queues)
        finally:
            self.running -= 1

    def _uninterrupted(self, outputs: Sequence[Any]) -> list[Any]:
        kept = [None if one.outputs[0].finish_reason == "abort" else one for one in outputs]
        self.num_interrupted += kept.count(None)
        return kept

    async def pause(self) -> None:
        """Compute nothing more, until resumed. Requests that run are kept."""
        await self._pause("keep")

    async def pause_for_update(self) -> None:
        """Compute nothing more, until resumed, so that weights can change. Requests that run are
        awaited first, kept, or ended, by ``in_flight``. What a frozen tower saw of their clips is
        kept: to look at them anew is most of what an update would cost them."""
        known = self.tower is not None and self.tower == self._seen_by
        self._seen_by = self.tower
        await self._pause(_PAUSE_MODES[self._in_flight], keeps_seen=known and not self._turn)

    async def _pause(self, mode: str, *, keeps_seen: bool = False) -> None:
        """The prefix cache is empty after it; the media and encoder caches are too, unless
        ``keeps_seen``, but never between a clip and the rest of its group.

        vLLM's own ``pause_generation`` does the same and then sleeps 20 ms, a quarter of the time
        in which a small model gets its weights.
        """
        async with self._adding:
            if self._resuming is not None:  # an update right after another
                self._resuming.cancel()
                self._resuming = None
            self._num_endings += mode == "abort"
            core = self._llm.engine_core
            await core.pause_scheduler_async(mode=mode, clear_cache=not keeps_seen)
            if keeps_seen:
                await core.reset_prefix_cache_async(reset_running_requests=True)

    async def resume_after_update(self) -> None:
        """Go on, once the next request is there; at the latest after a second."""
        if self._turn:
            await self._llm.resume_generation()  # each group has the engine to itself
        else:
            self._resuming = asyncio.create_task(self._resume_by_itself())

    async def _resume_by_itself(self) -> None:
        from vllm.exceptions import VLLMError

        await asyncio.sleep(_PROOF_COMES_S)
        self._resuming = None
        with suppress(VLLMError):  # of an engine that is gone
            await self._llm.resume_generation()

    async def _resume_now(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
            await self._llm.resume_generation()

    async def _add(
        self, requests: Sequence[Any], params: Sequence[Any], lora: Any, priority: int
    ) -> list[Any]:
        """Add the requests, in one piece: the engine core takes them in this order, and keeps no
        more than one clip for requests that follow."""
        queues: list[Any] = []
        async with self._adding:
            try:
                for request, one in zip(requests, params, strict=True):
                    self._count += 1
                    name = f"{os.getpid()}-{self._count}"
                    adding = self._llm.add_request(
                        name, request, one, lora_request=lora, priority=priority
                    )
                    queues.append(await adding)
                await self._resume_now()
            except BaseException:
                await self._abort(queues)
                raise
        return queues

    async def _ended(self, queues: Sequence[Any]) -> list[Any]:
        try:
            return [await _last(queue) for queue in queues]
        except BaseException:
            await self._abort(queues)
            raise
        finally:
            for queue in queues:
                queue.close()

    async def _abort(self, queues: Sequence[Any]) -> None:
        from vllm.exceptions import VLLMError

        with suppress(VLLMError):  # of an engine that is gone
            await self._llm.abort([queue.request_id for queue in queues], internal=True)


async def _last(queue: Any) -> Any:
    while True:
        output = queue.get_nowait() or await queue.get()
        if output.finished:
            return output
