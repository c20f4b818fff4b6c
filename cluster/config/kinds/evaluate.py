"""Stages that measure a policy."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from cluster.config.clip_selection import ClipSelection, faults_of
from cluster.config.kinds.clip_input import ClipInputConfig
from cluster.config.kinds.stage import Stage
from cluster.config.stages import EvaluateConfig
from video.address import View
from wire.errors import UserError
from wire.types import Sample

Answer = Literal["trace", "label", "explained", "pooled"]
_ASKED: dict[Answer, str] = {
    "trace": "the answer it writes",
    "label": "the label asked directly",
    "explained": "the label asked directly, and an explanation",
    "pooled": "a linear head on the vision tower's mean features",
}


class EvaluateStage(Stage, EvaluateConfig, ClipInputConfig):
    """Measures a policy: the answer that it writes after reasoning, or the label asked directly."""

    command: ClassVar[str] = "evaluate"
    section: ClassVar[str] = "evaluate"
    kind: Literal["evaluate"] = "evaluate"
    answer: Answer = "trace"
    """``trace``: the answer at the end of a written trace; ``label``: the label asked directly,
    scored over all labels, without a trace; ``explained``: the label so asked, and beside it a
    written trace, checked for agreement with the label and with the clip's narrative; ``pooled``:
    no language model, a linear head on the frozen tower's features, averaged over a clip and fitted
    to the train clips (a baseline)."""
    view: View | None = None
    """What is shown instead of the clips; not set: the clips. ``dropped`` and ``random`` are of
    narratives alone (``input = "tokens"``)."""

    @model_validator(mode="after")
    def _view_is_of_input(self) -> Self:
        if self.view is not None and self.view.needs_tokens and self.input != "tokens":
            raise ValueError(
                f'view = {self.view.value!r} is of narratives, for input = "tokens"; the input is '
                'the video: use "blank", "shuffled" or "reversed", or set input'
            )
        return self

    @model_validator(mode="after")
    def _pooled_are_features(self) -> Self:
        if self.answer == "pooled" and self.input != "video":
            raise ValueError(
                'answer = "pooled" reads features of videos; leave input = "tokens" out'
            )
        return self

    @property
    def loads_engines(self) -> bool:
        """Labels are scored by the learner, texts are written by the engines."""
        return self.answer in ("trace", "explained")

    @property
    def asks_labels(self) -> bool:
        """Instead of a trace, or beside it."""
        return self.answer in ("label", "explained")

    @property
    def reads_features(self) -> bool:
        """A linear head on features does."""
        return self.answer == "pooled"

    def describe(self) -> str:
        """Its settings in words."""
        shown = f", {self.view.value} clips" if self.view else ""
        return f"{_ASKED[self.answer]} on {self.split.value}{shown}{self.in_words}"

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """It measures on its split."""
        yield from faults_of(ClipSelection(splits=(self.split,)), samples)
