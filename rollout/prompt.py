"""Every prompt text of the project, and nothing else.

    Sample + LabelSet -> chat messages -> (rollout/render.py) -> token ids

Wording follows DeepIntuit's prompts (role, label definitions, required shape of the output;
seeds.md 1.3), shortened. ``PROMPT_VERSION`` is written into every prompt's archive record: change
it with any text below.
"""

from dataclasses import dataclass
from typing import Literal

from rollout.message import Foreign, Message, fill
from wire.labels import LabelSet, reasoning_in
from wire.types import Sample

PROMPT_VERSION = "1"


@dataclass(frozen=True, slots=True)
class VerdictPrompt:
    """Kind of prompt that asks for the label alone, given the video and this trace about it."""

    trace: str


PromptKind = Literal["trace", "label"] | VerdictPrompt
"""Kind of a prompt: it asks for a trace; for the label, given the video alone; or for a verdict."""

_TRACE = """Decide which label fits the video.
Labels:
{labels}
{side}First reason step by step between <think> and </think>, \
then write one label between <answer> and </answer>."""

_VERDICT = """Review the analysis of the video, then decide yourself which label fits.
Labels:
{labels}
{side}Analysis: {reasoning}
Conclusion: {conclusion}
Write one label and nothing else."""

_LABEL = """Decide which label fits the video.
Labels:
{labels}
{side}Write one label and nothing else."""


def prompt_for(ask: PromptKind, labels: LabelSet, side_text: str | None = None) -> list[Message]:
    """Chat messages of a prompt of this kind."""
    match ask:
        case "trace":
            return trace_prompt(labels, side_text)
        case "label":
            return label_prompt(labels, side_text)
        case VerdictPrompt(trace):
            return verdict_prompt(labels, trace, side_text)


def trace_prompt(labels: LabelSet, side_text: str | None = None) -> list[Message]:
    """Chat messages that ask for a reasoning trace and an answer."""
    parts = fill(_TRACE, labels=_definitions(labels), side=_side(side_text))
    return [Message("user", parts, has_video=True)]


def trace_target(sample: Sample) -> str:
    """Target of the cold start: the assistant's text for a sample with a teacher trace."""
    assert sample.trace is not None, f"sample {sample.id} has no trace; select samples with one"
    return sample.trace


def verdict_prompt(labels: LabelSet, trace: str, side_text: str | None = None) -> list[Message]:
    """Chat messages that ask for the label alone, given the video and a trace about it.

    A trace that cannot be parsed is shown whole, with an empty conclusion (seeds.md 1.3).
    """
    answer = labels.answer_in(trace)
    reasoning = reasoning_in(trace)
    if answer is None or reasoning is None:
        reasoning, answer = trace.strip(), ""
    parts = fill(
        _VERDICT,
        labels=_definitions(labels),
        side=_side(side_text),
        reasoning=reasoning,
        conclusion=answer,
    )
    return [Message("user", parts, has_video=True)]


def label_prompt(labels: LabelSet, side_text: str | None = None) -> list[Message]:
    """Chat messages that ask for the label alone, given the video: the prompt of label-only
    classifiers."""
    parts = fill(_LABEL, labels=_definitions(labels), side=_side(side_text))
    return [Message("user", parts, has_video=True)]


def _definitions(labels: LabelSet) -> Foreign:
    ordered = sorted(labels.labels, key=lambda label: label.name)
    return Foreign(
        "\n".join(
            f"- {label.name}: {label.definition}" if label.definition else f"- {label.name}"
            for label in ordered
        )
    )


def _side(text: str | None) -> Foreign:
    return Foreign(f"Text that came with the video: {text}\n" if text else "")
