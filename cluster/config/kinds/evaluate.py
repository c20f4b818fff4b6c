"""Stages that measure a policy."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from cluster.config.clip_selection import ClipSelection, faults_of
from cluster.config.kinds.stage import Stage
from cluster.config.stages import EvaluateConfig
from video.address import View
from wire.errors import UserError
from wire.types import Sample


class EvaluateStage(Stage, EvaluateConfig):
    """Measures a policy: the answer that it writes after reasoning, or the label asked directly."""

    command: ClassVar[str] = "evaluate"
    section: ClassVar[str] = "evaluate"
    kind: Literal["evaluate"] = "evaluate"
    answer: Literal["trace", "label"] = "trace"
    """``trace``: the answer at the end of a written trace; ``label``: the label asked directly,
    scored over all labels, without a trace."""
    view: View | None = None
    """What is shown instead of the clips; not set: the clips."""

    @property
    def loads_engines(self) -> bool:
        """Labels are scored by the learner."""
        return not self.asks_labels

    @property
    def asks_labels(self) -> bool:
        """Instead of a trace."""
        return self.answer == "label"

    def describe(self) -> str:
        """Its settings in words."""
        asked = "the answer it writes" if self.answer == "trace" else "the label asked directly"
        shown = f", {self.view.value} clips" if self.view else ""
        return f"{asked} on {self.split.value}{shown}"

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """It measures on its split."""
        yield from faults_of(ClipSelection(splits=(self.split,)), samples)
