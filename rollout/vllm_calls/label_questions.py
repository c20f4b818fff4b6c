"""Questions for label codes, in vLLM's form.

CodeQuestions -> sampling parameters -> outputs -> logprob of each beginning of a code

vLLM gathers the tokens that are asked for from the logits of the last position, before any bias,
under the whole vocabulary. The prefix cache serves these requests like any other.
"""

from collections.abc import Sequence
from typing import Any

from rollout.label_codes import Code, CodeQuestion


def question_params(questions: Sequence[CodeQuestion]) -> list[Any]:
    """Sampling parameters of each question: one token, the logprobs of those asked for."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return [
        SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprob_token_ids=list(question.tokens),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        for question in questions
    ]


def question_answers(
    questions: Sequence[CodeQuestion], outputs: Sequence[Any]
) -> dict[Code, float]:
    """Logprob of the last token of each beginning of a code."""
    rows = [output.outputs[0].logprobs[0] for output in outputs]
    return {
        (*question.begun, token): float(row[token].logprob)
        for question, row in zip(questions, rows, strict=True)
        for token in question.tokens
    }
