"""Hidden states of the policy, which the head reads; plain transformers in this process.

    answered clips -> rows: after video and trace, or after the label prompt (``head_features``)
                   -> one forward pass of the learner's model -> [N, H] -> the head

The engine does not give them. So a classifier with a head holds the policy's weights twice.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from calibrate.config import HeadFeatures
from calibrate.head import Head
from cluster.classify.sources import AnsweredClip, SourceScores
from rollout.prompt_inputs import PromptInputs
from wire.errors import GenerationError
from wire.types import Failure

_BATCH = 16

if TYPE_CHECKING:
    from learner.model.policy import Policy
    from learner.shared_prefix.rows import Row
    from video.positions import PositionRule
    from video.processor import ProcessedClip


class HiddenStates:
    """Hidden states of a policy at the last token of rows."""

    def __init__(self, policy: "Policy", rule: "PositionRule", device: str) -> None:
        self._rule, self._device = rule, device
        self._policy = policy.requires_grad_(False).eval().to(device)

    @classmethod
    def load(cls, policy_dir: Path, dtype: str, device: str) -> Self:
        """Load the policy. Raises DataError, ConfigError."""
        from learner.model.policy import Policy
        from video.positions import PositionRule

        return cls(Policy.load(policy_dir, dtype), PositionRule.load(policy_dir), device)

    def at_ends(
        self, rows: Sequence["Row"], clips: Mapping[str, "ProcessedClip"]
    ) -> NDArray[np.float32]:
        """[N, H] of rows with one response each; ``clips``: theirs, by clip key."""
        import torch

        from learner.shared_prefix.batch import make_batch

        batch = make_batch(rows, lambda row: clips[row.prompt.clip_key], self._rule)
        with torch.no_grad():
            states: Any = self._policy(batch.to(self._device), features=True)
        return np.asarray(states.float().cpu().numpy())

    def looks(self, clips: Sequence["ProcessedClip"]) -> NDArray[np.float32]:
        """[N, E]: mean of the vision tower's features of each clip, in the language model's input
        space."""
        import torch

        means = []
        for clip in clips:
            pixels = torch.from_numpy(clip.pixel_values).to(self._device)
            grid = torch.tensor([clip.grid_thw], device=self._device)
            with torch.no_grad():
                means.append(self._policy.look(pixels, grid).embeds.float().mean(0).cpu().numpy())
        return np.stack(means)


def row_after_trace(answered: AnsweredClip) -> "Row":
    """Row of video, trace prompt and trace."""
    from learner.shared_prefix.rows import supervised_row

    return supervised_row(answered.prompt, answered.sample.video, answered.trace.token_ids)


def row_after_video(inputs: PromptInputs) -> Callable[[AnsweredClip], "Row"]:
    """Maker of rows of video and label prompt, whatever the trace says."""
    from learner.shared_prefix.rows import prompt_end_row

    def row(answered: AnsweredClip) -> "Row":
        prompt = inputs.about(answered.sample, "label", answered.clip)
        if isinstance(prompt, Failure):
            raise ValueError(prompt.reason)
        return prompt_end_row(prompt, answered.sample.video)

    return row


class HeadSource:
    """The head: a linear classifier on the policy's hidden state."""

    def __init__(
        self,
        head: Head,
        states: HiddenStates,
        row_of: Callable[[AnsweredClip], "Row"] = row_after_trace,
    ) -> None:
        """``row_of``: makes the row at whose end the state is read."""
        self._head, self._states, self._row_of = head, states, row_of
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hidden-states")
        self._waiting: list[tuple[AnsweredClip, asyncio.Future[NDArray[np.float64]]]] = []
        self._reading = asyncio.Lock()

    @classmethod
    def load(
        cls,
        head_dir: Path,
        policy_dir: Path,
        dtype: str,
        device: str,
        *,
        features: HeadFeatures = "trace",
        inputs: PromptInputs,
    ) -> Self:
        """Load the head, and the policy for it. Raises DataError, ConfigError."""
        states = HiddenStates.load(policy_dir, dtype, device)
        row_of = row_after_video(inputs) if features == "video" else row_after_trace
        return cls(Head.load(head_dir), states, row_of)

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
        rows = [self._row_of(one) for one in answered]
        clips = {row.prompt.clip_key: one.clip for row, one in zip(rows, answered, strict=True)}
        with np.errstate(divide="ignore"):
            return np.log(self._head.probabilities(self._states.at_ends(rows, clips)))

    def close(self) -> None:
        """End its thread."""
        self._thread.shutdown(wait=False)
