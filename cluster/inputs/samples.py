"""Samples of a run by split, and the check that every stage has some. Loads no engine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from cluster.config.recipe import RunConfig
from rollout.manifest import read_manifest, select
from wire.errors import ConfigError, DataError, UserError
from wire.types import Sample, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSplits:
    """Samples of a manifest by split."""

    samples: list[Sample]

    def of(self, split: Split) -> list[Sample]:
        """Samples of a split. Raises DataError if there are none."""
        samples = select(self.samples, split)
        if not samples:
            raise DataError(f"the manifest has no samples with split={split.value!r}; add some")
        return samples

    @property
    def with_teacher_trace(self) -> list[Sample]:
        """Train samples that have a teacher's trace. Raises DataError if there are none."""
        samples = [s for s in select(self.samples, Split.TRAIN) if s.trace]
        if not samples:
            raise DataError(
                "no train sample has a trace, and the cold start learns from traces; "
                "add a 'trace' column, or leave this stage out with coldstart.epochs = 0"
            )
        return samples


def check_splits(config: RunConfig, data: SampleSplits, stages: Sequence[str]) -> None:
    """Raise UserError now if a stage would later have nothing to do, or no samples."""
    for fault in split_faults(config, data, stages):
        raise fault


def split_faults(
    config: RunConfig, data: SampleSplits, stages: Sequence[str]
) -> Iterator[UserError]:
    """All errors that ``check_splits`` would raise, one after another."""
    splits = [config.evaluate.split]
    if set(stages) != {"base"}:
        splits.append(Split.TRAIN)
    if "calibrated" in stages:
        splits.append(Split(config.calibrate.split))
    for split in dict.fromkeys(splits):
        yield from _fault(partial(data.of, split))
    if "coldstart" in stages and not config.coldstart.epochs:
        yield ConfigError("coldstart.epochs=0 leaves the cold start out; give it epochs to run")
    elif "coldstart" in stages and select(data.samples, Split.TRAIN):
        yield from _fault(lambda: data.with_teacher_trace)
    if "calibrated" in stages and "head" in config.calibrate.methods:
        labels = {s.label for s in select(data.samples, Split(config.calibrate.split))}
        if len(labels) == 1:
            yield DataError(
                f"all samples with split={config.calibrate.split!r} have the label {labels}; "
                "a head needs two labels or more"
            )


def _fault(find: Callable[[], object]) -> Iterator[UserError]:
    try:
        find()
    except UserError as error:
        yield error


def read_samples(config: RunConfig) -> list[Sample]:
    """Read all samples of the manifest. Raises DataError."""
    return read_manifest(config.data.manifest, config.label_set, config.data.media_root)
