"""Checks rows of a manifest: their faults, label balance, clips that each stage needs."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from cluster.config.controls import calibration_of
from cluster.config.recipe import RunConfig
from cluster.inputs.samples import SampleSplits, stage_faults
from rollout.manifest import Fault
from wire.finding import Area, Finding, error, from_error, ok, warning
from wire.types import Sample, Split

_UNEVEN = 20
"""Warn when the rarest label has this many times fewer train clips than the most frequent."""
_ONE_SIDED = 0.8
_WIDE = 0.15

Balance = dict[str, dict[str, int]]
"""Split -> label -> clips."""


def row_findings(samples: Sequence[Sample], faults: Iterable[Fault]) -> list[Finding]:
    """Findings on rows, with the faults of a column that have one remedy together."""
    alike: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        alike.setdefault((fault.column, fault.remedy), []).append(fault)
    findings = [_of_column(column, faults) for (column, _), faults in alike.items()]
    return findings or [ok(Area.MANIFEST, f"{len(samples)} rows, each with all it needs")]


_REMEDIES = {
    "id": "give every row an id of its own",
    "label": "write the labels as the recipe names them, or add them to its labels",
    "split": f"use {', '.join(Split)}",
    "video": "mend the paths, or set data.media_root to the folder where they start",
}


def _of_column(column: str, faults: Sequence[Fault]) -> Finding:
    area = Area.LABELS if column == "label" else Area.MANIFEST
    remedy = faults[0].remedy or _REMEDIES.get(column, "mend these rows")
    if len(faults) == 1 and not faults[0].where:
        what, _, remedy = faults[0].what.partition("; ")
        return error(area, what, remedy)
    rows = "1 row" if len(faults) == 1 else f"{len(faults)} rows"
    what = f"{rows} with a bad {column!r}" if column else f"{rows} cannot be read"
    return error(area, what, remedy, [f"{fault.where}: {fault.what}" for fault in faults])


def split_findings(
    config: RunConfig, samples: Sequence[Sample], stages: Sequence[str]
) -> list[Finding]:
    """Findings on splits that a stage needs and that have no clips for it."""
    faults = stage_faults(config, SampleSplits(samples=list(samples)), stages)
    return [from_error(Area.SPLITS, str(fault)) for fault in faults]


def balance_of(samples: Iterable[Sample]) -> Balance:
    """Clips per split and label; splits without clips are left out."""
    counts: dict[str, Counter[str]] = {}
    for sample in samples:
        counts.setdefault(sample.split.value, Counter())[sample.label] += 1
    return {split.value: dict(counts[split.value]) for split in Split if split.value in counts}


def label_findings(config: RunConfig, balance: Balance) -> list[Finding]:
    """Findings on labels that a stage never meets, on uneven labels, and on few test clips."""
    names = config.label_set.names
    return [
        *_never_met(names, balance, "train", "the policy never learns them"),
        *_never_met(names, balance, calibration_of(config).split, "the verdict never learns them"),
        *_never_met(names, balance, config.evaluate.split.value, "nothing is measured on them"),
        *_uneven(balance.get("train", {})),
        *_measured(balance.get(config.evaluate.split.value, {}), config.evaluate.split.value),
    ]


def _never_met(names: Sequence[str], balance: Balance, split: str, harm: str) -> list[Finding]:
    absent = [name for name in names if name not in balance.get(split, {})]
    if split not in balance or not absent:
        return []
    what = f"{len(absent)} of {len(names)} labels have no clip with split={split!r}: {harm}"
    return [warning(Area.LABELS, what, "add clips of them, or take them out of labels", absent)]


def _uneven(train: dict[str, int]) -> list[Finding]:
    if not train or max(train.values()) < _UNEVEN * min(train.values()):
        return []
    most, least = max(train, key=lambda n: train[n]), min(train, key=lambda n: train[n])
    what = (
        f"train labels are uneven: {train[most]} clips of {most!r}, {train[least]} of {least!r}; "
        "rewards favour the frequent one"
    )
    return [warning(Area.LABELS, what, "add rare clips, or give fewer of the frequent ones")]


def _measured(counts: dict[str, int], split: str) -> list[Finding]:
    if not counts:
        return []
    total = sum(counts.values())
    frequent = max(counts, key=lambda name: counts[name])
    majority, half_width = counts[frequent] / total, 0.98 / math.sqrt(total)
    what = (
        f"{split}: {total} clips; always saying {frequent!r} is right on {majority:.3f} of them; "
        f"a measured accuracy is sure to about +-{half_width:.3f}"
    )
    if majority >= _ONE_SIDED:
        remedy = "read macro_f1 and balanced_accuracy instead of accuracy, or balance the split"
        return [warning(Area.LABELS, what, remedy)]
    if half_width > _WIDE:
        remedy = "give more clips before you compare stages with each other"
        return [warning(Area.LABELS, what, remedy)]
    return [ok(Area.LABELS, what)]
