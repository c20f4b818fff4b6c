"""The control arms' logic; engines and learner are fakes, all else is real."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.predictions import read_predictions
from cluster.config.arm_names import ARMS, ArmName
from cluster.config.controls import own_step
from cluster.config.kinds.sft import SftStage
from cluster.controls.arm_inputs import policy_answers, trained_clips
from cluster.controls.arms import arm_run, check_arms, run_controls
from cluster.inputs.samples import SampleSplits
from cluster.run import run_each
from cluster.stages.evaluation import evaluate_policy
from rollout.prompt import VerdictPrompt
from rollout.sampler import Sampler
from tests.cluster.session_fakes import (
    FIRST_STEP,
    NAMES,
    TEACHER,
    FakeMemory,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
    right,
    run_one,
)
from wire.archive.archive import read_groups
from wire.errors import ConfigError, DataError
from wire.types import Sample, Split, TraceGroup

CONFIG = make_config()
STAGES = CONFIG.chain.names
SAMPLES = make_samples()
AFTER_GRPO = ("grpo", FIRST_STEP + CONFIG.grpo.num_steps)
NUM_TEST, NUM_CAL, NUM_TRAIN = 4, 5, 8
VERDICT_EXAMPLES = NUM_CAL * 2
VERDICT_UPDATES = 2 * 3  # epochs, batches of 4


async def run(
    path: Path,
    *arms: ArmName,
    write: Callable[[str, Sample, int], str] = right,
    remember: bool = False,
    **changes: Any,
) -> Any:
    """Run arms beside finished stages of which the GRPO one has its traces in the archive.

    Returns the session's parts, and the results by arm. ``remember``: the learner finds likely what
    the engines wrote on the test clips, and nothing else.
    """
    config = make_config(**changes)
    run_dir = make_run_dir(path, config, *STAGES)
    with open_fakes(config, run_dir, SAMPLES, AFTER_GRPO) as (session, engines, _, _):
        engines.write = write
        await evaluate_grpo(session)
    groups = [g for g in read_groups(run_dir.archive) if g.traces]
    with open_fakes(config, run_dir, SAMPLES, ("coldstart", FIRST_STEP)) as found:
        session, engines, learner, metrics = found
        engines.write = write
        if remember:
            learner.memory = [
                (*g.prompt.token_ids, *g.traces[0].completion.token_ids) for g in groups
            ]
        memory: Any = FakeMemory()
        await run_each(session, arms, arm_run, memory)
        return session, engines, learner, metrics, {arm: run_dir.result(arm) for arm in arms}


async def evaluate_grpo(session: Any) -> None:
    """Leaves the traces and predictions that the GRPO stage leaves."""
    config = session.config
    samples = session.data.of(config.evaluate.split)
    await evaluate_policy(session, "grpo", samples, config.evaluate.temperature)


def groups_of(session: Any, name: str) -> list[TraceGroup]:
    return [g for g in read_groups(session.run_dir.archive) if g.group_id.startswith(f"{name}/")]


# --- weights and versions


@pytest.mark.parametrize(
    ("arm", "started", "wrote"),
    [
        ("coldstart_val", [], "coldstart"),
        ("coldstart_2x", ["base-model"], "base-model" + "+" * 2 * 3 * 4),
        ("rejection", ["coldstart"], "coldstart"),
        ("vote", [], "grpo"),
        ("trace_accuracy", [], "grpo"),
        ("blank", [], "grpo"),
        ("shuffled", [], "grpo"),
        ("verdict_teacher", ["grpo"], None),
        ("verdict_train", ["grpo"], "grpo"),
        ("video_only_1x", ["grpo"], None),
        ("verdict_blank", [], "grpo"),
        ("verdict_shuffled", [], "grpo"),
        ("grpo_more", ["grpo"], "grpo"),
    ],
)
async def test_an_arm_starts_from_its_own_weights(
    tmp_path: Path, arm: ArmName, started: list[str], wrote: str | None
):
    _, engines, learner, _, _ = await run(tmp_path, arm)
    trained_from = [weights for weights, _ in learner.steps if not weights.endswith("+")]
    assert trained_from == started
    assert [weights for weights, _ in engines.wrote][:1] == [w for w in [wrote] if w]


async def test_a_verdict_on_a_view_is_the_calibrated_models_and_sees_the_view(tmp_path: Path):
    _, engines, learner, _, _ = await run(tmp_path, "verdict_blank")
    assert learner.weights == "calibrated"
    videos = {video for _, video in engines.wrote}
    assert videos == {row.video for row in learner.scored if len(row.responses) > 1}
    assert videos == {f"/clips/test-{i}.mp4#view=blank" for i in range(NUM_TEST)}


async def test_every_version_names_one_set_of_weights_over_all_arms(tmp_path: Path):
    session, engines, _, _, _ = await run(tmp_path, *ARMS)
    versions = [version for version, _ in engines.held]
    assert len(set(versions)) == len(versions)
    weights = dict(engines.held)
    of = {arm: {weights[g.policy_version] for g in groups_of(session, arm)} for arm in ARMS}
    written = {arm: found for arm, found in of.items() if found}
    grpo = {"vote", "trace_accuracy", "blank", "shuffled", "verdict_train", "verdict_blank"}
    for arm in grpo | {"verdict_shuffled"}:
        assert written.pop(arm) == {"grpo"}
    assert written.pop("coldstart_val") == {"coldstart"}
    assert len(written.pop("rejection")) == 2
    assert written.pop("coldstart_2x") == {"base-model" + "+" * 24}
    assert written.pop("grpo_more") == {"grpo", "grpo+", "grpo++", "grpo+++"}
    assert not written


async def test_engines_get_new_weights_as_seldom_as_can_be(tmp_path: Path):
    _, engines, _, _, _ = await run(tmp_path, *ARMS)
    loads = [weights for _, weights in sorted(engines.held, key=lambda held: held[0].step)]
    own = 1 + 1 + (1 + CONFIG.grpo.num_steps)  # rejection, coldstart_2x, grpo_more with its start
    assert len(loads) == 1 + 1 + own, "the cold start, GRPO once, and what arms trained"


@given(num_steps=st.integers(1, 10_000))
def test_the_versions_of_arms_and_stages_never_meet(num_steps: int):
    config = make_config(grpo={"num_steps": num_steps})
    first = [0, *sorted(own_step(config, arm) for arm in ARMS)]
    assert all(b - a > FIRST_STEP + num_steps for a, b in itertools.pairwise(first))


# --- as much as what they are compared with


async def test_other_verdicts_get_the_examples_and_updates_of_the_stages_verdict(tmp_path: Path):
    run_dir = make_run_dir(tmp_path / "stage", CONFIG, *STAGES[:3])
    with open_fakes(CONFIG, run_dir, SAMPLES, AFTER_GRPO) as (session, _, learner, _):
        await run_one(session, "calibrated")
        sizes = [len(rows) for _, rows in learner.steps]
    assert (len(sizes), sum(sizes) // 2) == (VERDICT_UPDATES, VERDICT_EXAMPLES)
    for arm in ("verdict_teacher", "verdict_train", "video_only_1x"):
        _, _, learner, metrics, results = await run(tmp_path / arm, arm)
        assert [len(rows) for _, rows in learner.steps] == sizes
        assert results[arm]["cost"]["num_updates"] == VERDICT_UPDATES
        assert metrics.lines == [(arm, step + 1) for step in range(VERDICT_UPDATES)]


@pytest.mark.parametrize(("arm", "times"), [("video_only_3x", 3), ("video_only_10x", 10)])
async def test_video_only_is_trained_so_many_times_as_long_and_never_shown_a_trace(
    tmp_path: Path, arm: ArmName, times: int
):
    session, engines, learner, _, results = await run(tmp_path, arm)
    assert len(learner.steps) == results[arm]["cost"]["num_updates"] == times * VERDICT_UPDATES
    assert "label" in engines.asked
    assert not any(isinstance(ask, VerdictPrompt) for ask in engines.asked)
    found = read_predictions(session.run_dir.predictions(arm))
    assert [(p.trace, len(p.probabilities or ())) for p in found] == [(None, 5)] * NUM_TEST


async def test_the_teachers_verdict_learns_its_traces_and_is_asked_on_the_policys(tmp_path: Path):
    session, engines, _, _, _ = await run(tmp_path, "verdict_teacher")
    shown = [ask.trace for ask in engines.asked if isinstance(ask, VerdictPrompt)]
    taught, own = shown[:VERDICT_EXAMPLES], shown[VERDICT_EXAMPLES:]
    assert set(taught) == {TEACHER}
    assert own == [p.trace for p in read_predictions(session.run_dir.predictions("grpo"))]


async def test_rejection_writes_as_much_as_grpo_and_learns_each_good_text_once(tmp_path: Path):
    def write(weights: str, sample: Sample, index: int) -> str:
        label = sample.label if sample.id != "train-0" else "none of them"
        return f"<think>same</think><answer>{label}</answer>"

    session, _, learner, _, results = await run(tmp_path, "rejection", write=write)
    found = results["rejection"]
    assert found["num_rollouts"] == found["cost"]["num_rollouts"] == 3 * 2 * 2
    sampler = Sampler([s for s in SAMPLES if s.split is Split.TRAIN], CONFIG.seed)
    met = {sampler.at(place).id for place in range(6)}
    assert found["num_kept"] == found["num_clips_kept"] == len(met - {"train-0"})
    assert sum(len(rows) for _, rows in learner.steps) == 3 * found["num_kept"]
    texts = [session.renderer.text(row.responses[0].token_ids) for row in learner.steps[0][1]]
    assert all(text.startswith("<think>same</think>") for text in texts)


async def test_rejection_without_a_good_trace_says_so(tmp_path: Path):
    with pytest.raises(DataError, match="none of 12 traces earned the full reward"):
        await run(tmp_path, "rejection", write=lambda *_: "no idea")


async def test_grpo_more_trains_on_the_calibration_clips_too(tmp_path: Path):
    _, engines, learner, metrics, results = await run(
        tmp_path, "grpo_more", grpo={"num_steps": 9, "groups_per_step": 2}
    )
    videos = {video for _, video in engines.wrote}
    assert len(videos) == NUM_TRAIN + NUM_CAL + NUM_TEST
    assert len(learner.steps) == 9
    assert metrics.lines == [("grpo_more", step) for step in range(1, 10)]
    assert results["grpo_more"]["cost"]["num_rollouts"] == 9 * 2 * 2


async def test_a_cold_start_of_twice_the_epochs_is_measured_on_val(tmp_path: Path):
    session, engines, learner, _, results = await run(tmp_path, "coldstart_2x")
    assert len(learner.steps) == 2 * 3 * NUM_TRAIN // 2
    assert {video for _, video in engines.wrote} == {"/clips/val-0.mp4", "/clips/val-1.mp4"}
    assert results["coldstart_2x"]["split"] == "val"
    assert not session.run_dir.model("coldstart_2x").exists()
    assert not session.run_dir.checkpoints("coldstart_2x").exists()


def test_the_cold_start_reads_only_train_clips_with_a_trace():
    samples = [replace(s, trace=None) if s.id == "train-3" else s for s in SAMPLES]
    stage = CONFIG.chain["coldstart"]
    assert isinstance(stage, SftStage)
    found = {s.id for s in stage.taught(samples)}
    assert found == {f"train-{i}" for i in range(NUM_TRAIN)} - {"train-3"}


@pytest.mark.parametrize(("num_steps", "expected"), [(1, 2), (2, 4), (50, NUM_CAL)])
def test_train_clips_are_those_that_grpo_met_and_no_more_than_calibration_has(
    num_steps: int, expected: int
):
    config = make_config(grpo={"num_steps": num_steps, "groups_per_step": 2})
    found = trained_clips(config, SampleSplits(samples=SAMPLES))
    assert len({s.id for s in found}) == len(found) == expected
    sampler = Sampler([s for s in SAMPLES if s.split is Split.TRAIN], config.seed)
    assert {s.id for s in found} <= {sampler.at(place).id for place in range(2 * num_steps)}


# --- answers


async def test_the_policys_probabilities_favour_the_answer_that_it_wrote(tmp_path: Path):
    def write(weights: str, sample: Sample, index: int) -> str:
        said = {"test-0": "undo", "test-1": "zigzag", "test-2": " relapse "}.get(sample.id)
        return f"<think>up</think><answer>{said}</answer>" if said else "<think>lost"

    session, _, learner, _, _ = await run(
        tmp_path, "policy_probability", write=write, remember=True
    )
    found = read_predictions(session.run_dir.predictions("policy_probability"))
    assert [p.predicted for p in found] == ["undo", "zigzag", "relapse", None]
    for prediction in found[:3]:
        assert prediction.probabilities is not None
        place = max(range(5), key=lambda i: prediction.probabilities[i])
        assert NAMES[place] == prediction.predicted
        assert prediction.confidence == max(prediction.probabilities) > 0.3
    assert (found[3].confidence, found[3].probabilities) == (0.0, None)
    assert {len(row.responses) for row in learner.scored} == {5}, "one row for all labels"
    assert learner.weights == "grpo"


async def test_traces_that_the_archive_has_lost_are_named(tmp_path: Path):
    run_dir = make_run_dir(tmp_path, CONFIG, *STAGES)
    with open_fakes(CONFIG, run_dir, SAMPLES, AFTER_GRPO) as (session, engines, _, _):
        await evaluate_grpo(session)
        engines.write = lambda *_: "<think>else</think><answer>undo</answer>"
        for file in run_dir.archive.rglob("*.parquet"):
            file.unlink()
        memory: Any = FakeMemory()
        with pytest.raises(DataError, match="traces of 4 clips, such as 'test-0'"):
            await run_each(session, ["policy_probability"], arm_run, memory)


async def test_a_vote_counts_parsed_answers_and_breaks_ties_by_name(tmp_path: Path):
    votes = {
        "test-0": ["zigzag", "undo", "zigzag", "?"],
        "test-1": ["zigzag", "undo", "?", "?"],
        "test-2": ["?", "?", "?", "?"],
        "test-3": ["varied"] * 4,
    }

    def write(weights: str, sample: Sample, index: int) -> str:
        if sample.id not in votes:
            return right(weights, sample, index)
        return f"<think>up</think><answer>{votes[sample.id][index % 4]}</answer>"

    session, _, _, _, results = await run(tmp_path, "vote", write=write, controls={"num_votes": 4})
    found = read_predictions(session.run_dir.predictions("vote"))
    assert [p.predicted for p in found] == ["zigzag", "undo", None, "varied"]
    assert [p.confidence for p in found] == pytest.approx([2 / 3, 1 / 2, 0, 1])
    assert found[1].probabilities == (0, 0, 0.5, 0, 0.5)
    # test-2 is undo, test-3 varied, by make_samples; of 16 traces those of test-3 are right
    assert results["vote"]["trace_accuracy"] == 4 / 16
    assert results["vote"]["cost"]["num_rollouts"] == 16


async def test_trace_accuracy_is_that_of_each_split(tmp_path: Path):
    def write(weights: str, sample: Sample, index: int) -> str:
        good = sample.split is Split.TRAIN or (sample.split is Split.CAL and index == 0)
        return f"<think>up</think><answer>{sample.label if good else '?'}</answer>"

    _, _, _, _, results = await run(tmp_path, "trace_accuracy", write=write)
    found = results["trace_accuracy"]
    assert (found["train"], found["val"], found["cal"]) == (1.0, 0.0, 0.5)
    assert found["num_clips"] == {"train": NUM_CAL, "val": 2, "cal": NUM_CAL}
    assert "evaluation" not in found


# --- refusals and resuming


async def test_of_traces_written_again_after_a_crash_the_last_count(tmp_path: Path):
    run_dir = make_run_dir(tmp_path, CONFIG, *STAGES)
    for attempt in ("first", "second"):
        with open_fakes(CONFIG, run_dir, SAMPLES, AFTER_GRPO) as (session, engines, _, _):
            text = f"<think>{attempt}</think><answer>undo</answer>"
            engines.write = lambda *_, text=text: text
            session.engine_weights_step += attempt == "second"  # else they were taken up
            engines.version = session.version(session.engine_weights_step)
            await evaluate_policy(session, "blank", session.data.of(Split.TEST), 0.01)
            found = (await policy_answers(session, "blank")).traces.groups
            assert {group.traces[0].completion.text for group in found} == {text}
            assert len(found) == NUM_TEST


async def test_finished_arms_are_skipped_and_summed_up(tmp_path: Path):
    run_dir = make_run_dir(tmp_path, CONFIG, *STAGES)
    (await run(tmp_path / "other", "vote"))[0]
    spent = {"num_rollouts": 0, "num_updates": 0, "num_generated_tokens": 0}
    for arm in ARMS:
        result = run_dir.result("grpo") | {"split": "test", "cost": spent, "num_failed": 0}
        run_dir.finish(arm, result)
    before = [run_dir.result(name) for name in (*STAGES, *ARMS)]
    found = await run_controls(CONFIG, run_dir)  # would need Ray if anything were left to do
    assert [row["name"] for row in found["controls"]] == list(ARMS)
    assert found["controls"][0]["cost"] == spent
    assert [row["name"] for row in found["stages"]] == list(STAGES)
    assert [run_dir.result(name) for name in (*STAGES, *ARMS)] == before


@pytest.mark.parametrize(
    ("finished", "arms", "message"),
    [
        ((), ["coldstart_2x"], "coldstart_2x needs the model that stage coldstart leaves"),
        (("coldstart",), ["rejection", "vote"], "vote needs the model that stage grpo leaves"),
        (STAGES[:3], ["verdict_blank"], "verdict_blank needs .* stage calibrated leaves"),
    ],
)
async def test_arms_of_unfinished_stages_are_refused(
    tmp_path: Path, finished: Sequence[str], arms: list[str], message: str
):
    run_dir = make_run_dir(tmp_path, CONFIG, *finished)
    config = make_config(controls={"arms": arms})
    with pytest.raises(ConfigError, match=message):
        await run_controls(config, run_dir)


def test_calibration_clips_without_a_teachers_trace_are_refused_where_they_matter():
    samples = [replace(s, trace=None) if s.id == "cal-2" else s for s in SAMPLES]
    data = SampleSplits(samples=samples)
    with pytest.raises(DataError, match=r"1 of 5 samples with split='cal' have none.*'cal-2'"):
        check_arms(CONFIG, data, ["vote", "verdict_teacher"])
    check_arms(CONFIG, data, ["vote", "verdict_train"])


@pytest.mark.parametrize(
    ("split", "arm"),
    [("val", "coldstart_val"), ("val", "trace_accuracy"), ("cal", "grpo_more")],
)
def test_an_arm_needs_the_clips_that_it_works_on(split: str, arm: ArmName):
    data = SampleSplits(samples=make_samples(**{split: 0}))
    with pytest.raises(DataError, match=f"{arm}: .*split='{split}'.*leave the arm out"):
        check_arms(CONFIG, data, [arm])
    check_arms(CONFIG, data, ["vote"])


def test_an_unknown_arm_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="policy_probability"):
        make_config(controls={"arms": ["votes"]})


def test_arms_are_refused_beside_stages_that_read_narratives(tmp_path: Path):
    stages = [
        {"name": "vst", "kind": "semantic_tokens"},
        {"name": "grpo", "kind": "grpo", "input": "tokens"},
    ]
    config = make_config(stages=stages)
    with pytest.raises(ConfigError, match=r"stage grpo reads narratives .* kind evaluate, such as"):
        asyncio.run(run_controls(config, make_run_dir(tmp_path, config)))
