"""Selection of the samples that a stage works on: by split, and by the manifest's columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from pydantic import Field

from wire.config import Config
from wire.errors import DataError, UserError
from wire.types import Sample, Split

T = TypeVar("T")


class ClipSelection(Config):
    """The samples of the manifest that a stage works on."""

    splits: tuple[Split, ...] = Field(default=(Split.TRAIN,), min_length=1)
    """Their splits."""
    where: Mapping[str, str | int | float | bool] = Field(default_factory=dict)
    """Manifest column -> the value that a sample must have there."""

    def of(self, samples: Sequence[Sample]) -> list[Sample]:
        """The selected samples, split by split. Raises DataError for a split without any."""
        chosen: list[Sample] = []
        for split in dict.fromkeys(self.splits):
            part = self.model_copy(update={"splits": (split,)})
            fitting = [sample for sample in samples if part.fits(sample)]
            if not fitting:
                raise DataError(f"the manifest has no samples with {part}; add some")
            chosen += fitting
        return chosen

    def fits(self, sample: Sample) -> bool:
        """Whether a sample is among them."""
        return sample.split in self.splits and all(
            sample.extra.get(column) == value for column, value in self.where.items()
        )

    def __str__(self) -> str:
        splits = " or ".join(repr(split.value) for split in self.splits)
        columns = (f" and {column}={value!r}" for column, value in self.where.items())
        return f"split={splits}{''.join(columns)}"


def faults_of(clips: ClipSelection, samples: Sequence[Sample]) -> Iterator[UserError]:
    """The error that a selection raises, if it selects nothing."""
    for split in dict.fromkeys(clips.splits):
        yield from error_of(clips.model_copy(update={"splits": (split,)}).of, samples)


def error_of(find: Callable[[T], object], of: T) -> Iterator[UserError]:
    """The error that a search, for samples or a file, raises, if it raises one."""
    try:
        find(of)
    except UserError as error:
        yield error
