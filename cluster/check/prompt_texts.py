"""Checks the texts of a recipe's prompts: their columns, and what the parser and the model need of
them."""

import re
from collections.abc import Iterator, Sequence

from rollout.prompt import Prompts
from rollout.prompt_columns import column_faults
from rollout.prompts_config import (
    OF_EVERY_RUN,
    ONLY_IN,
    SIDE_FIELDS,
    TASK_FIELDS,
    TRACE_FIELDS,
    UNASKED,
    TextName,
)
from wire.finding import Area, Finding, from_error, ok, warning
from wire.types import Sample

_TAGS = ("<think>", "<answer>")
_NO_LABELS = (*UNASKED, "caption", "rationale")
"""Texts that need not list the labels; that of rationales depends on its stage (rationales.py)."""
_DOUBLED = re.compile(r"\{\{(\w+)\}\}")


def text_findings(prompts: Prompts, samples: Sequence[Sample]) -> list[Finding]:
    """Findings on the texts that a recipe gives; none if it gives none."""
    names = prompts.user_texts
    if not names:
        return []
    findings = [from_error(Area.PROMPTS, fault) for fault in column_faults(prompts, samples)]
    findings += [
        *_without_tags(prompts, names),
        *(f for name in names if name not in _NO_LABELS for f in _without_labels(prompts, name)),
        *_without_definitions(prompts),
        *_without_trace(prompts, names),
        *_without_side_text(prompts, names, samples),
        *_doubled_fields(prompts, names),
    ]
    versions = ", ".join(f"{kind} {version}" for kind, version in prompts.versions.items())
    return findings or [ok(Area.PROMPTS, f"the recipe's own texts; versions: {versions}")]


def _without_tags(prompts: Prompts, names: Sequence[TextName]) -> Iterator[Finding]:
    text = prompts.texts.system + prompts.texts.trace
    absent = [tag for tag in _TAGS if tag not in text]
    if "trace" in names and absent:
        yield warning(
            Area.PROMPTS,
            f"prompts.trace does not ask for {' and '.join(absent)}: a trace without "
            "<think>...</think><answer>LABEL</answer> is not parsed and earns no reward",
            "ask for both blocks in the text, unless the policy writes them already",
        )


def _without_labels(prompts: Prompts, name: TextName) -> Iterator[Finding]:
    shown = {*prompts.templates[name].fields, *prompts.templates["system"].fields}
    text = (prompts.texts.system + getattr(prompts.texts, name)).casefold()
    absent = [label for label in prompts.labels.names if label.casefold() not in text]
    if absent and shown.isdisjoint({"labels", "definitions"}):
        yield warning(
            Area.PROMPTS,
            f"prompts.{name} does not list the labels: {len(absent)} of "
            f"{len(prompts.labels.names)} are not in it",
            "put {labels} or {definitions} into the text",
            absent,
        )


def _without_definitions(prompts: Prompts) -> Iterator[Finding]:
    defined = [label.name for label in prompts.labels.labels if label.definition]
    templates = (prompts.templates[name] for name in OF_EVERY_RUN)
    shown = {field for template in templates for field in template.fields}
    if defined and "definitions" not in shown:
        what = f"{len(defined)} labels have a definition, and no prompt shows it"
        yield warning(Area.PROMPTS, what, "put {definitions} into the texts", defined)


def _without_trace(prompts: Prompts, names: Sequence[TextName]) -> Iterator[Finding]:
    if "verdict" in names and set(TRACE_FIELDS).isdisjoint(prompts.templates["verdict"].fields):
        yield warning(
            Area.PROMPTS,
            "prompts.verdict shows nothing of the trace: the verdict judges the video alone",
            "put {reasoning} and {conclusion} into the text",
        )


def _without_side_text(
    prompts: Prompts, names: Sequence[TextName], samples: Sequence[Sample]
) -> Iterator[Finding]:
    if not prompts.use_side_text or not any(sample.text for sample in samples):
        return
    system = prompts.templates["system"].fields
    for name in names:
        if name not in UNASKED and {*prompts.templates[name].fields, *system}.isdisjoint(
            SIDE_FIELDS
        ):
            what = f"data.use_side_text = true, and prompts.{name} has no place for the text"
            yield warning(Area.PROMPTS, what, "put {text} into it, if it is to be shown there")


def _doubled_fields(prompts: Prompts, names: Sequence[TextName]) -> Iterator[Finding]:
    known = {*TASK_FIELDS, *TRACE_FIELDS, *ONLY_IN}
    for name in names:
        doubled = set(_DOUBLED.findall(getattr(prompts.texts, name))) & known
        for field in sorted(doubled):
            what = f"prompts.{name} writes {{{{{field}}}}}: the model reads the word {{{field}}}"
            yield warning(Area.PROMPTS, what, "a field has single braces; double ones are literal")
