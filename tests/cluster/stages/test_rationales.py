"""Stages that write rationales: run and resumed on the session's fakes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.config.recipe import RunConfig
from cluster.run_dir import RunDir
from rollout.prompt import RationalePrompt
from rollout.rationales.rationale_file import rationale_file, read_rationales
from tests.cluster.session_fakes import make_config, make_samples
from tests.cluster.stages.chain_fakes import Attempt, Killed, groups_of, result, run_chain
from wire.archive.archive import read_groups
from wire.errors import ConfigError, DataError
from wire.types import Failure, FailureKind, Purpose, Sample

SAMPLES = make_samples(train=12)
K = 2
STAGE = {"name": "why", "kind": "rationales", "num_rationales": K, "max_length": 40}


def recipe(*stages: dict[str, Any], **changes: Any) -> RunConfig:
    rollout = {"group_size": 2, "dtype": "float32", "max_concurrency": 1}
    chain = list(stages) or [STAGE]
    return make_config(**{"stages": chain, "rollout": rollout} | changes)


def explain(weights: str, sample: Sample, index: int) -> str:
    """The second of a clip names another label, or none, by turns."""
    label = sample.label if index == 0 else ("?", "walk")[int(sample.id[-1]) % 2]
    return f"Number {index}: it goes up.\nClassification: {label}"


def killed_after(num_texts: int) -> Callable[[str, Sample, int], str]:
    left = num_texts

    def write(weights: str, sample: Sample, index: int) -> str:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return explain(weights, sample, index)

    return write


async def attempt(
    path: Path, config: RunConfig, *, resume: bool = False, **how: Any
) -> tuple[RunDir, Attempt]:
    run_dir = RunDir.open(path / "run", config, resume=resume, overwrite=False)
    try:
        how = {"samples": SAMPLES, "write": explain} | how
        return run_dir, await run_chain(run_dir, config, **how)
    finally:
        run_dir.close()


async def test_a_stage_writes_k_rationales_of_each_clip_and_keeps_what_passes(tmp_path: Path):
    run_dir, one = await attempt(tmp_path, recipe())
    written = read_rationales(run_dir.path, "why")
    train = [sample for sample in SAMPLES if sample.split == "train"]
    assert [(r.id, r.index) for r in written] == [(s.id, i) for s in train for i in range(K)]
    assert [r.kept for r in written] == [index % K == 0 for index in range(len(written))]
    assert {r.reason for r in written} == {"", "parse"}
    assert {sampling.max_tokens for sampling in one.engines.samplings} == {40}
    figures = result(run_dir, "why")["rationales"]
    assert (figures["num_written"], figures["num_kept"], figures["hint"]) == (24, 12, True)
    assert figures["filters"]["parse"] == {"on": True, "num": 12, "frac": 0.5, "num_dropped": 12}
    cost = result(run_dir, "why")["cost"]
    assert cost["num_rollouts"] == 24
    tokens = sum(len(t.completion.token_ids) for g in groups_of(run_dir, "why") for t in g.traces)
    assert cost["num_generated_tokens"] == tokens > 0


async def test_rationales_are_archived_with_a_purpose_of_their_own_and_judged_by_no_reward(
    tmp_path: Path,
):
    run_dir, _ = await attempt(tmp_path, recipe())
    groups = groups_of(run_dir, "why")
    assert {group.purpose for group in groups} == {Purpose.RATIONALE}
    outcomes = [trace.outcome for group in groups for trace in group.traces]
    assert {o.kind for o in outcomes if isinstance(o, Failure)} == {FailureKind.NOT_APPLICABLE}
    assert not [trace for group in groups for trace in group.scored], "no rewards, not zeros"
    assert len(outcomes) == 24


@pytest.mark.parametrize(
    ("settings", "ask"),
    [
        ({}, RationalePrompt(hint=True)),
        ({"hint": False}, RationalePrompt(hint=False)),
        ({"task": "caption"}, "caption"),
    ],
)
async def test_it_asks_with_the_hint_without_it_or_for_captions(
    tmp_path: Path, settings: dict[str, Any], ask: object
):
    run_dir, one = await attempt(tmp_path, recipe({**STAGE, **settings}))
    assert set(one.engines.asked) == {ask}
    assert result(run_dir, "why")["rationales"]["hint"] == (ask == RationalePrompt(hint=True))


async def test_captions_are_all_kept_that_are_whole_and_different(tmp_path: Path):
    run_dir, _ = await attempt(tmp_path, recipe({**STAGE, "task": "caption"}))
    assert all(one.kept and one.answer is None for one in read_rationales(run_dir.path, "why"))


async def test_it_writes_with_the_policy_that_it_starts_from(tmp_path: Path):
    labels = {"name": "labels", "kind": "sft", "data": "labels", "epochs": 1}
    _, one = await attempt(
        tmp_path,
        recipe(labels, {**STAGE, "from": "labels"}, {**STAGE, "name": "b", "from": "base"}),
    )
    weights = [name for name, video in one.engines.wrote]
    assert len(set(weights[:12])) == 1
    assert weights[0].startswith("base-model+")
    assert set(weights[12:]) == {"base-model"}


@pytest.mark.parametrize("moment", [1, 9, 16, 23])
async def test_a_stage_that_was_killed_writes_no_text_twice(tmp_path: Path, moment: int):
    whole, _ = await attempt(tmp_path / "whole", recipe())
    _, first = await attempt(tmp_path, recipe(), write=killed_after(moment), updates=10**9)
    assert not first.summary
    run_dir, second = await attempt(tmp_path, recipe(), resume=True)
    again = len(first.engines.wrote) + len(second.engines.wrote) - 12
    assert 0 < again <= 2, "those in flight"
    assert read_rationales(run_dir.path, "why") == read_rationales(whole.path, "why")
    ids = [group.group_id for group in read_groups(run_dir.archive)]
    assert len(set(ids)) == len(ids) == 12
    assert result(run_dir, "why")["rationales"] == result(whole, "why")["rationales"]


async def test_too_few_kept_end_the_run_and_the_texts_stay(tmp_path: Path):
    config = recipe({**STAGE, "min_kept_frac": 0.6})
    with pytest.raises(
        DataError, match=r"12 of 24 rationales kept.*not kept: 12 parse.*min_kept_frac = 0\.6"
    ):
        await attempt(tmp_path, config)
    run = tmp_path / "run"
    assert len(read_rationales(run, "why")) == 24
    assert not (run / "stages" / "why" / "done.json").exists()


async def test_none_kept_ends_the_run_whatever_the_share(tmp_path: Path):
    def parrot(weights: str, sample: Sample, index: int) -> str:
        return "Classification: " + sample.label

    with pytest.raises(DataError, match=r"0 of 24 rationales kept, of 0 clips; not kept: 24 empty"):
        await attempt(tmp_path, recipe({**STAGE, "min_kept_frac": 0}), write=parrot)


async def test_other_filters_judge_the_texts_that_are_there(tmp_path: Path):
    with pytest.raises(DataError):
        await attempt(tmp_path, recipe({**STAGE, "min_kept_frac": 0.9}))
    free = recipe({**STAGE, "min_kept_frac": 0.9, "filters": {"parse": False}})
    run_dir, second = await attempt(tmp_path, free, resume=True)
    assert not second.engines.wrote
    figures = result(run_dir, "why")["rationales"]
    assert (figures["num_kept"], figures["filters"]["parse"]["num"]) == (24, 12)
    with pytest.raises(ConfigError, match="filters"):
        RunDir.open(run_dir.path, recipe({**STAGE, "min_kept_frac": 0.9}), resume=True,
                    overwrite=False)  # fmt: skip


async def test_another_hint_is_refused_on_a_resume(tmp_path: Path):
    await attempt(tmp_path, recipe(), write=killed_after(3), updates=10**9)
    with pytest.raises(ConfigError, match="hint"):
        RunDir.open(tmp_path / "run", recipe({**STAGE, "hint": False}), resume=True,
                    overwrite=False)  # fmt: skip


async def test_figures_are_logged(tmp_path: Path):
    _, one = await attempt(tmp_path, recipe())
    names = {name for stage, name in one.metrics.names if stage == "eval"}
    assert {"why/kept_frac", "why/parse_frac", "why/leak_frac", "why/right_frac"} <= names


async def test_a_line_of_the_file_is_plain_json(tmp_path: Path):
    run_dir, _ = await attempt(tmp_path, recipe())
    lines = rationale_file(run_dir.path, "why").read_text().splitlines()
    assert set(json.loads(lines[0])) == {
        *("id", "video", "label", "text", "answer", "kept", "reason", "group_id", "index")
    }
    assert len(lines) == 24


async def test_the_clips_are_those_that_the_stage_selects(tmp_path: Path):
    samples = [replace(sample, extra={"seen": number % 3 == 0})
               for number, sample in enumerate(SAMPLES)]  # fmt: skip
    stage = {**STAGE, "clips": {"splits": ["train"], "where": {"seen": True}}}
    run_dir, _ = await attempt(tmp_path, recipe(stage), samples=samples)
    ids = {one.id for one in read_rationales(run_dir.path, "why")}
    assert ids == {"train-0", "train-3", "train-6", "train-9"}
