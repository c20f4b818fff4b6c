import json
from pathlib import Path

import pytest

from cluster.study.results import study_results
from cluster.study.results_page import render_page
from cluster.study.seed_runs import read_seed
from tests.cluster.study.study_runs import (
    STAGES,
    make_about,
    make_run,
    read_run,
    results_of,
    write_arm,
)
from wire.errors import DataError
from wire.whole_file import write_json


def table_rows(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading."""
    lines = page.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    rows = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def row_of(page: str, heading: str, first: str) -> dict[str, str]:
    """A row by how its first cell starts, as column -> cell."""
    header, _, *rows = table_rows(page, heading)
    found = next(row for row in rows if row[0].startswith(first))
    return dict(zip(header, found, strict=True))


def test_the_figures_of_an_arm_by_hand(tmp_path: Path):
    run = make_run(tmp_path / "seed-1")
    write_arm(run, "grpo", wrong=(0, 4, 5), with_probabilities=True, unsure=(0, 4))
    (found,) = results_of(run).arm("grpo").figures
    assert found is not None
    assert found.accuracy == pytest.approx(0.7)
    assert found.accuracy_never == pytest.approx(3 / 4)
    assert found.accuracy_seen == pytest.approx(4 / 6)
    assert found.accuracy_by_group == pytest.approx({"false": 3 / 4, "true": 4 / 6})
    # two at 0.6, both wrong; eight at 0.9, seven right
    assert found.ece == pytest.approx((2 * 0.6 + (8 * 0.9 - 7)) / 10)
    assert found.selective_accuracy == pytest.approx(7 / 8)
    # 2 * 0.1**2 when right at 0.9, 2 * 0.9**2 when wrong, 2 * 0.6**2 when wrong at 0.6
    assert found.brier == pytest.approx((7 * 0.02 + 1.62 + 2 * 0.72) / 10)
    assert found.best_constant == pytest.approx(0.5)
    assert found.floor == pytest.approx(0.7634, abs=1e-4)


def test_without_a_column_nothing_is_grouped(tmp_path: Path):
    run = make_run(tmp_path / "seed-1")
    write_arm(run, "grpo", wrong=(0,))
    results = results_of(run, group_by=None)
    (found,) = results.arm("grpo").figures
    assert found is not None
    assert (found.accuracy_seen, found.accuracy_never) == (None, None)
    assert "seen" not in table_rows(render_page(results), "Accuracy")[0]


def test_the_main_table_shows_seeds_means_and_groups(tmp_path: Path):
    first, second = (make_run(tmp_path / f"seed-{s}", s) for s in (1, 2))
    write_arm(first, "grpo", wrong=(0,), seconds=100.0)
    write_arm(second, "grpo", wrong=(4, 5, 6), seconds=200.0)
    page = render_page(results_of(first, second))
    row = row_of(page, "Accuracy", "`grpo`")
    assert [row[name] for name in ("seed 1", "seed 2", "mean")] == ["90.0", "70.0", "80.0"]
    assert (row["seen"], row["never"]) == ("75.0", "87.5")
    assert (row["seconds"], row["rollouts"], row["updates"]) == ("150", "30", "5")
    assert row["Brier"] == "-"
    assert row_of(page, "Accuracy", "best constant")["mean"] == "50.0"


def test_what_has_not_finished_is_not_run(tmp_path: Path):
    first, second = (make_run(tmp_path / f"seed-{s}", s) for s in (1, 2))
    write_arm(first, "vote", wrong=(0,))
    second.predictions("vote").parent.mkdir()
    second.predictions("vote").write_bytes(first.predictions("vote").read_bytes())
    page = render_page(results_of(first, second))
    row = row_of(page, "Accuracy", "`vote`")
    assert [row[name] for name in ("seed 1", "seed 2", "mean")] == [
        "90.0",
        "not run",
        "90.0 (1 of 2)",
    ]
    assert set(row_of(page, "Accuracy", "`head`").values()) >= {"not run", "-"}
    assert "held" not in {row[-2] for row in table_rows(page, "Promises")}


def test_a_seed_that_never_started_is_not_run(tmp_path: Path):
    assert read_seed(tmp_path / "seed-2", 2, None) is None
    run = make_run(tmp_path / "seed-1")
    write_arm(run, "grpo")
    results = study_results(make_about(1, 2, failed={2: "run failed"}), [read_run(run)])
    assert results.arm("grpo").values("accuracy") == (1.0, None)
    assert "- Seed 2 did not finish: run failed." in render_page(results)


def test_no_run_at_all_still_makes_a_page():
    page = render_page(study_results(make_about(1, failed={1: "run failed"}), []))
    assert row_of(page, "Accuracy", "`grpo`")["mean"] == "not run"


def test_paired_tests_count_flips_and_pool_seeds(tmp_path: Path):
    first, second = (make_run(tmp_path / f"seed-{s}", s) for s in (1, 2))
    write_arm(first, "coldstart", wrong=(0, 1, 2, 3, 4))
    write_arm(first, "grpo", wrong=(9,))
    write_arm(second, "coldstart", wrong=(0,))
    write_arm(second, "grpo")
    page = render_page(results_of(first, second))
    row = row_of(page, "Paired tests", "coldstart -> grpo")
    # 5 gained and 1 lost: 2 * (1 + 6) / 64; 1 gained: p = 1; together 6 and 1: 2 * 8 / 128
    assert row["seed 1"] == "+40.0: 5 / 1, p 0.219"
    assert row["seed 2"] == "+10.0: 1 / 0, p 1.000"
    assert (row["wrong to right"], row["right to wrong"], row["p"]) == ("6", "1", "0.125")
    assert row["mean difference"] == "+25.0"
    # Student with one degree of freedom: 12.706 standard errors of 15 points
    assert row["95% over seeds"] == "-165.6 to +215.6"
    assert row_of(page, "Paired tests", "vote -> calibrated")["p"] == "not run"


def test_every_control_is_tested_against_grpo_and_the_verdict(tmp_path: Path):
    pairs = {(row.before, row.after) for row in results_of(make_run(tmp_path / "seed-1")).tests}
    assert {("base", "coldstart"), ("coldstart", "grpo"), ("grpo", "calibrated")} <= pairs
    for control in ("vote", "rejection", "blank", "video_only_10x", "head", "grpo_more"):
        assert {(control, "grpo"), (control, "calibrated")} <= pairs


def test_arms_on_other_clips_have_a_table_of_their_own(tmp_path: Path):
    run = make_run(tmp_path / "seed-1")
    write_arm(run, "grpo")
    write_arm(run, "coldstart_val", wrong=(0,), split="val")
    page = render_page(results_of(run))
    below = page.split("On other clips:")[1].split("## Promises")[0]
    assert "| `coldstart_val` (val): the cold start, on val | 90.0 | 90.0 |" in below
    assert "coldstart_val" not in page.split("On other clips:")[0].split("## Accuracy")[1]


def test_agreement_counts_verdicts_that_repeat_their_trace(tmp_path: Path):
    run = make_run(tmp_path / "seed-1")
    write_arm(run, "calibrated", wrong=(1, 3), answer="a")  # 5 right "a", 2 wrong "a"
    assert results_of(run).agreement["calibrated"] == (pytest.approx(0.7),)


def test_trace_accuracy_says_whether_train_clips_flatter(tmp_path: Path):
    run = make_run(tmp_path / "seed-1")
    run.finish("trace_accuracy", {"train": 0.99, "val": 0.9, "cal": 0.89, "seconds": 3.0})
    write_arm(run, "calibrated", wrong=(0,))
    write_arm(run, "verdict_train", wrong=(0, 1, 2))
    page = render_page(results_of(run))
    assert row_of(page, "Traces of train clips against others", "cal")["mean"] == "89.0"
    assert "are right 10.0 points more often than traces of calibration clips" in page
    assert "is right 20.0 points more often than one trained on traces of train clips" in page


def test_the_page_says_that_calibration_clips_had_never_groups(tmp_path: Path):
    run = make_run(tmp_path / "seed-1")
    assert "trained on their labels" not in render_page(results_of(run))
    manifest = tmp_path / "data/manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in rows:
        row["known"] = row["known"] and row["split"] != "cal"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = render_page(results_of(run))
    assert "cal 2 of 2, test 4 of 10" in page
    assert "trained on their labels" in page


def test_a_reason_with_a_bar_or_a_line_break_stays_in_its_cell(tmp_path: Path):
    run = make_run(tmp_path / "seed-1")
    write_arm(run, "grpo")
    write_arm(run, "calibrated", wrong=(0,))
    page = render_page(results_of(run, notes={"d": "one | two\nthree"}))
    assert r"one \| two three |" in page


def test_every_row_of_every_table_is_as_wide_as_its_header(tmp_path: Path):
    run = make_run(tmp_path / "seed-1")
    for stage in STAGES:
        write_arm(run, stage, wrong=(0,))
    write_arm(run, "coldstart_val", split="val")
    page = render_page(results_of(run))
    blocks = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 9
    for rows in blocks:
        assert len({row.count("|") for row in rows}) == 1


def test_shared_data_is_said(tmp_path: Path):
    same = [make_run(tmp_path / f"seed-{s}", s) for s in (1, 2)]
    own = [make_run(tmp_path / f"own-{s}" / "run", s) for s in (1, 2)]
    assert "All seeds share one data set" in render_page(results_of(*same))
    assert "All seeds share one data set" not in render_page(results_of(*own))


def test_versions_and_sizes_come_from_the_files(tmp_path: Path):
    run = make_run(tmp_path / "seed-1")
    write_json(run.summary, {"versions": {"torch": "9.9"}})
    write_arm(run, "base", peak_memory_gb=3.25)
    page = render_page(results_of(run))
    assert "torch 9.9" in page
    assert "2 CPU cores; most memory 3.2 GB; 1 h 2 min in all" in page
    assert row_of(page, "What was run", "1")["train clips"] == "4"


def test_predictions_of_another_attempt_are_refused(tmp_path: Path):
    run, other = make_run(tmp_path / "seed-1"), make_run(tmp_path / "other")
    write_arm(run, "grpo", wrong=(0,))
    write_arm(other, "grpo")
    run.predictions("grpo").write_bytes(other.predictions("grpo").read_bytes())
    with pytest.raises(DataError, match=r"grpo have accuracy 1\.0000, its done.json says 0\.9000"):
        results_of(run)


def test_predictions_of_other_clips_are_refused(tmp_path: Path):
    run = make_run(tmp_path / "seed-1")
    write_arm(run, "grpo")
    manifest = tmp_path / "data/manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("test-0", "test-x"))
    with pytest.raises(DataError, match="'test-0', which is not in"):
        results_of(run)


def test_results_are_plain_data(tmp_path: Path):
    run = make_run(tmp_path / "seed-1")
    write_arm(run, "grpo", wrong=(0,))
    plain = json.loads(json.dumps(results_of(run).to_plain(), allow_nan=False))
    arm = next(row for row in plain["arms"] if row["name"] == "grpo")
    assert arm["figures"][0]["accuracy"] == 0.9
    assert {claim["outcome"] for claim in plain["claims"]} == {"not measured"}
