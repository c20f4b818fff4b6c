"""Sample traces to try a reward on: well-formed ones, and malformed ones as a policy may write."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from wire.token_arrays import Logprobs, TokenIds
from wire.types import Completion, FinishReason, PolicyVersion

_CHARS_PER_TOKEN = 4
_WORDS = ("the", "person", "walks", "to", "the", "door", "then", "sits", "down", "slowly")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTrace:
    """One kind of sample trace.

    Example:
        SampleTrace(name="empty", text="")
    """

    name: str
    text: str
    is_truncated: bool = False


RIGHT, WRONG = "right answer", "wrong answer"
TYPICAL = (RIGHT, WRONG)
"""Names of the sample traces that are well-formed; the others are malformed."""


def sample_traces(label: str, other: str) -> tuple[SampleTrace, ...]:
    """Typical and malformed sample traces on a clip of ``label``; ``other``: a wrong one."""
    think = "<think>The person walks to the door, then sits down.</think>"
    right = f"<answer>{label}</answer>"
    wrong = f"<answer>{other}</answer>"
    texts = {
        RIGHT: f"{think}\n{right}",
        WRONG: f"{think}\n{wrong}",
        "empty": "",
        "white space": " \n\t ",
        "no answer": think,
        "no tags": f"I think it is {label}.",
        "empty answer": f"{think}<answer></answer>",
        "unclosed tags": f"<think>The person walks <answer>{label}",
        "nested tags": f"<think><think>a</think></think><answer><answer>{label}</answer></answer>",
        "two answers": f"{think}{right}{wrong}",
        "control tokens": f"<|im_start|>assistant\n{think}<|vision_start|>{right}<|im_end|>",
        "no label": f"{think}<answer>1e999</answer>",
        "unicode": f"<think>\N{PERSON WITH BALL} \u202e\u0645\u0631\u062d\u0628\u0627\u202c "
        f"e\u0301 \N{ZERO WIDTH JOINER}\ufffd \x00</think><answer>{label}\u00a0</answer>",
        "braces": f'{think}{{"answer": "{label}", %s \\boxed{{{label}}}}}',
        "very long": f"<think>{'The person walks to the door. ' * 2_000}</think>{right}",
        "many tags": "<think>" * 3_000 + "<answer>" * 3_000 + right,
    }
    cut = SampleTrace(name="cut off", text=f"{think}<answer>{label[:2]}", is_truncated=True)
    return (*(SampleTrace(name=name, text=text) for name, text in texts.items()), cut)


def as_completion(text: str, *, is_truncated: bool = False) -> Completion:
    """A completion of that text; its token ids are made up, about one for four characters."""
    return _completion(text, 1 + len(text) // _CHARS_PER_TOKEN, is_truncated)


def made_up_traces(label: str, other: str, num_tokens: int) -> Iterator[Completion]:
    """Endless made-up traces, no two alike: every third has the wrong answer, every seventh
    none."""
    body = " ".join(_WORDS[k % len(_WORDS)] for k in range(num_tokens))
    alike = _completion("", num_tokens)
    for number in itertools.count():
        answer = (
            "" if number % 7 == 6 else f"<answer>{other if number % 3 == 2 else label}</answer>"
        )
        yield replace(alike, text=f"<think>{number} {body}</think>{answer}")


def _completion(text: str, num_tokens: int, is_truncated: bool = False) -> Completion:
    return Completion(
        token_ids=TokenIds(range(num_tokens)),
        logprobs=Logprobs((-0.1,) * num_tokens),
        text=text,
        finish_reason=FinishReason.LENGTH if is_truncated else FinishReason.STOP,
        policy_version=PolicyVersion(attempt=0, step=1),
    )
