"""Answers of the engine, from vLLM's completions."""

from typing import Any

from rollout.engine import Answer
from wire.errors import GenerationError
from wire.types import FinishReason, PolicyVersion

_UNNAMED = "default"
"""vLLM's name for the weights that it started with."""


def answer_of(completion: Any) -> Answer:
    """Answer of a completion. Raises GenerationError if it is empty or was aborted."""
    ids = tuple(completion.token_ids)
    if not ids or completion.finish_reason not in set(FinishReason):
        raise GenerationError(
            f"the engine ended an answer after {len(ids)} tokens, reason {completion.finish_reason}"
        )
    return Answer(
        token_ids=ids,
        logprobs=tuple(
            row[token].logprob for row, token in zip(completion.logprobs, ids, strict=True)
        ),
        finish_reason=FinishReason(completion.finish_reason),
        versions=tuple(
            (span.start, None if span.version == _UNNAMED else PolicyVersion.parse(span.version))
            for span in completion.weight_versions or ()
        ),
    )
