"""The records that cross package borders, one frozen type per stage.

    Sample -> Prompt -> Completion + Score -> Trace -> TraceGroup

A Completion has no reward; a Trace always has one. What went wrong is a Failure, never a zero.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any

from wire.token_arrays import Logprobs, TokenIds


class Split(StrEnum):
    """Part of the data that a sample belongs to."""

    TRAIN = "train"
    VAL = "val"
    CAL = "cal"
    TEST = "test"


class Purpose(StrEnum):
    """Why a group of traces was written."""

    TRAIN = "train"
    """For a GRPO update."""
    CALIBRATION = "calibration"
    """Written by the refined policy, for the verdict classifier."""
    EVALUATION = "evaluation"
    """One near-greedy trace, to be scored."""
    VALIDATION = "validation"
    """The same while a stage trains, of a val clip; of all versions of the policy."""
    RATIONALE = "rationale"
    """A rationale of the label, or a caption, to be learned from; judged by no reward."""


class FinishReason(StrEnum):
    """Why generation ended."""

    STOP = "stop"
    LENGTH = "length"

    @property
    def is_truncated(self) -> bool:
        """Whether the token limit cut the answer."""
        return self is FinishReason.LENGTH


class FailureKind(StrEnum):
    """Kind of a failure. A failed trace is archived and masked, never scored as zero."""

    DECODE = "decode"
    DISK = "disk"
    """The clip's disk failed: unlike a clip that cannot be decoded it is asked for again."""
    PROMPT = "prompt"
    GENERATION = "generation"
    REWARD = "reward"
    NOT_APPLICABLE = "not_applicable"
    """No reward term applies to the trace: masked like a failure, but nobody's fault."""
    PARITY = "parity"

    @property
    def is_fault_of_data(self) -> bool:
        """Whether the sample is at fault: no other try and no other worker would mend it."""
        return self in (FailureKind.DECODE, FailureKind.PROMPT)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PolicyVersion:
    """Version of the weights: (attempt, step). A roll-back starts a new attempt, so a version never
    repeats.

    Example:
        str(PolicyVersion(attempt=1, step=40)) == "1.40"
    """

    attempt: int
    step: int

    def __str__(self) -> str:
        return f"{self.attempt}.{self.step}"

    @classmethod
    def parse(cls, text: str) -> "PolicyVersion":
        """The inverse of ``str``."""
        attempt, _, step = text.partition(".")
        return cls(attempt=int(attempt), step=int(step))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One labelled clip of a manifest.

    Example:
        Sample(id="train-0001", video="clips/train/0001.mp4", label="relapse", split=Split.TRAIN)
    """

    id: str
    video: str
    """Absolute path, or a path that every node can open; ``#t=START,END``, ``#view=...`` and
    ``#tokens=...`` at its end show a part, a view or a narrative of it (video/address.py)."""
    label: str
    split: Split
    trace: str | None = None
    """A teacher's trace for the cold start."""
    text: str | None = None
    """Side text shown in the prompt if the recipe says so."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Any further manifest columns; reward functions receive them in ``extra_info``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A rendered prompt: the token ids that the engine saw and that the learner trains on.

    Example:
        Prompt(token_ids=TokenIds((1, 7, 7, 9)), clip_key="ab12-...", fingerprint="9f0c...")
    """

    token_ids: TokenIds
    """Video placeholders expanded: one id per merged patch. May be given as any sequence."""
    clip_key: str
    """Names the processed clip in the clip cache: content + window + view + sampling +
    processor."""
    fingerprint: str
    """Hash of pixels, grid and timing; the learner compares it with what it loads."""
    version: str = ""
    """Version of the prompt's wording (rollout/prompt.py); empty where none is declared."""
    video_hash: str = ""
    """SHA-256 of the video file's content; empty where it was not recorded."""
    window_start_s: float | None = None
    """The time window of the video that was shown, in seconds; None: from its first frame."""
    window_end_s: float | None = None
    """The first moment that was not shown; None: to its end."""
    frame_indices: tuple[int, ...] = ()
    """Number in the video of each frame that was shown, in the order shown; empty where it was not
    recorded."""
    semantic_tokenizer: str = ""
    """Version of the semantic tokenizer whose narrative was shown in place of the video's tokens;
    empty: the video was shown."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", TokenIds(self.token_ids))


@dataclass(frozen=True, slots=True)
class VersionChange:
    """Update of the weights in the middle of an answer: the first token that they wrote.

    Example:
        VersionChange(412, PolicyVersion(attempt=0, step=8))
    """

    first_token: int
    """Index of the token in the answer, from 1."""
    version: PolicyVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer that the policy gave.

    Example:
        Completion(token_ids=TokenIds((12, 9)), logprobs=Logprobs((-0.25, -1.5)), text="B",
                   finish_reason=FinishReason.STOP,
                   policy_version=PolicyVersion(attempt=0, step=7))
    """

    token_ids: TokenIds
    """May be given as any sequence, as the logprobs may."""
    logprobs: Logprobs
    """Log-probability (nats) of each token under the weights that sampled it, at
    ``logprobs_temperature``."""
    text: str
    """Decoded with special tokens kept, the end-of-turn token removed."""
    finish_reason: FinishReason
    policy_version: PolicyVersion
    """Version that wrote the first token: the oldest of all that wrote any."""
    logprobs_temperature: float = 1.0
    """The sampling temperature in a trace to train on, of whose distribution logprobs are; in all
    others 1, whatever they were sampled at."""
    version_changes: tuple[VersionChange, ...] = ()
    """Updates while it was written, each with the first token of its weights; empty: one version
    wrote all tokens."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", TokenIds(self.token_ids))
        object.__setattr__(self, "logprobs", Logprobs(self.logprobs))
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(
                f"{len(self.token_ids)} token_ids but {len(self.logprobs)} logprobs; "
                "the engine must return one logprob per sampled token"
            )
        if not self.token_ids:
            raise ValueError(
                "a completion needs at least one token; an empty answer is a generation failure"
            )
        if self.version_changes:
            self._check_changes()

    def _check_changes(self) -> None:
        spans = [VersionChange(0, self.policy_version), *self.version_changes]
        ascend = all(
            a.first_token < b.first_token and a.version < b.version for a, b in pairwise(spans)
        )
        if not ascend or spans[-1].first_token >= len(self.token_ids):
            raise ValueError(
                f"versions of an answer of {len(self.token_ids)} tokens have to ascend with its "
                f"tokens, got {[(span.first_token, str(span.version)) for span in spans]}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Something that could not be done, with its culprit.

    Example:
        Failure(kind=FailureKind.DECODE, culprit="clips/7.mp4", reason="moov atom not found")
    """

    kind: FailureKind
    culprit: str
    """Clip path, engine name or plugin name."""
    reason: str
    traceback: str = field(default="", compare=False)
    """Traceback into a user's code, for people; not archived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Rewards of one completion.

    Example:
        Score(total=2.0, parts={"accuracy": 1.0, "format": 1.0})
    """

    total: float
    parts: Mapping[str, float]
    """Value of each term that applies, before weighting, and as ``part/name`` the further numbers
    that its function returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A completion joined with its score, or with the failure of its scoring (then it is
    masked)."""

    completion: Completion
    outcome: Score | Failure

    @property
    def reward(self) -> float | None:
        """Total reward; None where scoring failed: masked, not zero."""
        return self.outcome.total if isinstance(self.outcome, Score) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceGroup:
    """All traces of one clip written together: what is archived and what GRPO compares.

    A group whose clip or generation failed has no prompt or no traces, and says why in
    ``failures``.
    """

    group_id: str
    sample: Sample
    purpose: Purpose
    policy_version: PolicyVersion
    prompt: Prompt | None
    traces: tuple[Trace, ...]
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        if self.traces and self.prompt is None:
            raise ValueError(
                f"group {self.group_id} has traces but no prompt; join them with the prompt they "
                "answered"
            )
        if not self.traces and not self.failures:
            raise ValueError(
                f"group {self.group_id} has neither traces nor failures; say why it is empty"
            )

    @property
    def is_dropped(self) -> bool:
        """Whether the fleet failed the group for good: it has no traces, and not by its sample's
        fault."""
        return not self.traces and not self.failures[0].kind.is_fault_of_data

    @property
    def scored(self) -> tuple[Trace, ...]:
        """Traces with a reward: the only ones that enter a baseline or a loss."""
        return tuple(trace for trace in self.traces if trace.reward is not None)


def stable_hash(*parts: object) -> str:
    """A hash of plain values that is the same in every process and on every machine."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def stable_seed(*parts: object) -> int:
    """A 31-bit seed from ids, so that a restarted run asks the same questions."""
    return int(stable_hash(*parts)[:8], 16) & 0x7FFF_FFFF
