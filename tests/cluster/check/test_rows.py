from pathlib import Path
from typing import Any

import pytest

from cluster.check.rows import balance_of, label_findings, row_findings
from cluster.config.recipe import RunConfig
from rollout.manifest import Fault
from tests.cluster.check.builders import LABELS, levels, make_sample, only
from wire.finding import Area, Level
from wire.types import Split


@pytest.fixture
def config() -> RunConfig:
    data: dict[str, Any] = {"manifest": "m.jsonl"}
    return RunConfig(model=Path("m"), labels=LABELS.labels, data=data)  # type: ignore[arg-type]


def many(split: Split, **counts: int):
    names = {name.replace(" ", "_"): name for name in LABELS.names}
    return [
        make_sample(f"{split}-{name}-{i}", label=names[name], split=split)
        for name, count in counts.items()
        for i in range(count)
    ]


def test_faults_of_one_column_are_one_finding_with_all_rows():
    faults = [Fault(f"line {n}", "label", "unknown label 'fal'") for n in range(7)]
    finding, other = row_findings([], [*faults, Fault("line 9", "video", "no file")])
    assert (finding.area, len(finding.where)) == (Area.LABELS, 7)
    assert (other.area, other.where) == (Area.MANIFEST, ("line 9: no file",))


def test_faults_with_a_remedy_of_their_own_are_a_finding_of_their_own():
    far = [Fault(f"line {n}", "video", "https://h/a.mp4 is far", "import it") for n in range(2)]
    missing, remote = row_findings([], [Fault("line 9", "video", "no file"), *far])
    assert (missing.remedy[:14], missing.where) == ("mend the paths", ("line 9: no file",))
    assert (remote.remedy, len(remote.where)) == ("import it", 2)


def test_even_labels_are_fine_and_the_majority_baseline_is_said(config: RunConfig):
    rows = [s for split in Split for s in many(split, brush_hair=30, fall=20, normal=50)]
    (finding,) = label_findings(config, balance_of(rows))
    assert finding.level is Level.OK
    assert "always saying 'normal' is right on 0.500" in finding.what
    assert "+-0.098" in finding.what


def test_a_label_without_train_clips_is_said(config: RunConfig):
    rows = [*many(Split.TRAIN, fall=50, normal=50), *many(Split.TEST, fall=50, normal=50)]
    findings = label_findings(config, balance_of(rows))
    said = [finding for finding in findings if "split='train'" in finding.what]
    assert said[0].where == ("brush hair",)


def test_uneven_train_labels_are_said(config: RunConfig):
    rows = many(Split.TRAIN, brush_hair=1, fall=20, normal=10)
    finding = only(label_findings(config, balance_of(rows)), Level.WARNING)
    assert "20 clips of 'fall', 1 of 'brush hair'" in finding.what


def test_a_one_sided_test_split_is_said(config: RunConfig):
    rows = many(Split.TEST, brush_hair=10, fall=80, normal=10)
    assert "macro_f1" in only(label_findings(config, balance_of(rows)), Level.WARNING).remedy
    fair = many(Split.TEST, brush_hair=30, fall=40, normal=30)
    assert levels(label_findings(config, balance_of(fair))) == [Level.OK]


def test_a_test_split_too_small_to_compare_with_is_said(config: RunConfig):
    rows = many(Split.TEST, brush_hair=5, fall=5, normal=5)
    assert "more clips" in only(label_findings(config, balance_of(rows)), Level.WARNING).remedy
