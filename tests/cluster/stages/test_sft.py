"""Supervised stages that learn rationales: what they learn, in which prompt, from which weights,
and how they are measured; engines and learner are fakes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.config.recipe import RunConfig
from cluster.inputs.from_run import weights_hash
from cluster.inputs.policies import read_policies
from cluster.run_dir import RunDir
from learner.shared_prefix.rows import Row
from rollout.prompt import RationalePrompt
from rollout.rationales.rationale_file import read_rationales
from tests.cluster.session_fakes import NAMES, TEACHER, load_renderer, make_config, make_samples
from tests.cluster.stages.chain_fakes import Attempt, result, run_chain
from wire.errors import DataError
from wire.types import Sample, stable_seed

SAMPLES = [replace(s, extra={"is": s.id}) for s in make_samples()]  # 8 train clips, 4 test clips
K = 2
WRITES = {"name": "why", "kind": "rationales", "num_rationales": K, "from": "base"}
STAGE1 = {"name": "stage1", "kind": "sft", "data": "rationales", "from": "base", "epochs": 1}
STAGE2 = {"name": "rbft", "kind": "sft", "data": "labels", "from": "stage1", "epochs": 2}
CONTROL = {"name": "labels", "kind": "sft", "data": "labels", "from": "base", "epochs": 2}


def explain(weights: str, sample: Sample, index: int) -> str:
    """The second rationale of every clip but train-3 names another label; train-3 has none."""
    other = next(name for name in NAMES if name != sample.label)
    label = sample.label if index == 0 and sample.id != "train-3" else other
    return f"Number {index}: it goes up.\nClassification: {label}"


async def run(
    path: Path, *stages: dict[str, Any], **changes: Any
) -> tuple[RunDir, Attempt, RunConfig]:
    config = make_config(stages=list(stages), **changes)
    run_dir = RunDir.open(path / "run", config, resume=False, overwrite=False)
    return run_dir, await run_chain(run_dir, config, write=explain, samples=SAMPLES), config


def rows_of(attempt: Attempt, first: int, count: int) -> list[Row]:
    """Rows of some updates of an attempt."""
    return [row for _, rows in attempt.learner.steps[first : first + count] for row in rows]


def prompt_id(video: str, ask: Any) -> int:
    """What tells prompts apart that the fake engines make."""
    return stable_seed(video, str(ask))


def texts(rows: Sequence[Row]) -> list[str]:
    return sorted(load_renderer().text(row.responses[0].token_ids) for row in rows)


def of_train() -> list[Sample]:
    return [sample for sample in SAMPLES if sample.split == "train"]


@pytest.mark.parametrize("hint", ["remove", "keep"])
async def test_kept_rationales_are_learned_whole_with_or_without_the_label_in_the_prompt(
    tmp_path: Path, hint: str
):
    run_dir, attempt, _ = await run(tmp_path, WRITES, {**STAGE1, "hint": hint})
    kept = [one for one in read_rationales(run_dir.path, "why") if one.kept]
    assert len(kept) == 7
    rows = rows_of(attempt, 0, 4)
    assert texts(rows) == sorted(one.text for one in kept)
    ask = RationalePrompt(hint=hint == "keep")
    assert all(row.prompt.token_ids[1] == prompt_id(row.video, ask) for row in rows)
    left = result(run_dir, "stage1")
    assert (left["num_rationales"], left["num_clips"], left["cost"]["num_updates"]) == (7, 7, 4)
    assert "num_labels" not in left


async def test_only_so_many_of_a_clip_are_learned(tmp_path: Path):
    every = {**WRITES, "filters": {"parse": False, "contradiction": False}}
    for number, (limit, learned) in enumerate([(None, 16), (1, 8)]):
        stage = STAGE1 if limit is None else {**STAGE1, "num_rationales": limit}
        run_dir, _, config = await run(tmp_path / str(number), every, stage)
        assert result(run_dir, "stage1")["num_rationales"] == learned
        work = config.chain["stage1"].work(SAMPLES, config.rollout)
        assert (work.clips, work.examples, work.updates) == (8, learned, learned // 2)


async def test_captions_are_learned_in_the_prompt_that_they_were_written_in(tmp_path: Path):
    _, attempt, _ = await run(tmp_path, {**WRITES, "task": "caption"}, STAGE1)
    rows = rows_of(attempt, 0, 8)
    assert len(rows) == 16, "no label is looked for"
    assert all(row.prompt.token_ids[1] == prompt_id(row.video, "caption") for row in rows)


async def test_both_stages_in_one_learn_rationales_and_labels(tmp_path: Path):
    run_dir, attempt, config = await run(tmp_path, WRITES, {**STAGE1, "with_labels": True})
    rows = rows_of(attempt, 0, 8)
    asked = [row.prompt.token_ids[1] == prompt_id(row.video, "label") for row in rows]
    labels = [row for row, of_label in zip(rows, asked, strict=True) if of_label]
    assert texts(labels) == sorted(sample.label for sample in of_train())
    left = result(run_dir, "stage1")
    assert (left["num_rationales"], left["num_labels"], len(rows)) == (7, 8, 15)
    assert config.chain["stage1"].work(SAMPLES, config.rollout).examples == 8 * K + 8


async def test_a_teachers_traces_and_labels_are_learned_in_one_and_measured_by_the_label(
    tmp_path: Path,
):
    taught = {"name": "both", "kind": "sft", "with_labels": True}
    run_dir, attempt, config = await run(tmp_path, taught)
    rows = attempt.learner.steps
    learned = {(row.video, row.prompt.token_ids[1]) for _, batch in rows for row in batch}
    clips = [sample.video for sample in of_train()]
    assert learned == {(clip, prompt_id(clip, ask)) for clip in clips for ask in ("trace", "label")}
    left = result(run_dir, "both")
    assert (left["num_traces"], left["num_labels"]) == (8, 8)
    assert config.chain["both"].asks_labels
    assert config.chain["both"].work(SAMPLES, config.rollout).examples == 16


async def test_a_teachers_rationales_are_the_traces_of_the_manifest(tmp_path: Path):
    _, attempt, _ = await run(tmp_path, {**STAGE1, "rationales": "manifest"})
    rows = rows_of(attempt, 0, 4)
    assert texts(rows) == [TEACHER] * 8
    ask = RationalePrompt(hint=False)
    assert all(row.prompt.token_ids[1] == prompt_id(row.video, ask) for row in rows)


async def test_rationales_as_traces_are_a_cold_start_that_ends_with_the_label(tmp_path: Path):
    grpo = {"name": "grpo", "kind": "grpo", "num_steps": 1}
    run_dir, attempt, _ = await run(tmp_path, WRITES, {**STAGE1, "as_trace": True}, grpo)
    rows = rows_of(attempt, 0, 4)
    labels = {sample.video: sample.label for sample in SAMPLES}
    for row in rows:
        trace = f"<think>Number 0: it goes up.</think><answer>{labels[row.video]}</answer>"
        assert load_renderer().text(row.responses[0].token_ids) == trace
        assert row.prompt.token_ids[1] == prompt_id(row.video, "trace")
    assert result(run_dir, "stage1")["inference"]["generated_tokens"] > 0, "measured as it writes"
    left = [(run_dir.model(name) / "weights").read_text() for name in ("stage1", "grpo")]
    assert left[1].startswith(left[0] + "+"), "GRPO goes on from it"


async def test_stage_two_starts_from_the_weights_of_stage_one_and_the_control_from_the_base(
    tmp_path: Path,
):
    run_dir, _, config = await run(tmp_path, WRITES, STAGE1, STAGE2, CONTROL)
    one, two, control = (result(run_dir, name) for name in ("stage1", "rbft", "labels"))
    assert two["started_from"] == {
        **{"stage": "stage1", "version_step": config.chain.last_step("stage1")},
        "weights_sha256": one["weights_sha256"],
    }
    for name, left in (("stage1", one), ("rbft", two), ("labels", control)):
        assert left["weights_sha256"] == weights_hash(run_dir.model(name))
    base = {"stage": "base", "version_step": 0, "weights_sha256": weights_hash(config.model)}
    assert one["started_from"] == control["started_from"] == base
    assert len({one["weights_sha256"], two["weights_sha256"], base["weights_sha256"]}) == 3
    notes = {note.stage: note.weights_sha256 for note in read_policies(run_dir.archive)}
    assert notes["stage1"] == one["weights_sha256"]


async def test_rb_ft_answers_at_the_cost_of_label_only_sft(tmp_path: Path):
    run_dir, attempt, _ = await run(tmp_path, WRITES, STAGE1, STAGE2, CONTROL)
    two, control = result(run_dir, "rbft"), result(run_dir, "labels")
    costs = [{**left["inference"], "seconds": None} for left in (two, control)]
    assert costs[0] == costs[1]
    assert (costs[0]["generated_tokens"], costs[0]["prompt_tokens"]) == (0, 3)
    asked = [row.prompt for row in attempt.learner.scored]
    assert asked[4:8] == asked[8:12], "stage II and the control, after stage I's own measurement"
    assert two["cost"] == control["cost"], "the same clips, epochs and batches"


async def test_nothing_kept_of_the_clips_to_learn_from_is_an_error(tmp_path: Path):
    only = {"splits": ["train"], "where": {"is": "train-3"}}
    with pytest.raises(DataError, match="why has kept no rationale of the clips that stage1 learn"):
        await run(tmp_path, WRITES, {**STAGE1, "clips": only})
