"""Samples and what was seen of their clips."""

from typing import Any

from cluster.check.clip_facts import ClipFacts
from cluster.check.clips import ClipScans
from wire.finding import Finding, Level
from wire.labels import Label, LabelSet
from wire.types import Sample, Split

LABELS = LabelSet(labels=(Label(name="brush hair"), Label(name="fall"), Label(name="normal")))


def make_sample(name: str = "a", **changes: Any) -> Sample:
    """A train clip of a fall; ``name`` is its id and its file's."""
    values = {"video": f"/data/{name}.mp4", "label": "fall", "split": Split.TRAIN, **changes}
    return Sample(id=name, **values)


def make_scan(digest: str = "d", **changes: Any) -> ClipFacts:
    """A clip that decodes; clips of one digest have one content."""
    size = {"frames": 8, "height": 56, "width": 56, "seconds": 2.0}
    values = {**size, "stat": (1, 1), "not_by_decord": None, **changes}
    return ClipFacts(digest=digest, **values)


def scans_of(*samples: Sample) -> ClipScans:
    """Each file of other content than all others."""
    return {sample.video: make_scan(sample.video) for sample in samples}


def levels(findings: list[Finding]) -> list[Level]:
    return [finding.level for finding in findings]


def only(findings: list[Finding], level: Level) -> Finding:
    """The one finding of a level."""
    (finding,) = [finding for finding in findings if finding.level is level]
    return finding
