"""Stages that learn a semantic tokenizer: clips -> codes -> narratives, for stages with
``input = "tokens"``.

LVLM-VAR (arXiv 2509.05695); docs/semantic-tokens.md says what is ours.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cluster.config.clip_selection import ClipSelection, error_of, faults_of
from cluster.config.kinds.stage import Stage
from cluster.config.stage_work import StageWork
from rollout.config import RolloutConfig
from video.semantic_tokens.config import SemanticTokensConfig, Style
from video.semantic_tokens.description import TokenizerDescription
from video.semantic_tokens.mentions import mentions
from wire.errors import DataError, UserError
from wire.types import Sample


class SemanticTokensSettings(SemanticTokensConfig):
    """The tokenizer of semantic action tokens, and how its narratives are shown."""

    texts: str = Field(default="labels", pattern=r"labels|trace|(column|stage):.+")
    """Texts that say what happens in a clip: ``labels``: its label; ``trace``: the teacher's trace;
    ``column:NAME``: a column of the manifest; ``stage:NAME``: what a ``rationales`` stage wrote
    (``task = "caption"``). The semantic loss looks for ``attributes`` in them; no segment needs a
    label of its own."""
    attributes: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Phrases that name what may happen, such as "a hand waves"; codes are named by them. Not set:
    the names of the labels."""
    render: Literal["text", "embeddings"] = "text"
    """How a narrative enters the prompt: as text, or as one embedding per segment in the place of
    video tokens."""
    style: Style = "names"
    """Of text: codes by their nearest texts, or by their numbers."""
    tokenizer: Path | None = None
    """A finished tokenizer's directory, used as it is; not set: one is fitted to the train clips
    here."""


class SemanticTokensStage(Stage, SemanticTokensSettings):
    """Learns a semantic tokenizer from the train clips, and tokenizes all clips of the manifest."""

    command: ClassVar[str] = "semantic_tokens"
    section: ClassVar[str] = "semantic_tokens"
    kind: Literal["semantic_tokens"] = "semantic_tokens"
    clips: ClipSelection = ClipSelection()
    """The clips to learn from; all others are tokenized, and nothing is learnt from them."""

    @model_validator(mode="after")
    def _attributes_differ(self) -> Self:
        if self.attributes is not None and len(set(self.attributes)) < len(self.attributes):
            twice = next(a for a in self.attributes if self.attributes.count(a) > 1)
            raise ValueError(f"attributes has {twice!r} twice; name each once")
        return self

    @property
    def loads_engines(self) -> bool:
        """The learner's vision tower sees the clips."""
        return False

    @property
    def reads_features(self) -> bool:
        """Codes are made of them."""
        return True

    @property
    def shows_vectors(self) -> bool:
        """Whether its narratives are the segments' own vectors, not codes: an ablation."""
        return self.render == "embeddings" and not self.quantise

    @property
    def texts_stage(self) -> str | None:
        """The stage whose texts it reads; None: those of the manifest, or none."""
        kind, _, name = self.texts.partition(":")
        return name if kind == "stage" and self.tokenizer is None else None

    def describe(self) -> str:
        """Its settings in words."""
        if self.tokenizer is not None:
            return f"semantic tokens by the tokenizer {self.tokenizer.name}"
        return f"semantic tokens: {self.num_codes} codes, texts from {self.texts}"

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """Clips, and the texts that it reads of them."""
        faults = list(faults_of(self.clips, samples))
        yield from faults
        if self.tokenizer is not None:
            yield from error_of(TokenizerDescription.read, self.tokenizer)
            return
        if faults or not self.semantic_weight or self.texts_stage is not None:
            return
        clips = self.clips.of(samples)
        attributes = self.attributes or sorted({sample.label for sample in clips})
        texts = [self.texts_of(sample) for sample in clips]
        if not any(texts):
            yield DataError(
                f"stage {self.name} reads texts = {self.texts!r}, and no sample with {self.clips} "
                "has any; add them to the manifest, or set texts to another source"
            )
        elif not any(mentions(own, attributes) for own in texts):
            yield DataError(
                f"stage {self.name}: no text of a sample with {self.clips} mentions any of "
                f"{', '.join(map(repr, attributes[:5]))}, so codes cannot be named; set attributes "
                "to phrases that occur in the texts, or semantic_weight = 0"
            )

    def texts_of(self, sample: Sample) -> tuple[str, ...]:
        """Texts that the manifest has of a clip, where ``texts`` names it; none for a clip
        without."""
        kind, _, column = self.texts.partition(":")
        if kind == "column":
            value = sample.extra.get(column)
            values = value if isinstance(value, list) else [value]
            return tuple(str(one) for one in values if one not in (None, ""))
        if kind == "trace":
            return (sample.trace,) if sample.trace else ()
        return (sample.label,) if kind == "labels" else ()

    def work(self, samples: Sequence[Sample] | None, rollout: RolloutConfig) -> StageWork:
        """Nothing of the policy trains; all clips are looked at once."""
        clips = None if samples is None else len(self.clips.of(samples))
        fits = self.tokenizer is None
        return StageWork(clips=clips if fits else 0, epochs=self.epochs if fits else 0)
