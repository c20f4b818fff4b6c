"""Columns of the archive: the type and the meaning of each, in the order of the files."""

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from wire.archive.trace_rows import FILE_SCHEMA, SCHEMA

MEANINGS = {
    "group_id": "id of the group: all answers to one clip under one version, and why they were "
    "written; repeated in each of its rows",
    "attempt": "attempt of the policy version that the group was asked of; a resume raises it",
    "step": "step of that version: updates of the policy",
    "purpose": "why it was written: train (for an update of GRPO), calibration, evaluation (one "
    "near-greedy trace), validation (the same while a stage trains), "
    "rationale (a rationale or a caption, which no reward judges)",
    "sample_id": "id of the clip in the manifest",
    "video": "path or URI of the video; the video itself is never in the archive",
    "label": "true label of the clip",
    "split": "part of the data: train, val, cal, test",
    "sample_trace": "reference trace of the manifest; null if there is none",
    "sample_text": "text that came with the clip; null if there is none",
    "sample_extra": "the manifest's further columns: a JSON object",
    "prompt_token_ids": "token ids of the prompt with the video's placeholders; null if the clip "
    "could not be shown",
    "clip_key": "key of the decoded clip: the file and how its frames were chosen",
    "prompt_fingerprint": "hash of prompt and clip, equal on rollout and learner",
    "prompt_version": "version of the prompt's text: `deepintuit prompts` shows it",
    "video_hash": "hash of the video's bytes; what a deletion request names",
    "window_start_s": "start of the part of the video that was used, in seconds; null for all of "
    "it",
    "window_end_s": "end of that part, in seconds; null for all of it",
    "frame_indices": "numbers of the frames that the model was shown; null without a prompt",
    "semantic_tokenizer": "version of the semantic tokenizer whose narrative was shown in place of "
    "the video's tokens; null: the video was shown",
    "group_failures": "failures of the whole group: kind, culprit, reason",
    "trace_index": "number of the trace in its group, from 0; null: the group has no traces",
    "token_ids": "token ids of the answer, as they were sampled",
    "logprobs": "log-probability of each of them under the policy that sampled it",
    "text": "the answer's text",
    "finish_reason": "stop (it ended by itself) or length (the token limit cut it)",
    "completion_attempt": "attempt of the version that wrote this answer's first token; differs "
    "from `attempt` if weights were changed meanwhile",
    "completion_step": "step of that version",
    "reward": "total reward; null where scoring failed, or no reward judges: masked, not zero",
    "reward_parts": "value of each term of the reward that applied, before weighting; a map in "
    "SQL, JSON and filters",
    "failure_kind": "kind of the scoring's failure: decode, disk, prompt, generation, reward, "
    "not_applicable, parity; null if it was scored",
    "failure_culprit": "clip, engine or plugin that failed",
    "failure_reason": "what it reported",
    "logprobs_temperature": "temperature that the logprobs are at; null for 1",
    "version_changes": "updates of the weights while the answer was written: index of the first "
    "token that they wrote, and their version; null: one version wrote all tokens",
}
"""Meaning of each column of the schema, and of those that are on their way into it."""

DERIVED = {"num_tokens": (pa.int32(), "number of sampled tokens; derived, not in the files")}
"""Columns that filters and tables know beside those of the files: type and meaning."""


class Column(NamedTuple):
    """A column with its Arrow type and its meaning."""

    name: str
    type: pa.DataType
    meaning: str


def columns() -> Iterator[Column]:
    """The columns of a file of the archive."""
    for field in FILE_SCHEMA:
        yield Column(field.name, field.type, MEANINGS[field.name])


def column_types() -> dict[str, pa.DataType]:
    """Types of all columns that filters and tables know, by name; but not of a reward's parts."""
    stored = {field.name: field.type for field in SCHEMA}
    return stored | {name: kind for name, (kind, _) in DERIVED.items()}


def column_type(name: str) -> pa.DataType | None:
    """Type of a column, or of a part of the reward such as ``reward_parts.accuracy``; None if there
    is none."""
    if part_of(name) is not None:
        return pa.float64()
    return column_types().get(name)


def part_of(name: str) -> str | None:
    """Name of the reward's part that a column such as ``reward_parts.accuracy`` is."""
    column, _, part = name.partition(".")
    return part if column == "reward_parts" and part else None
