"""Question to a user function: one group to be scored, sent to the child as a line of JSON."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wire.token_arrays import TokenIds


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One trace of the group.

    Example:
        Asked(text="<think>...", token_ids=(12, 9), is_truncated=False, policy_version="0.3")
    """

    text: str
    token_ids: Sequence[int]
    is_truncated: bool
    policy_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One group to be scored.

    Example:
        Question(sample_id="train-1", split="train", label="normal", columns={"fps": 2},
                 prompt="Decide which ...", step=3, traces=(Asked(...), Asked(...)))
    """

    sample_id: str
    split: str
    label: str
    columns: Mapping[str, Any]
    """The manifest's further columns. Values that JSON has not (dates, paths) arrive as text."""
    prompt: str
    """Text of the policy's prompt, without its video."""
    step: int
    """Training step of the weights that wrote the traces; TRL's ``trainer_state.global_step``."""
    traces: tuple[Asked, ...]

    def to_json(self, indices: Sequence[int], *, with_ids: bool) -> bytes:
        """One line of JSON about some of the traces."""
        traces = [self._trace(index, with_ids) for index in indices]
        values = {
            "sample_id": self.sample_id,
            "split": self.split,
            "label": self.label,
            "columns": dict(self.columns),
            "prompt": self.prompt,
            "step": self.step,
            "traces": traces,
        }
        return json.dumps(values, default=str).encode() + b"\n"

    def _trace(self, index: int, with_ids: bool) -> dict[str, Any]:
        trace = self.traces[index]
        values = {
            "index": index,
            "text": trace.text,
            "is_truncated": trace.is_truncated,
            "policy_version": trace.policy_version,
        }
        return values | {"ids": _packed(trace.token_ids)} if with_ids else values


def _packed(ids: Sequence[int]) -> str:
    """Base64 of 32-bit numbers: a tenth of the time that JSON takes over lists of them."""
    return base64.b64encode(TokenIds(ids).tobytes()).decode()


def unpacked(text: str) -> list[int]:
    """The numbers of :func:`_packed`, in the child."""
    return TokenIds.of_bytes(base64.b64decode(text)).tolist()
