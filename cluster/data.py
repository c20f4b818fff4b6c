"""The samples of a run by use, and the check that every stage finds some. Loads no engine."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.config import RunConfig
from rollout.manifest import select
from wire.errors import ConfigError, DataError
from wire.types import Sample, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The samples of a manifest, by use."""

    samples: list[Sample]

    def of(self, split: Split) -> list[Sample]:
        """Samples of a split. Raises DataError if there are none."""
        found = select(self.samples, split)
        if not found:
            raise DataError(f"the manifest has no samples with split={split.value!r}; add some")
        return found

    @property
    def with_trace(self) -> list[Sample]:
        """Train samples that have a teacher's trace."""
        found = [s for s in select(self.samples, Split.TRAIN) if s.trace]
        if not found:
            raise DataError(
                "no train sample has a trace, and the cold start learns from traces; "
                "add a 'trace' column, or leave this stage out with coldstart.epochs = 0"
            )
        return found


def check_splits(config: RunConfig, data: Data, stages: Sequence[str]) -> None:
    """Raise UserError if a stage would find nothing to do, or no samples to work on, hours from
    now."""
    data.of(config.evaluate.split)
    if set(stages) != {"base"}:
        data.of(Split.TRAIN)
    if "coldstart" in stages:
        if not config.coldstart.epochs:
            raise ConfigError("coldstart.epochs=0 leaves the cold start out; give it epochs to run")
        _ = data.with_trace
    if "calibrated" in stages:
        labels = {sample.label for sample in data.of(Split(config.calibrate.split))}
        if "head" in config.calibrate.methods and len(labels) < 2:
            raise DataError(
                f"all samples with split={config.calibrate.split!r} have the label {labels}; "
                "a head needs two labels or more"
            )
