"""Hidden states of the policy after video and trace, which the head reads; plain transformers.

    answered clips -> one forward pass of the learner's model, in this process -> [N, H]

The engine does not give them. So a classifier with a head holds the policy's weights twice.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from calibrate.head import Head
from cluster.classify.sources import AnsweredClip, SourceScores
from wire.errors import GenerationError

_BATCH = 16

if TYPE_CHECKING:
    from learner.model.policy import Policy
    from video.positions import PositionRule


class HeadSource:
    """The head: a linear classifier on the policy's hidden state at the trace's last token."""

    def __init__(self, head: Head, policy: "Policy", rule: "PositionRule", device: str) -> None:
        self._head, self._rule, self._device = head, rule, device
        self._policy = policy.requires_grad_(False).eval().to(device)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hidden-states")
        self._waiting: list[tuple[AnsweredClip, asyncio.Future[NDArray[np.float64]]]] = []
        self._reading = asyncio.Lock()

    @classmethod
    def load(cls, head_dir: Path, policy_dir: Path, dtype: str, device: str) -> Self:
        """Load the head, and the policy for it. Raises DataError, ConfigError."""
        from learner.model.policy import Policy
        from video.positions import PositionRule

        policy = Policy.load(policy_dir, dtype)
        return cls(Head.load(head_dir), policy, PositionRule.load(policy_dir), device)

    async def ask(self, answered: AnsweredClip) -> SourceScores:
        """log of the head's probabilities; minus infinity for a label that it never saw. Clips that
        wait go through the model together."""
        future: asyncio.Future[NDArray[np.float64]] = asyncio.get_running_loop().create_future()
        self._waiting.append((answered, future))
        try:
            async with self._reading:
                if not future.done():
                    await self._read_some()
            return SourceScores(await future)
        finally:
            future.cancel()  # without effect but where this call is cancelled

    async def _read_some(self) -> None:
        """Read the clips that wait, up to a batch; the one whose turn it is is the first."""
        waiting = [one for one in self._waiting if not one[1].done()]
        batch, self._waiting = waiting[:_BATCH], waiting[_BATCH:]
        loop = asyncio.get_running_loop()
        try:
            rows = await loop.run_in_executor(
                self._thread, self._logprobs, [answered for answered, _ in batch]
            )
        except asyncio.CancelledError:  # the first alone is
            self._waiting = batch + self._waiting
            raise
        except (RuntimeError, ValueError) as error:  # PyTorch's, out of memory among them
            for _, future in batch:
                if not future.done():
                    future.set_exception(GenerationError(f"no hidden states: {error}"))
            return
        for (_, future), row in zip(batch, rows, strict=True):
            if not future.done():  # else nobody waits for it any more
                future.set_result(row)

    def _logprobs(self, answered: Sequence[AnsweredClip]) -> NDArray[np.float64]:
        import torch

        from learner.shared_prefix.batch import make_batch
        from learner.shared_prefix.rows import supervised_row

        rows = [
            supervised_row(one.prompt, one.sample.video, one.trace.token_ids) for one in answered
        ]
        clips = {one.prompt.clip_key: one.clip for one in answered}
        batch = make_batch(rows, lambda row: clips[row.prompt.clip_key], self._rule)
        with torch.no_grad():
            states: Any = self._policy(batch.to(self._device), features=True)
        with np.errstate(divide="ignore"):
            return np.log(self._head.probabilities(states.float().cpu().numpy()))

    def close(self) -> None:
        """End its thread."""
        self._thread.shutdown(wait=False)
