"""Traces of an archive for a fit, from a real archive."""

from dataclasses import replace
from pathlib import Path

import pytest

from calibrate.config import CalibrateConfig
from calibrate.fit import FitTraces
from calibrate.splits import held_out_ids
from cluster.fitting.archived_traces import TraceQuery, find_traces
from tests.groups import make_completion, make_group, make_sample
from video.address import with_tokens
from wire.archive.archive import Archive
from wire.errors import DataError
from wire.labels import Label, LabelSet
from wire.types import PolicyVersion, Purpose, Sample, Score, Split, Trace, TraceGroup

LABELS = LabelSet(labels=(Label(name="fall"), Label(name="walk")))
SERVED, BEFORE = PolicyVersion(attempt=0, step=8), PolicyVersion(attempt=0, step=7)


def clips(split: Split, count: int) -> list[Sample]:
    return [make_sample(LABELS.names[n % 2], id=f"{split}-{n}", split=split) for n in range(count)]


def group(
    sample: Sample,
    owner: str,
    purpose: Purpose,
    count: int = 1,
    version: PolicyVersion = SERVED,
    text: str = "seen",
) -> TraceGroup:
    completion = make_completion(
        f"<think>{text}</think><answer>{sample.label}</answer>", policy_version=version
    )
    traces = [Trace(completion=completion, outcome=Score(total=1.0, parts={}))] * count
    return make_group(
        *traces,
        group_id=f"{owner}/{purpose}/{sample.id}",
        sample=sample,
        purpose=purpose,
        policy_version=version,
    )


def archived(folder: Path, *groups: TraceGroup) -> Path:
    with Archive(folder, 0) as archive:
        for one in groups:
            archive.append(one)
        archive.compact(8)
    return folder


CAL, VAL, TEST = clips(Split.CAL, 16), clips(Split.VAL, 4), clips(Split.TEST, 4)


def stage_groups(held_out: set[str]) -> list[TraceGroup]:
    """What a calibration writes."""
    return [
        *(group(s, "c", Purpose.CALIBRATION, 3) for s in CAL if s.id not in held_out),
        *(group(s, "c", Purpose.EVALUATION) for s in CAL if s.id in held_out),
        *(group(s, "c", Purpose.EVALUATION) for s in (*VAL, *TEST)),
    ]


def held_out_of(config: CalibrateConfig) -> set[str]:

    return held_out_ids(CAL, config.holdout_frac)


def query(**changes: object) -> TraceQuery:
    values = {"stage": "c", "learn_from": {SERVED}, "served": {SERVED}, **changes}
    return TraceQuery(**values)  # type: ignore[arg-type]


def ids(traces: FitTraces, part: str) -> list[str]:
    return [sample.id for sample in traces[part].samples]


def test_the_traces_of_a_stage_are_taken_as_it_used_them(tmp_path: Path):
    config = CalibrateConfig()
    held_out = held_out_of(config)
    assert len(held_out) == 4
    told = with_tokens(replace(TEST[1], id="told"), "3f9c0a7b51de")
    others = [
        group(TEST[0], "grpo", Purpose.EVALUATION, text="another stage's"),
        group(TEST[0], "vote", Purpose.EVALUATION, 5),
        group(CAL[0], "verdict_train_traces", Purpose.CALIBRATION, 3),
        group(VAL[0], "grpo", Purpose.VALIDATION, version=BEFORE),
        group(told, "c", Purpose.EVALUATION, text="a narrative's"),
    ]
    archive = archived(tmp_path, *others, *stage_groups(held_out))
    traces = find_traces(archive, query(), config, LABELS)
    assert ids(traces, "held_out") == sorted(held_out)
    assert ids(traces, "learned") == sorted(s.id for s in CAL if s.id not in held_out)
    assert ids(traces, "val") == [s.id for s in VAL]
    assert ids(traces, "test") == [s.id for s in TEST]
    assert traces.learned.num_traces == 3 * 12
    assert traces.test.examples()[0].trace == f"<think>seen</think><answer>{TEST[0].label}</answer>"


def test_an_archive_of_before_the_split_has_no_held_out_traces(tmp_path: Path):
    archive = archived(tmp_path, *stage_groups(set()))
    traces = find_traces(archive, query(), CalibrateConfig(), LABELS)
    assert (len(traces.learned), len(traces.held_out)) == (12, 0)
    every = find_traces(archive, query(), CalibrateConfig(holdout_frac=0), LABELS)
    assert len(every.learned) == 16


def test_training_traces_of_a_range_of_versions_are_learned_from_in_order(tmp_path: Path):
    train = clips(Split.TRAIN, 2)
    groups = [
        make_group(
            *group(train[n % 2], "grpo", Purpose.TRAIN, 2, version).traces,
            group_id=f"grpo/{n:08d}",
            sample=train[n % 2],
            purpose=Purpose.TRAIN,
            policy_version=version,
        )
        for n, version in enumerate([SERVED, SERVED, BEFORE, BEFORE])
    ]
    val = [group(s, "grpo", Purpose.VALIDATION) for s in VAL]
    archive = archived(
        tmp_path, *groups, *val, *(group(s, "grpo", Purpose.EVALUATION) for s in TEST)
    )
    asked = query(purpose=Purpose.TRAIN, learn_from={SERVED, BEFORE}, test=None)
    traces = find_traces(archive, asked, CalibrateConfig(), LABELS)
    assert ids(traces, "learned") == ["train-0", "train-0", "train-1", "train-1"]
    versions = [next(iter(facts.versions)) for facts in traces.learned.facts]
    assert versions == [BEFORE, SERVED, BEFORE, SERVED]
    assert ids(traces, "val") == [s.id for s in VAL]
    assert ids(traces, "test") == [], "test clips are not read"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"learn_from": {BEFORE}}, "of versions 0.8; choose"),
        ({"purpose": Purpose.TRAIN}, "it has no traces for train, but for calibration, evaluation"),
    ],
)
def test_it_is_said_which_traces_an_archive_has_where_it_lacks_those_asked_for(
    tmp_path: Path, change: dict[str, object], fault: str
):
    archive = archived(tmp_path, *stage_groups(set()))
    with pytest.raises(DataError, match=fault):
        find_traces(archive, query(**change), CalibrateConfig(), LABELS)
