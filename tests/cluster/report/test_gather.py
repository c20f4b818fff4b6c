from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from calibrate.predictions import Prediction, write_predictions
from cluster.report import groups as groups_module
from cluster.report.archived import MAX_CHARS, index_archive
from cluster.report.clips import choose_clips
from cluster.report.curves import MAX_POINTS, read_curves
from cluster.report.gather import gather
from cluster.report.groups import choose_steps
from cluster.report.thumbs import Strip, strips
from cluster.status.heartbeat import heartbeat
from tests.calibrate.classifiers import measured_calibration
from tests.cluster.report.builders import (
    make_group,
    make_trace,
    write_clip,
    write_groups,
    write_metrics,
    write_run,
)
from tests.cluster.study.study_runs import make_run, write_arm
from video.config import VideoConfig
from wire.errors import ConfigError
from wire.types import PolicyVersion


def test_a_whole_run_is_gathered(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    report = gather(run.path, max_clips=100)
    assert report.notes == ()
    assert [arm.name for arm in report.arms] == ["base", "coldstart", "grpo", "calibrated", "vote"]
    assert [arm.evaluation.accuracy for arm in report.arms] == [0.0, 0.5, 0.7, 0.8, 0.9]
    assert report.run.sizes == {"train": 4, "val": 10, "cal": 2, "test": 10}
    assert report.run.num_with_trace == 4
    assert report.run.stages_left == ()
    assert report.run.peak_memory_gb == 1.5
    assert (report.num_clips, report.num_groups) == (10, 3)
    assert [one.sample_id for one in report.quarantined] == ["test-7"]


def test_a_published_classifier_is_gathered_by_its_stage(tmp_path: Path) -> None:
    report = gather(write_run(tmp_path / "r").path, max_clips=0)
    assert list(report.classifiers) == ["calibrated"]
    assert report.classifiers["calibrated"].calibration == measured_calibration()


def test_a_published_classifier_is_shown_beside_the_head(tmp_path: Path) -> None:
    shown = {one.name: one for one in gather(write_run(tmp_path / "r").path, max_clips=0).stages}
    assert (shown["head"].kind, shown["classifier"].kind) == ("head", "classifier")
    assert shown["classifier"].label == "Published classifier"


def test_a_classifier_that_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    write_arm(run, "calibrated", classifier={"method": "policy"})
    report = gather(run.path, max_clips=0)
    assert report.classifiers == {}
    assert any(note.startswith("classifier: ") for note in report.notes)


def test_stages_are_tested_in_their_order_and_arms_against_the_last(tmp_path: Path) -> None:
    report = gather(write_run(tmp_path / "r").path, max_clips=0)
    found = {(test.before, test.after): test for test in report.tests}
    assert list(found) == [
        ("base", "coldstart"),
        ("coldstart", "grpo"),
        ("grpo", "calibrated"),
        ("vote", "calibrated"),
    ]
    flips = found["grpo", "calibrated"].comparison.flips
    assert (flips.wrong_to_right, flips.right_to_wrong) == (2, 1)


def test_an_arm_on_other_clips_is_not_tested_against_the_stages(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    write_arm(run, "coldstart_val", split="val")
    report = gather(run.path, max_clips=0)
    assert "coldstart_val" in [arm.name for arm in report.arms]
    assert "coldstart_val" not in [test.before for test in report.tests]


def test_explanations_beside_labels_are_gathered_where_they_were_asked_for(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    write_arm(run, "calibrated", explanations={"agreement": 0.9, "supported_frac": 0.8})
    arms = {arm.name: arm.explanations for arm in gather(run.path, max_clips=0).arms}
    assert arms["calibrated"] == {"agreement": 0.9, "supported_frac": 0.8}
    assert arms["grpo"] is None


def test_reliability_bins_hold_every_clip_and_their_gaps_make_the_ece(tmp_path: Path) -> None:
    report = gather(write_run(tmp_path / "r").path, max_clips=0)
    arms = {arm.name: arm for arm in report.arms}
    assert arms["base"].reliability == () == arms["base"].coverage
    bins = arms["calibrated"].reliability
    assert sum(one.count for one in bins) == 10
    gaps = sum(one.count / 10 * abs(one.accuracy - one.confidence) for one in bins)
    assert gaps == pytest.approx(arms["calibrated"].evaluation.ece)
    assert arms["calibrated"].coverage[-1] == (1.0, pytest.approx(0.8))


def test_a_clip_has_what_each_stage_said_and_earned(tmp_path: Path) -> None:
    report = gather(write_run(tmp_path / "r").path, max_clips=100)
    clips = {clip.sample_id: clip for clip in report.clips}
    assert set(clips) == {f"test-{index}" for index in range(10)}
    clip = clips["test-2"]
    assert list(clip.answers) == ["base", "coldstart", "grpo", "calibrated"]
    assert clip.answers["calibrated"].probabilities == pytest.approx((0.1, 0.9))
    written = clip.answers["grpo"].written
    assert written is not None
    assert (written.reward, written.parts) == (2.0, {"accuracy": 1.0, "format": 1.0})
    assert (written.num_tokens, written.version) == (3, "0.1")
    assert clip.others == {"vote": ("a", 0.9)}
    failed = clips["test-7"].answers["calibrated"]
    assert failed.written is None
    assert [failure.kind for failure in failed.failures] == ["decode"]


def test_failed_clips_come_first_then_wrong_then_changed(tmp_path: Path) -> None:
    report = gather(write_run(tmp_path / "r").path, max_clips=100)
    order = [clip.sample_id for clip in report.clips]
    assert order[0] == "test-7"
    assert set(order[1:3]) == {"test-2", "test-5"}  # wrong at the end
    assert set(order[3:7]) == {"test-0", "test-1", "test-3", "test-4"}  # became right


def test_where_few_clips_are_shown_some_are_of_those_that_are_right_and_labels_take_turns() -> None:
    def answers(num_wrong: int) -> list[Prediction]:
        return [
            Prediction(
                sample_id=f"c{index}",
                label="rare" if index % 50 == 0 else "common",
                predicted="neither"
                if index < num_wrong
                else "rare"
                if index % 50 == 0
                else "common",
                confidence=0.9,
                probabilities=None,
                trace=None,
            )
            for index in range(1000)
        ]

    chosen = choose_clips({"grpo": answers(800)}, {}, max_clips=20, chain=("grpo",))
    wrong = [name for name in chosen if int(name[1:]) < 800]
    assert (len(chosen), len(wrong)) == (20, 17)
    assert sum(int(name[1:]) % 50 == 0 for name in wrong) >= 8
    assert choose_clips({"grpo": answers(800)}, {}, max_clips=0, chain=("grpo",)) == []


def test_a_group_has_advantages_and_answers_and_its_failure(tmp_path: Path) -> None:
    report = gather(write_run(tmp_path / "r").path, max_clips=0)
    groups = {group.group_id: group for group in report.groups}
    mixed = groups["grpo/00000001"].traces
    assert [trace.answer for trace in mixed] == ["a", "b"]
    assert [trace.advantage for trace in mixed] == pytest.approx([0.7071, -0.7071], abs=1e-3)
    half = groups["grpo/00000002"].traces
    assert half[1].advantage is None
    assert half[1].written.failure is not None
    assert half[1].written.failure.culprit == "mine.py:score"
    assert report.groups[0].group_id == "grpo/00000002"  # failed first


def test_groups_are_from_steps_spread_over_the_run_and_of_the_newest_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "r")
    for attempt, steps in ((0, range(1, 8)), (1, range(5, 31))):
        groups = [
            make_group(
                f"grpo/{step:08d}",
                [make_trace("a"), make_trace("b")],
                version=PolicyVersion(attempt=attempt, step=step),
            )
            for step in steps
        ]
        write_groups(run, *groups, attempt=attempt)
    places = choose_steps(index_archive(run.archive, ("grpo",), "grpo"), 4)
    assert places == [(0, 1), (1, 11), (1, 20), (1, 30)]
    monkeypatch.setattr(groups_module, "_NUM_STEPS", 4)
    found = {group.version for group in gather(run.path, max_clips=0).groups}
    assert {"0.1", "1.30"} <= found
    assert "0.6" not in found


def test_a_superseded_attempt_is_kept_apart_from_the_curve(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    (grpo,) = [one for one in read_curves(run.path / "metrics.jsonl") if one.name == "grpo"]
    assert grpo.kept.steps == tuple(range(1, 11))
    assert grpo.superseded.steps == (4, 5, 6)
    assert [(one.step, one.attempt) for one in grpo.resumed] == [(4, 1)]
    assert grpo.kept.values["reward/mean"][-1] == 1.0


def test_steps_after_the_point_of_a_resume_are_lost_before_they_are_done_again(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "r")
    write_metrics(run, "grpo", range(1, 11), **{"reward/mean": 9.0})
    write_metrics(run, "grpo", range(6, 8), attempt=1, **{"reward/mean": 1.0})
    (grpo,) = read_curves(run.path / "metrics.jsonl")
    assert grpo.kept.steps == tuple(range(1, 8))
    assert grpo.kept.values["reward/mean"] == (9.0,) * 5 + (1.0,) * 2
    assert grpo.superseded.steps == (6, 7, 8, 9, 10)


def test_long_curves_are_thinned_and_a_maximum_stays_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    steps = range(1, MAX_POINTS * 3 + 1)
    write_metrics(
        run, "grpo", steps, **{"x/max": lambda s: s == 5, "x/mean": 1.0, "odd": lambda s: None}
    )
    (grpo,) = read_curves(run.path / "metrics.jsonl")
    assert grpo.num_steps == MAX_POINTS * 3
    assert len(grpo.kept.steps) == MAX_POINTS
    assert grpo.kept.steps[-1] == steps[-1]


@pytest.mark.parametrize("line", ['{"stage": "grpo", "st', "null", "{}", "\xff\xfe"])
def test_a_torn_or_foreign_line_of_metrics_is_passed_over(tmp_path: Path, line: str) -> None:
    run = make_run(tmp_path / "r")
    write_metrics(run, "grpo", [1, 2], **{"reward/mean": 1.0, "odd": float("nan")})
    with (run.path / "metrics.jsonl").open("a", encoding="latin-1") as file:
        file.write(line)
    (grpo,) = read_curves(run.path / "metrics.jsonl")
    assert grpo.kept.steps == (1, 2)
    assert grpo.kept.values["odd"] == (None, None)


def test_a_run_that_has_only_begun_is_a_report_without_figures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    report = gather(run.path, max_clips=100)
    assert (report.arms, report.curves, report.clips, report.groups) == ((), (), (), ())
    assert report.run.stages_left == ("base", "coldstart", "grpo", "calibrated")
    assert report.notes == ()


def test_a_run_that_failed_says_with_what(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    with suppress(ConfigError), heartbeat(run, ("base",), "again"):
        assert gather(run.path, max_clips=100).run.failure == ""
        raise ConfigError("grpo learns nothing")
    assert gather(run.path, max_clips=100).run.failure == "grpo learns nothing"


def test_a_journal_that_is_still_being_written_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    write_groups(run, make_group("grpo/00000001", [make_trace()]), compact=False)
    journal = next(run.archive.glob("journal-*"))
    before = journal.read_bytes()
    assert len(gather(run.path, max_clips=0).groups) == 1
    assert journal.read_bytes() == before


def test_gathering_changes_no_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")

    def state() -> dict[str, Any]:
        return {str(f): (f.stat().st_mtime_ns, f.stat().st_size) for f in tmp_path.rglob("*")}

    before = state()
    gather(run.path, max_clips=100)
    assert state() == before


def test_what_cannot_be_read_is_noted_and_the_rest_is_there(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    (run.path / "predictions" / "vote.parquet").write_bytes(b"no parquet")
    (run.path / "archive" / "traces" / "attempt=000-step=000099.parquet").write_bytes(b"x")
    (run.path / "summary.json").write_text("{")
    (tmp_path / "data" / "manifest.jsonl").unlink()
    report = gather(run.path, max_clips=100)
    assert [note.split(":")[0] for note in report.notes] == [
        "predictions of vote",
        "archive",
        "summary.json",
        "manifest",
        "traces",
        "groups",
    ]
    assert [arm.name for arm in report.arms] == ["base", "coldstart", "grpo", "calibrated"]


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no run in"):
        gather(tmp_path, max_clips=1)


def test_eighty_labels_are_gathered(tmp_path: Path) -> None:
    names = [f"label {index:02d}" for index in range(80)]
    run = make_run(tmp_path / "r", labels=[{"name": name} for name in names])
    answers = [
        Prediction(
            sample_id=f"s{index}",
            label=names[index % 80],
            predicted=names[index * 7 % 80],
            confidence=0.5,
            probabilities=(1 / 80,) * 80,
            trace="x",
        )
        for index in range(160)
    ]
    write_predictions(run.predictions("base"), answers)
    report = gather(run.path, max_clips=100)
    (arm,) = report.arms
    assert (len(arm.evaluation.confusion), arm.finished) == (80, False)
    assert len(report.clips) == 100


def test_a_long_trace_is_cut_and_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    write_groups(run, make_group("grpo/00000001", [make_trace(text="x" * (MAX_CHARS + 5))]))
    (group,) = gather(run.path, max_clips=0).groups
    assert group.traces[0].written.text.endswith("x [... 5 more characters]")


# Pictures


def strip_of(video: str, **settings: int) -> Strip:
    ((_, found),) = strips([video], VideoConfig(**settings), seconds=60)
    return found


def test_a_strip_has_the_frames_that_the_model_is_shown_with_their_times(tmp_path: Path) -> None:
    found = strip_of(str(write_clip(tmp_path / "c.mp4")), max_frames=4)
    assert found.picture.startswith("data:image/webp;base64,")
    assert (found.width, found.height, found.num_sampled) == (32, 24, 4)
    assert found.times_s[0] == 0.0
    assert len(found.times_s) == 4


def test_a_view_is_shown_as_its_clip(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "c.mp4")
    assert strip_of(f"{path}#view=blank") == strip_of(str(path))


def test_a_time_window_is_all_that_is_shown(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "c.mp4", num_frames=12)
    found = strip_of(f"{path}#t=1,2")
    assert (found.num_sampled, found.times_s) == (4, (0.0, 0.25, 0.5, 0.75))


def test_a_clip_that_is_gone_or_damaged_says_so(tmp_path: Path) -> None:
    assert "clip not found" in strip_of(str(tmp_path / "gone.mp4")).missing
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    assert "cannot decode" in strip_of(str(tmp_path / "bad.mp4")).missing


def test_after_its_time_no_clip_is_decoded(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "c.mp4"))
    ((_, found),) = strips([path], VideoConfig(), seconds=-1.0)
    assert "was over" in found.missing
    ((_, found),) = strips([path], VideoConfig(), seconds=60.0)
    assert found.picture


def test_validations_stand_at_their_steps_beside_the_training_from_step_0_on(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "r")
    write_metrics(run, "grpo", [0], **{"val/accuracy": 0.2})
    write_metrics(run, "grpo", range(1, 5), **{"reward/mean": 1.0})
    write_metrics(run, "grpo", [2], **{"val/accuracy": 0.4})
    # resumed from step 4: its validation, which had not ended, then the next steps
    write_metrics(run, "grpo", [4], attempt=1, **{"val/accuracy": 0.6})
    write_metrics(run, "grpo", [5], attempt=1, **{"reward/mean": 2.0})
    about = {"metric": "val/accuracy", "best": 0.6, "best_step": 4, "left_step": 5}
    stopped = {"step": 5, "patience": 1}
    run.finish("grpo", {"seconds": 1.0, "validation": about, "stopped_early": stopped})
    (grpo,) = read_curves(run.path / "metrics.jsonl")
    assert grpo.num_steps == 5
    assert grpo.kept.steps == (0, 1, 2, 3, 4, 5)
    assert grpo.kept.values["val/accuracy"] == (0.2, None, 0.4, None, 0.6, None)
    assert grpo.kept.values["reward/mean"] == (None, 1.0, 1.0, 1.0, 1.0, 2.0)
    assert grpo.superseded.steps == (), "a validation that is done again supersedes no step"
    assert [(one.step, one.attempt) for one in grpo.resumed] == [(5, 1)]
    assert grpo.outcome == (
        "best val/accuracy 0.6 at step 4; stopped early at step 5 (patience 1); left the weights "
        "of step 5"
    )
