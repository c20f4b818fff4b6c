"""Prompts of a run: what the model is asked about a sample, as chat messages.

    Sample + texts of the recipe (rollout/prompts_config.py) + LabelSet -> Messages
        -> (rollout/render.py) -> token ids

Every prompt of a run is made here: rollouts, evaluation, verdicts, label-only stages, checks. The
version of a prompt stands in its archive record.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rollout.message import Foreign, Message, Parts
from rollout.prompt_template import Template, value_text
from rollout.prompts_config import (
    DEFAULT_TEXTS,
    DEFAULT_VERSION,
    OF_EVERY_RUN,
    SIDE_FIELDS,
    TEXT_NAMES,
    TRACE_FIELDS,
    PromptsConfig,
    TextName,
    own_fields,
)
from wire.errors import DataError
from wire.labels import LabelSet, reasoning_in
from wire.types import Sample, stable_hash

_HASH_LENGTH = 12


@dataclass(frozen=True, slots=True)
class VerdictPrompt:
    """Kind of prompt that asks for the label alone, given the video and this trace about it."""

    trace: str


@dataclass(frozen=True, slots=True)
class RationalePrompt:
    """Kind of prompt that asks for a rationale of the label: RB-FT (seeds.md 2)."""

    hint: bool
    """Whether it names the true label."""


PromptKind = Literal["trace", "label", "caption"] | VerdictPrompt | RationalePrompt
"""Kind of a prompt: it asks for a trace; for the label, given the video alone; for a verdict; for a
rationale; or for a caption."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of a task: makes the messages about a sample.

    Example:
        Prompts(labels).trace(sample)[0].text == "Decide which label fits the video..."
    """

    labels: LabelSet
    texts: PromptsConfig = DEFAULT_TEXTS
    use_side_text: bool = False
    """Whether a sample's ``text`` is shown."""

    def ask(self, kind: PromptKind, sample: Sample) -> list[Message]:
        """Messages of a prompt of this kind about a sample. Raises DataError if it lacks a column
        that the text names."""
        match kind:
            case VerdictPrompt(trace):
                return self.verdict(sample, trace)
            case "trace":
                return self.trace(sample)
            case "label":
                return self.label(sample)
            case "caption":
                return self.caption(sample)
            case RationalePrompt(hint):
                return self.rationale(sample, hint=hint)

    def trace(self, sample: Sample) -> list[Message]:
        """Messages that ask for a reasoning trace and an answer."""
        return self._turns("trace", self._sample_values("trace", sample))

    def verdict(self, sample: Sample, trace: str) -> list[Message]:
        """Messages that ask for the label alone, given the video and a trace about it.

        A trace that cannot be parsed is shown whole, with an empty conclusion (seeds.md 1.3).
        """
        answer, reasoning = self.labels.answer_in(trace), reasoning_in(trace)
        if answer is None or reasoning is None:
            answer, reasoning = "", trace.strip()
        values = self._sample_values("verdict", sample)
        return self._turns("verdict", {**values, "reasoning": reasoning, "conclusion": answer})

    def label(self, sample: Sample) -> list[Message]:
        """Messages that ask for the label alone, given the video: the prompt of label-only
        classifiers."""
        return self._turns("label", self._sample_values("label", sample))

    def rationale(self, sample: Sample, *, hint: bool) -> list[Message]:
        """Messages that ask for a rationale of the label; with ``hint`` they name the true one."""
        values = self._sample_values("rationale", sample)
        line = (*self._hint(sample), "\n") if hint else ""
        return self._turns("rationale", values, hint=line)

    def caption(self, sample: Sample) -> list[Message]:
        """Messages that ask for a description of the clip."""
        return self._turns("caption", self._sample_values("caption", sample))

    def bare(self) -> list[Message]:
        """Messages that ask for a trace and know nothing of a sample: its fields are empty."""
        return self._turns("trace", dict.fromkeys((*self.columns, *SIDE_FIELDS), ""))

    def bare_verdict(self) -> list[Message]:
        """Messages that ask for a verdict and know neither a sample nor a trace."""
        fields = (*self.columns, *SIDE_FIELDS, *TRACE_FIELDS)
        return self._turns("verdict", dict.fromkeys(fields, ""))

    def version(self, kind: PromptKind) -> str:
        """Version of the wording of a kind of prompt: the same text has the same version. Those of
        rationales and captions name their kind, as they stand among those of traces."""
        if isinstance(kind, RationalePrompt):
            hint = f"+hint-{self.versions['hint']}" if kind.hint else ""
            return f"rationale-{self.versions['rationale']}{hint}"
        if kind == "caption":
            return f"caption-{self.versions['caption']}"
        return self.versions["verdict" if isinstance(kind, VerdictPrompt) else kind]

    @cached_property
    def versions(self) -> Mapping[str, str]:
        """Version by name of the text. Texts of the recipe: a hash of all that is not the
        sample's, the labels and their definitions included."""
        return {name: self._version(name) for name in TEXT_NAMES if name != "system"}

    @cached_property
    def templates(self) -> Mapping[TextName, Template]:
        """The texts, parsed."""
        return {name: Template.parse(getattr(self.texts, name)) for name in TEXT_NAMES}

    @cached_property
    def columns(self) -> Mapping[str, tuple[TextName, ...]]:
        """Columns of the manifest that are shown, each with the texts that name it."""
        shown: dict[str, tuple[TextName, ...]] = {}
        for name, template in self.templates.items():
            for field in template.fields:
                if field not in own_fields(name):
                    shown[field] = (*shown.get(field, ()), name)
        return shown

    @property
    def user_texts(self) -> tuple[TextName, ...]:
        """Names of the texts that the recipe gives."""
        given = self.texts
        return tuple(n for n in TEXT_NAMES if getattr(given, n) != getattr(DEFAULT_TEXTS, n))

    @property
    def shows_side_text(self) -> bool:
        """Whether any prompt shows a sample's ``text``; of those that few chains have, the recipe's
        own."""
        names = {*OF_EVERY_RUN, *self.user_texts}
        shown = (field for name in names for field in self.templates[name].fields)
        return self.use_side_text and not set(SIDE_FIELDS).isdisjoint(shown)

    def _version(self, name: TextName) -> str:
        if not {name, "system"} & set(self.user_texts):
            return DEFAULT_VERSION
        shown = self.texts.system, getattr(self.texts, name), self._task_values
        return stable_hash(*shown)[:_HASH_LENGTH]

    def _hint(self, sample: Sample) -> Parts:
        values = {**self._task_values, **self._sample_values("hint", sample)}
        return self.templates["hint"].fill({**values, "label": Foreign(sample.label, of="labels")})

    def _turns(
        self, name: TextName, values: Mapping[str, str], **of_text_alone: str | Parts
    ) -> list[Message]:
        values = {**self._task_values, **values}
        parts = self.templates[name].fill({**values, **of_text_alone})
        user = Message("user", parts, has_video=True)
        if not self.texts.system:
            return [user]
        return [Message("system", self.templates["system"].fill(values)), user]

    @cached_property
    def _task_values(self) -> dict[str, str]:
        ordered = sorted(self.labels.labels, key=lambda label: label.name)
        lines = [f"- {one.name}: {one.definition}" if one.definition else f"- {one.name}"
                 for one in ordered]  # fmt: skip
        names = ", ".join(self.labels.names)
        shown = {"labels": names, "definitions": "\n".join(lines)}
        return {field: Foreign(text, of="labels") for field, text in shown.items()}

    def _sample_values(self, name: TextName, sample: Sample) -> dict[str, str]:
        text = (sample.text if self.use_side_text else None) or ""
        side = f"Text that came with the video: {text}\n" if text else ""
        values: dict[str, str] = {"text": Foreign(text), "side_text": Foreign(side)}
        for column, names in self.columns.items():
            if {name, "system"} & set(names):
                values[column] = Foreign(_value(sample, column))
        return values


def column_text(sample: Sample, column: str) -> str | None:
    """A sample's value of a column, as a prompt shows it; None if it has none."""
    return sample.id if column == "id" else value_text(sample.extra.get(column))


def _value(sample: Sample, column: str) -> str:
    value = column_text(sample, column)
    if value is None:
        raise DataError(
            f"sample {sample.id!r} has no value in column {column!r}, which its prompt shows; "
            "give it one in the manifest"
        )
    return value


def trace_target(sample: Sample) -> str:
    """Target of the cold start: the assistant's text for a sample with a teacher trace."""
    assert sample.trace is not None, f"sample {sample.id} has no trace; select samples with one"
    return sample.trace
