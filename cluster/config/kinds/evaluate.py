"""Stages that measure a policy."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from cluster.config.clip_selection import ClipSelection, faults_of
from cluster.config.kinds.stage import Stage
from cluster.config.stages import EvaluateConfig
from video.address import View
from wire.errors import UserError
from wire.types import Sample

Answer = Literal["trace", "label", "explained"]
_ASKED: dict[Answer, str] = {
    "trace": "the answer it writes",
    "label": "the label asked directly",
    "explained": "the label asked directly, and an explanation",
}


class EvaluateStage(Stage, EvaluateConfig):
    """Measures a policy: the answer that it writes after reasoning, or the label asked directly."""

    command: ClassVar[str] = "evaluate"
    section: ClassVar[str] = "evaluate"
    kind: Literal["evaluate"] = "evaluate"
    answer: Answer = "trace"
    """``trace``: the answer at the end of a written trace; ``label``: the label asked directly,
    scored over all labels, without a trace; ``explained``: the label so asked, and beside it a
    written trace, checked for agreement with the label and with the clip's narrative."""
    view: View | None = None
    """What is shown instead of the clips; not set: the clips."""

    @property
    def loads_engines(self) -> bool:
        """Labels are scored by the learner, texts are written by the engines."""
        return self.answer != "label"

    @property
    def asks_labels(self) -> bool:
        """Instead of a trace, or beside it."""
        return self.answer != "trace"

    def describe(self) -> str:
        """Its settings in words."""
        shown = f", {self.view.value} clips" if self.view else ""
        return f"{_ASKED[self.answer]} on {self.split.value}{shown}"

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """It measures on its split."""
        yield from faults_of(ClipSelection(splits=(self.split,)), samples)
