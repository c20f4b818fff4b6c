"""Checks for repeated clips: in two splits, twice in one split, under two labels.

    samples + content hashes -> clips by content -> findings      samples -> groups -> findings

Content is the file's hash and what the address asks of it (its view): a clip and its blank view
are two things. Linear in the rows.
"""

from collections.abc import Iterable, Mapping, Sequence

from cluster.check.clip_facts import ClipFacts
from cluster.check.clips import ClipScans, file_of
from wire.errors import ConfigError
from wire.finding import Area, Finding, ok, warning
from wire.types import Sample

GROUP_COLUMN = "group"
"""Column that is always checked, if it exists."""


def content_findings(samples: Iterable[Sample], scans: ClipScans) -> list[Finding]:
    """Findings on repeated clips: in two splits, twice in one split, under two labels."""
    clips: dict[str, list[Sample]] = {}
    for sample in samples:
        if (key := _content(sample, scans)) is not None:
            clips.setdefault(key, []).append(sample)
    repeated = [alike for alike in clips.values() if len(alike) > 1]
    crossing = [alike for alike in repeated if len(_splits(alike)) > 1]
    within = [alike for alike in repeated if len(_splits(alike)) < len(alike)]
    torn = [alike for alike in repeated if len({sample.label for sample in alike}) > 1]
    findings = []
    if torn:
        what = f"{len(torn)} of {len(clips)} clips have two labels: one content, rows that disagree"
        remedy = "decide on one label each, or leave these clips out"
        findings.append(warning(Area.LABELS, what, remedy, _equal_clips(torn, with_label=True)))
    if crossing:
        what = f"{len(crossing)} of {len(clips)} clips are in more than one split, by their content"
        remedy = "keep each in one split; what was trained on cannot be measured on"
        findings.append(warning(Area.SPLITS, what, remedy, _equal_clips(crossing)))
    if within:
        what = f"{len(within)} of {len(clips)} clips are more than once in a split"
        remedy = "keep one row each, unless they are to count more than others"
        findings.append(warning(Area.SPLITS, what, remedy, _equal_clips(within)))
    if clips and not repeated:
        findings.append(
            ok(Area.SPLITS, f"{len(clips)} clips, each of other content than all others")
        )
    return findings


def group_findings(samples: Sequence[Sample], columns: Sequence[str]) -> list[Finding]:
    """Findings on values of a group column that are in two splits. ``columns``: names of columns; a
    column ``group`` is always checked. Raises ConfigError if no row has one of ``columns``."""
    asked = list(dict.fromkeys(columns))
    if GROUP_COLUMN not in asked and any(GROUP_COLUMN in sample.extra for sample in samples):
        asked.append(GROUP_COLUMN)
    return [_group_finding(samples, column) for column in asked]


def _group_finding(samples: Sequence[Sample], column: str) -> Finding:
    splits: dict[str, set[str]] = {}
    for sample in samples:
        if (value := sample.extra.get(column)) is not None:
            splits.setdefault(str(value), set()).add(sample.split.value)
    if samples and not splits:
        known = ", ".join(sorted(samples[0].extra)) or "none"
        raise ConfigError(
            f"no row has a column {column!r} to group by; the first row's own columns: {known}"
        )
    crossing = {value: names for value, names in splits.items() if len(names) > 1}
    if not crossing:
        return ok(Area.SPLITS, f"no {column} is in two splits ({len(splits)} of them)")
    what = f"{len(crossing)} of {len(splits)} values of {column!r} are in more than one split"
    remedy = "split by this column, so that what is measured on is as new as you say"
    where = [f"{value}: {', '.join(sorted(names))}" for value, names in crossing.items()]
    return warning(Area.SPLITS, what, remedy, where)


def _content(sample: Sample, scans: ClipScans) -> str | None:
    file = file_of(sample)
    scan = scans.get(file)
    return scan.digest + sample.video[len(file) :] if isinstance(scan, ClipFacts) else None


def _splits(alike: Iterable[Sample]) -> set[str]:
    return {sample.split.value for sample in alike}


def _equal_clips(repeated: Sequence[Sequence[Sample]], *, with_label: bool = False) -> list[str]:
    return [
        " = ".join(f"{s.id} ({s.label if with_label else s.split.value})" for s in alike)
        for alike in repeated
    ]


def by_content(samples: Iterable[Sample], scans: ClipScans) -> Mapping[str, ClipFacts]:
    """Distinct clips by content, as the clip cache will hold them."""
    clips = {}
    for sample in samples:
        scan = scans.get(file_of(sample))
        key = _content(sample, scans)
        if key is not None and isinstance(scan, ClipFacts):
            clips[key] = scan
    return clips
