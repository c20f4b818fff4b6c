"""Samples of a run by split, and the check that every stage has some. Loads no engine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.config.clip_selection import ClipSelection, faults_of
from cluster.config.recipe import RunConfig
from cluster.inputs.validation_clips import validation_faults
from rollout.manifest import read_manifest, select
from video.address import with_tokens
from wire.errors import DataError, UserError
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

    def shown_as(self, tokens: str) -> "SampleSplits":
        """The same samples, their clips as narratives of this version of a tokenizer."""
        return SampleSplits(samples=[with_tokens(sample, tokens) for sample in self.samples])


def check_stages(config: RunConfig, data: SampleSplits, names: Sequence[str]) -> None:
    """Raise UserError now if a stage would later have nothing to do, or no samples."""
    for fault in stage_faults(config, data, names):
        raise fault


def stage_faults(
    config: RunConfig, data: SampleSplits, names: Sequence[str]
) -> Iterator[UserError]:
    """All errors that ``check_stages`` would raise, each once, one after another."""
    reported: set[str] = set()
    for fault in _faults(config, data, names):
        if str(fault) not in reported:
            reported.add(str(fault))
            yield fault


def _faults(config: RunConfig, data: SampleSplits, names: Sequence[str]) -> Iterator[UserError]:
    evaluated = ClipSelection(splits=(config.evaluate.split,))
    yield from faults_of(evaluated, data.samples)
    stages = [config.chain[name] for name in names]
    if any(stage.kind != "evaluate" for stage in stages):  # weights are proven on train clips
        yield from faults_of(ClipSelection(), data.samples)
    for stage in stages:
        yield from stage.data_faults(data.samples)
        yield from validation_faults(config, stage, data.samples)


def read_samples(config: RunConfig) -> list[Sample]:
    """Read all samples of the manifest. Raises DataError."""
    return read_manifest(config.data.manifest, config.label_set, config.data.media_root)
