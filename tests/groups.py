"""Completions, traces, samples and groups, valid, with what a test is about changed. (No test
file.)"""

from collections.abc import Sequence
from typing import Any

from wire.types import (
    Completion,
    Failure,
    FailureKind,
    FinishReason,
    PolicyVersion,
    Prompt,
    Purpose,
    Sample,
    Score,
    Split,
    Trace,
    TraceGroup,
)

VERSION = PolicyVersion(attempt=0, step=0)
UNREADABLE = Failure(kind=FailureKind.DECODE, culprit="a.mp4", reason="no frames")
UNSCORED = Failure(kind=FailureKind.REWARD, culprit="judge", reason="it raised")


def make_completion(
    text: str,
    *,
    num_tokens: int = 1,
    finish: FinishReason = FinishReason.STOP,
    version: PolicyVersion = VERSION,
    **changes: Any,
) -> Completion:
    values = {
        "token_ids": (1,) * num_tokens,
        "logprobs": (-0.1,) * num_tokens,
        "text": text,
        "finish_reason": finish,
        "policy_version": version,
    }
    return Completion(**{**values, **changes})


def make_trace(
    reward: float | None = 1.0,
    tokens: Sequence[int] = (50, 51),
    finish: FinishReason = FinishReason.STOP,
) -> Trace:
    """A reward of None: its scoring failed."""
    logprobs = (-1.0,) * len(tokens)
    completion = make_completion("a b", finish=finish, token_ids=tuple(tokens), logprobs=logprobs)
    outcome = UNSCORED if reward is None else Score(total=reward, parts={"accuracy": reward})
    return Trace(completion=completion, outcome=outcome)


def make_sample(label: str = "x", **changes: Any) -> Sample:
    values = {"id": "s", "video": "a.mp4", "label": label, "split": Split.TRAIN}
    return Sample(**{**values, **changes})


def make_group(*traces: Trace, **changes: Any) -> TraceGroup:
    """Without traces: its clip could not be decoded."""
    values = {
        "group_id": "g",
        "sample": make_sample(),
        "purpose": Purpose.TRAIN,
        "policy_version": VERSION,
        "prompt": Prompt(token_ids=(1, 2), clip_key="k", fingerprint="f") if traces else None,
        "traces": traces,
        "failures": () if traces else (UNREADABLE,),
    }
    return TraceGroup(**{**values, **changes})
