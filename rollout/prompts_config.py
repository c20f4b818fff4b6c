"""Texts that the model is shown: the ``[prompts]`` of a recipe, with DeepIntuit's as defaults.

Wording follows DeepIntuit's prompts (role, label definitions, required shape of the output;
seeds.md 1.3), shortened; that of rationales RB-FT's (seeds.md 2.2). Change ``DEFAULT_VERSION`` with
any default text below.
"""

from typing import Literal, get_args

from pydantic import ValidationInfo, field_validator

from rollout.prompt_template import Template
from wire.config import Config
from wire.nearest import nearest

DEFAULT_VERSION = "1"
"""Version of the default texts in the archive; that of others is a hash (rollout/prompt.py)."""

_TRACE = """Decide which label fits the video.
Labels:
{definitions}
{side_text}First reason step by step between <think> and </think>, \
then write one label between <answer> and </answer>."""

_VERDICT = """Review the analysis of the video, then decide yourself which label fits.
Labels:
{definitions}
{side_text}Analysis: {reasoning}
Conclusion: {conclusion}
Write one label and nothing else."""

_LABEL = """Decide which label fits the video.
Labels:
{definitions}
{side_text}Write one label and nothing else."""

_RATIONALE = """Explain which label fits the video.
Labels:
{definitions}
{side_text}{hint}Name what is seen in the video that decides between the labels, and how it \
leads to one of them. Then end with one line of this form, and nothing after it:
Classification: the label"""

_HINT = """The label of this video is {label}; explain it from the video alone, as if nobody had \
named it to you."""

_CAPTION = """Describe the video: who and what is in it, where, and what happens, in its order.
{side_text}Write the description and nothing else."""

TextName = Literal["system", "trace", "verdict", "label", "rationale", "hint", "caption"]
"""Name of a text of ``[prompts]``."""
TEXT_NAMES: tuple[TextName, ...] = get_args(TextName)

SIDE_FIELDS = ("text", "side_text")
"""Fields that show the manifest's ``text``."""
TASK_FIELDS = ("labels", "definitions", *SIDE_FIELDS)
"""Fields of every text."""
TRACE_FIELDS = ("reasoning", "conclusion")
"""Fields of the verdict's text: parts of the trace that is reviewed."""

OF_EVERY_RUN: tuple[TextName, ...] = ("system", "trace", "verdict", "label")
"""Texts that stages of any chain may ask with; the others are of stages that few chains have."""
ONLY_IN: dict[str, TextName] = {"hint": "rationale", "label": "hint"}
"""Fields that one text alone has."""
UNASKED: tuple[TextName, ...] = ("system", "hint")
"""Texts that are no prompt of their own, but part of others."""

_TELLS = "it would show the model the answer"
_REFUSED = {
    "label": f"{_TELLS}; {{labels}} lists all labels",
    "trace": f"{_TELLS}: a teacher's trace is what the cold start learns to write; a verdict's "
    "prompt shows the policy's own trace as {reasoning} and {conclusion}",
    "video": "the clip itself stands in front of the text, and a file's name often tells the label",
    "split": "a prompt is the same in training and test",
}
_REFUSED |= dict.fromkeys(
    ("start_s", "end_s"), "the times of a clip are not kept as columns; copy them to one of "
    "another name"
)  # fmt: skip


class PromptsConfig(Config):
    """Texts that the model is shown around a clip, each as text or as ``{ file = "a.txt" }``.

    Fields in braces: ``{labels}`` (names), ``{definitions}`` (a line per label), ``{text}`` and
    ``{side_text}`` (with ``data.use_side_text``), ``{NAME}`` for any other column of the manifest.
    A literal brace is written twice. See docs/prompts.md.
    """

    system: str = ""
    """System turn before every prompt; empty: what the model's chat template does by itself."""
    trace: str = _TRACE
    """Asks for a trace and an answer: rollouts, cold start, evaluation."""
    verdict: str = _VERDICT
    """Asks for the label, given the video and a trace: also has ``{reasoning}`` and
    ``{conclusion}``."""
    label: str = _LABEL
    """Asks for the label alone, given the video: label-only stages and arms."""
    rationale: str = _RATIONALE
    """Asks for a rationale of the label: stages that write rationales, and learn from them. Also
    has ``{hint}``: ``prompts.hint`` as a line where the label is given, else nothing."""
    hint: str = _HINT
    """Names the label in a rationale's prompt; the only text that has ``{label}``."""
    caption: str = _CAPTION
    """Asks for a description of the clip, without labels: captions instead of rationales."""

    @field_validator(*TEXT_NAMES)
    @classmethod
    def _is_a_template(cls, text: str, info: ValidationInfo) -> str:
        text = text.strip("\n")  # a file, and a text in """, ends with one
        if not text.strip() and info.field_name != "system":
            raise ValueError("expected a text; leave the key out for DeepIntuit's")
        for field in Template.parse(text).fields:
            refuse_field(str(info.field_name), field)
        return text


DEFAULT_TEXTS = PromptsConfig()
"""DeepIntuit's texts, where a recipe gives none."""


def own_fields(name: str) -> tuple[str, ...]:
    """Fields of a text that are no columns of the manifest."""
    special = (field for field, owner in ONLY_IN.items() if owner == name)
    return (*TASK_FIELDS, *special, *(TRACE_FIELDS if name == "verdict" else ()))


def refuse_field(name: str, field: str) -> None:
    """Raise ValueError for a field that no manifest makes right in this text."""
    if field in _REFUSED and field not in own_fields(name):
        raise ValueError(f"{{{field}}} is not shown: {_REFUSED[field]}")
    if field in TRACE_FIELDS and name != "verdict":
        raise ValueError(f"{{{field}}} is of a verdict's prompt, prompts.verdict, alone")


def unknown_field(name: str, field: str, columns: tuple[str, ...]) -> str:
    """Fault of a field that the manifest has no column for."""
    known = (*own_fields(name), *(c for c in columns if c not in _REFUSED))
    near = nearest(field, known, "fields")
    return f"prompts.{name}: the manifest has no column {field!r} for {{{field}}}; {near}"
