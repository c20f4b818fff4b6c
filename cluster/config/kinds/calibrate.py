"""Stages that fit classifiers to the policy's own traces."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from calibrate.splits import ClipParts
from cluster.config.clip_selection import ClipSelection, faults_of
from cluster.config.kinds.stage import Stage, updates_of
from cluster.config.stage_work import StageWork
from cluster.config.stages import KEEP_LAST, CalibrationConfig
from rollout.config import RolloutConfig
from wire.errors import DataError, UserError
from wire.types import Sample, Split


class CalibrateStage(Stage, CalibrationConfig):
    """Classifiers fitted to the policy's own traces: verdict and head."""

    command: ClassVar[str] = "calibrate"
    section: ClassVar[str] = "calibrate"
    kind: Literal["calibrate"] = "calibrate"

    @model_validator(mode="before")
    @classmethod
    def _sees_videos(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("input", "video") != "video":
            raise ValueError(
                f"input = {values['input']!r}, and a calibrate stage shows clips as videos, as the "
                "published classifier will be asked about them; measure a policy that reads "
                "narratives with a stage of kind evaluate"
            )
        return values

    @property
    def head_name(self) -> str:
        """Name of the head's predictions and figures."""
        return "head" if self.name == "calibrated" else f"{self.name}_head"

    @property
    def classifier_name(self) -> str:
        """Name of the published classifier's predictions and figures."""
        return "classifier" if self.name == "calibrated" else f"{self.name}_classifier"

    @property
    def also_predicted(self) -> tuple[str, str]:
        """Names of the predictions of its head and of its published classifier."""
        return self.head_name, self.classifier_name

    @property
    def asks_labels(self) -> bool:
        """The verdict does, the head does not."""
        return "verdict" in self.methods

    @property
    def kept_checkpoints(self) -> int:
        """Those of the verdict's fine-tuning."""
        return KEEP_LAST + self.validation.restore_best if "verdict" in self.methods else 0

    @property
    def clips(self) -> ClipSelection:
        """Clips to learn from."""
        return ClipSelection(splits=(Split(self.split),))

    def describe(self) -> str:
        """Its settings in words."""
        return f"{' and '.join(self.methods)} on its own traces"

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """Clips, of two labels for a head."""
        faults = list(faults_of(self.clips, samples))
        yield from faults
        labels = set() if faults else {sample.label for sample in self.clips.of(samples)}
        if "head" in self.methods and len(labels) == 1:
            what = f"all samples with split={self.split!r} have the label {labels}"
            yield DataError(f"{what}; a head needs two labels or more")

    def work(self, samples: Sequence[Sample] | None, rollout: RolloutConfig) -> StageWork:
        """The verdict's updates; a head takes none. Test clips are those of every measurement."""
        parts = None if samples is None else ClipParts.of(samples, self)
        traces = None if parts is None else len(parts.learned) * self.num_traces
        epochs = self.epochs if self.asks_labels else 0
        updates = updates_of(traces, epochs, self.batch_size)
        return StageWork(
            clips=None if parts is None else len(parts.learned),
            epochs=epochs,
            groups=None if parts is None else parts.num_groups(self),
            rollouts=None if parts is None else parts.num_rollouts(self),
            examples=traces,
            updates=updates,
            validations=None if updates is None else self.validated.num_validations(updates),
        )
