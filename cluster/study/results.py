"""Results of a study as plain data: figures, claims and tests for its page, from its runs.

    SeedRuns (seed_runs.py) -> study_results -> StudyResults -> study.json, results_page.py

Touches no file. What has not finished is None here and "not run" on the page.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from calibrate.compare import Comparison, SeedComparison, compare, compare_seeds
from calibrate.verdict import trace_agreement
from cluster.config.chain import Chain, read_chain
from cluster.config.controls import main_stages
from cluster.study.claims import Claim, judge_claims
from cluster.study.seed_runs import (
    ArmRow,
    SeedRun,
    ValuePerSeed,
    arm_row,
    result_of,
    titles_of,
)
from rollout.manifest import select
from wire.types import Split

_ON_VAL = ("coldstart_val", "coldstart_2x")
"""Arms that are measured on val, and compared with each other."""
_SHOWN_TRACES = (
    "calibrated",
    "verdict_teacher",
    "verdict_train",
    "verdict_blank",
    "verdict_shuffled",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyInfo:
    """Facts about a study that its run directories do not hold."""

    recipe: str
    command: str
    """Command that repeats the study."""
    cores: int
    seconds: float
    """Seconds of all processes of the study, failed and interrupted ones included."""
    seeds: tuple[int, ...]
    failed: dict[int, str]
    """Seed -> failure of the last attempt."""
    group_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRow:
    """Comparison of two arms on the same clips, per seed and over the seeds that have both."""

    before: str
    after: str
    per_seed: tuple[Comparison | None, ...]
    pooled: SeedComparison | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSummary:
    """Sizes of one seed's data."""

    seed: int
    sizes: dict[str, int]
    """Clips per split."""
    num_traces: int
    """Train clips with a teacher's trace."""
    num_never: dict[str, int]
    """Clips per split in groups that no train clip is in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResults:
    """Results of a study: all that its page shows."""

    about: StudyInfo
    versions: dict[str, str]
    peak_memory_gb: float
    same_data: bool
    """All seeds were given one manifest."""
    data: tuple[DataSummary, ...]
    arms: tuple[ArmRow, ...]
    claims: tuple[Claim, ...]
    tests: tuple[PairedRow, ...]
    agreement: dict[str, ValuePerSeed]
    """Verdict -> share of its answers that repeat the trace's."""
    trace_accuracy: dict[str, ValuePerSeed]
    """Split -> share of sampled traces whose answer is right."""

    def arm(self, name: str) -> ArmRow:
        """The row of an arm."""
        return next(row for row in self.arms if row.name == name)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def study_results(
    about: StudyInfo, runs: Sequence[SeedRun], notes: Mapping[str, str] | None = None
) -> StudyResults:
    """Compute figures, claims and tests of a study from its runs; ``runs`` may lack seeds.

    Raises DataError if predictions are not of the manifest's clips, or not those that done.json
    was written with.
    """
    by_seed = {run.seed: run for run in runs}
    seeds = [by_seed.get(seed) for seed in about.seeds]
    titles, chain = titles_of(seeds), read_chain({}) if not runs else runs[0].config.chain
    arms = tuple(arm_row(name, title, seeds) for name, title in titles.items())
    return StudyResults(
        about=about,
        versions={name: v for run in runs for name, v in run.versions.items()},
        peak_memory_gb=max(
            (r.get("peak_memory_gb", 0.0) for run in runs for r in run.results.values()),
            default=0.0,
        ),
        same_data=len({run.config.data.manifest for run in runs}) == 1,
        data=tuple(_facts(run) for run in runs),
        arms=arms,
        claims=judge_claims({row.name: row for row in arms}, notes or {}),
        tests=tuple(_paired_row(before, after, seeds) for before, after in _pairs(chain, titles)),
        agreement={name: _agreement(name, seeds) for name in _SHOWN_TRACES},
        trace_accuracy={
            split: tuple(result_of(run, "trace_accuracy").get(split) for run in seeds)
            for split in ("train", "val", "cal")
        },
    )


def _pairs(chain: Chain, titles: Iterable[str]) -> list[tuple[str, str]]:
    """(before, after): consecutive stages, then each control against GRPO and the verdict."""
    known = (*chain.names, *_ON_VAL, "trace_accuracy")
    controls = [name for name in titles if name not in known]
    main = main_stages(chain)
    return [
        *pairwise(chain.names),
        _ON_VAL,
        *((control, stage) for stage in (main.grpo, main.calibrated) for control in controls),
    ]


def _facts(run: SeedRun) -> DataSummary:
    train = select(run.samples, Split.TRAIN)
    trained = {run.groups[sample.id] for sample in train if run.groups}
    of_split = {split.value: select(run.samples, split) for split in Split}
    return DataSummary(
        seed=run.seed,
        sizes={split: len(samples) for split, samples in of_split.items()},
        num_traces=sum(sample.trace is not None for sample in train),
        num_never={
            split: sum(run.groups[sample.id] not in trained for sample in samples)
            for split, samples in of_split.items()
            if run.groups
        },
    )


def _paired_row(before: str, after: str, seeds: Sequence[SeedRun | None]) -> PairedRow:
    pairs = [
        (run.predictions[before], run.predictions[after])
        if run and before in run.predictions and after in run.predictions
        else None
        for run in seeds
    ]
    both = [pair for pair in pairs if pair]
    return PairedRow(
        before=before,
        after=after,
        per_seed=tuple(compare(*pair) if pair else None for pair in pairs),
        pooled=compare_seeds(both) if both else None,
    )


def _agreement(arm: str, seeds: Sequence[SeedRun | None]) -> ValuePerSeed:
    return tuple(
        trace_agreement(run.predictions[arm], run.config.label_set)
        if run and arm in run.predictions
        else None
        for run in seeds
    )
