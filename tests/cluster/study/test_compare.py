"""`deepintuit compare` on small run directories, written as a run writes them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibrate.metrics import evaluate
from calibrate.predictions import Prediction, read_predictions, write_predictions
from cluster.cli import main
from cluster.config.recipe import RunConfig
from cluster.run_dir import RunDir
from cluster.study.compare import compare_runs
from tests.calibrate.classifiers import published_result
from wire.config import validate

ROOT = Path(__file__).parents[3]
STAGES = {"base": 0, "coldstart": 4, "grpo": 8, "calibrated": 9}
"""Stage -> how many of ten clips it has right."""

MakeRun = Callable[..., Path]


def make_predictions(num_right: int, clips: range) -> list[Prediction]:
    """Clips have the labels a and b in turn; the first ``num_right`` are answered right."""
    rows = []
    for place, clip in enumerate(clips):
        label = "ab"[clip % 2]
        right = place < num_right
        rows.append(
            Prediction(
                sample_id=f"clip-{clip}",
                label=label,
                predicted=label if right else "ab"[(clip + 1) % 2],
                confidence=0.9 if right else 0.6,
                probabilities=None,
                trace=None,
            )
        )
    return rows


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a run directory; given names of arms with how many clips each has right."""

    def make(
        name: str, arms: dict[str, int] = STAGES, clips: range = range(10), labels: str = "ab"
    ) -> Path:
        values = {
            "model": "model",
            "labels": [{"name": label} for label in labels],
            "data": {"manifest": "m.jsonl"},
        }
        config = validate(RunConfig, values, "recipe")
        run_dir = RunDir.open(tmp_path / name, config, resume=False, overwrite=False)
        for arm, num_right in arms.items():
            write_predictions(run_dir.predictions(arm), make_predictions(num_right, clips))
        run_dir.close()
        return run_dir.path

    return make


def found(tmp_path: Path, *words: object) -> dict[str, Any]:
    """What the command writes with --json."""
    path = tmp_path / "out.json"
    assert main(["compare", *map(str, words), "--json", str(path)]) == 0
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def pairs_in(values: dict[str, Any]) -> list[str]:
    return [
        f"{t['run_before']}/{t['name_before']} {t['run_after']}/{t['name_after']}"
        for t in values["tests"]
    ]


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one sentence that the command ends with."""
    assert main(["compare", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_one_run_has_its_arms_in_order_and_each_stage_tested_with_the_one_before(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run("run", {"head": 7, **STAGES, "answer_only": 5})
    values = found(tmp_path, run)
    names = ["base", "coldstart", "grpo", "calibrated", "answer_only", "head"]
    assert [arm["name"] for arm in values["arms"]] == names
    assert [arm["evaluation"]["accuracy"] for arm in values["arms"]] == [0, 0.4, 0.8, 0.9, 0.5, 0.7]
    assert pairs_in(values) == [
        "run/base run/coldstart",
        "run/coldstart run/grpo",
        "run/grpo run/calibrated",
    ]
    step = values["tests"][1]["comparison"]
    assert step["difference"] == pytest.approx(0.4)
    assert (step["flips"]["wrong_to_right"], step["flips"]["right_to_wrong"]) == (4, 0)
    assert step["flips"]["p_value"] == pytest.approx(2 / 16)


def test_a_stage_measured_on_other_clips_is_passed_over(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", STAGES)
    elsewhere = make_predictions(4, range(20, 30))
    write_predictions(run / "predictions/coldstart.parquet", elsewhere)
    values = found(tmp_path, run)
    assert pairs_in(values) == ["run/base run/grpo", "run/grpo run/calibrated"]


def test_figures_are_those_that_the_run_itself_computed(make_run: MakeRun) -> None:
    run = make_run("run", {"grpo": 8})
    (arm,) = compare_runs([run]).arms
    assert arm.evaluation == evaluate(
        read_predictions(run / "predictions/grpo.parquet"), ("a", "b")
    )


def test_runs_are_tested_with_the_first_by_stage_and_matched_by_clip(
    make_run: MakeRun, tmp_path: Path
) -> None:
    first = make_run("first", {"grpo": 8, "head": 5})
    second = make_run("second", {"grpo": 6, "head": 5, "answer_only": 3})
    rows = read_predictions(second / "predictions/grpo.parquet")
    write_predictions(second / "predictions/grpo.parquet", rows[::-1])
    third = make_run("third", {"grpo": 9})
    values = found(tmp_path, first, second, third)
    assert pairs_in(values) == [
        "first/grpo second/grpo",
        "first/head second/head",
        "first/grpo third/grpo",
    ]
    assert [t["comparison"]["difference"] for t in values["tests"]] == pytest.approx([-0.2, 0, 0.1])
    assert values["tests"][1]["comparison"]["flips"]["p_value"] == 1.0


def test_stages_can_be_chosen(make_run: MakeRun, tmp_path: Path) -> None:
    values = found(tmp_path, make_run("run"), "--stage", "grpo", "--stage", "base")
    assert [arm["name"] for arm in values["arms"]] == ["base", "grpo"]
    assert pairs_in(values) == ["run/base run/grpo"]


def test_all_arms_can_be_tested_with_one(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", {"coldstart": 4, "grpo": 8, "answer_only": 5})
    values = found(tmp_path, run, "--against", "grpo")
    assert pairs_in(values) == ["run/grpo run/coldstart", "run/grpo run/answer_only"]
    chosen = found(tmp_path, run, "--against", "grpo", "--stage", "answer_only")
    assert [arm["name"] for arm in chosen["arms"]] == ["grpo", "answer_only"]
    assert pairs_in(chosen) == ["run/grpo run/answer_only"]


def test_different_clips_are_refused_with_the_number_that_is_shared(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_run("first", {"grpo": 8}, clips=range(10))
    second = make_run("second", {"grpo": 8}, clips=range(4, 12))
    said = refusal(capsys, first, second)
    assert "first grpo (10 clips) and second grpo (8 clips)" in said
    assert "share 6; --shared" in said


def test_shared_restricts_figures_and_tests_to_the_clips_of_all(
    make_run: MakeRun, tmp_path: Path
) -> None:
    first = make_run("first", {"grpo": 8}, clips=range(10))
    second = make_run("second", {"grpo": 8}, clips=range(4, 12))
    values = found(tmp_path, first, second, "--shared")
    assert values["only_shared"] is True
    assert [arm["evaluation"]["num_samples"] for arm in values["arms"]] == [6, 6]
    # clips 4 to 9: the first has 4 to 7 right, the second 4 to 11
    assert [arm["evaluation"]["accuracy"] for arm in values["arms"]] == pytest.approx([4 / 6, 1.0])
    (test,) = values["tests"]
    assert test["comparison"]["difference"] == pytest.approx(2 / 6)


def test_runs_that_share_no_clip_cannot_be_compared(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = make_run("first", {"grpo": 8}), make_run("second", {"grpo": 8}, clips=range(20, 30))
    assert "share 0" in refusal(capsys, *runs)
    assert "no clip is in all" in refusal(capsys, *runs, "--shared")


def test_other_label_sets_are_refused(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, make_run("first"), make_run("second", labels="bca"))
    assert "first has the labels a, b, and " in said
    assert "second has a, b, c; compare runs of one label set" in said


def test_another_true_label_of_a_clip_is_refused(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make_run("first", {"grpo": 0}), make_run("second", {"grpo": 0})
    path = second / "predictions/grpo.parquet"
    rows = read_predictions(path)
    odd = Prediction(
        sample_id="clip-0",
        label="b",
        predicted=None,
        confidence=0.0,
        probabilities=None,
        trace=None,
    )
    write_predictions(path, [odd, *rows[1:]])
    assert "first grpo and second grpo: the label of clip 'clip-0'" in refusal(
        capsys, first, second
    )


def test_what_is_no_run_is_named(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no run in" in refusal(capsys, tmp_path / "typo")
    (tmp_path / "file").write_text("x")
    assert "no run in" in refusal(capsys, tmp_path / "file")
    assert "no run in" in refusal(capsys, make_run("run"), tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"labels": 3}', '{"labels": [{"name": "a"}]}'])
def test_a_damaged_recipe_is_named(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    run = make_run("run")
    (run / "run.json").write_text(text)
    assert "run.json" in refusal(capsys, run)


def test_damaged_predictions_are_named(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("run")
    path = run / "predictions/grpo.parquet"
    path.write_bytes(path.read_bytes()[:200])
    assert "grpo.parquet" in refusal(capsys, run)
    assert main(["compare", str(run), "--stage", "base"]) == 0  # the others can still be read


def test_a_run_without_predictions_is_told_to_wait(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no predictions yet" in refusal(capsys, make_run("run", {}))


def test_a_stage_that_has_not_finished_and_a_misspelt_one_are_told_apart(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("run", {"base": 0, "coldstart": 4})
    said = refusal(capsys, run, "--stage", "grpo")
    assert "only of base, coldstart: it has not finished that stage" in said
    assert "did you mean 'coldstart'" in refusal(capsys, run, "--stage", "coldstrat")
    assert "did you mean 'base'" in refusal(capsys, run, "--against", "bas")
    (run / "stages/grpo").mkdir(parents=True)
    (run / "stages/grpo/done.json").write_text("{}")
    assert "measures nothing" in refusal(capsys, run, "--stage", "grpo")


def test_a_run_given_twice_is_refused(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("run")
    assert "given twice" in refusal(capsys, run, run / ".." / "run")


def test_runs_of_one_name_are_told_apart_by_their_paths(make_run: MakeRun) -> None:
    one, other = make_run("x/run", {"grpo": 8}), make_run("y/run", {"grpo": 8})
    (test,) = compare_runs([one, other]).tests
    assert (test.run_before, test.run_after) == (str(one), str(other))


def test_a_json_that_cannot_be_written_is_named(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "give --json the path" in refusal(capsys, make_run("run"), "--json", tmp_path)


def test_a_run_that_is_going_on_can_be_looked_at(make_run: MakeRun, tmp_path: Path) -> None:
    path = make_run("run", {"base": 0, "coldstart": 4})
    config = validate(RunConfig, json.loads((path / "run.json").read_text()), "recipe")
    going = RunDir.open(path, config, resume=False, overwrite=False)  # holds the lock
    (path / "predictions/grpo.parquet.partial").write_bytes(b"half")
    assert [arm["name"] for arm in found(tmp_path, path)["arms"]] == ["base", "coldstart"]
    going.close()


def test_the_tables_name_what_is_compared_and_load_no_engine(make_run: MakeRun) -> None:
    """In a process of its own, as a user runs it."""
    first, second = make_run("first"), make_run("odd[b]run", {"grpo": 6, "head": 5})
    code = (
        "import sys; from cluster.cli import main; status = main(sys.argv[1:])\n"
        "heavy = {'ray', 'vllm', 'deepspeed', 'torch', 'transformers', 'scipy', 'sklearn'}\n"
        "sys.exit(status or ' '.join(heavy & sys.modules.keys()) or None)"
    )
    command = [sys.executable, "-c", code, "compare", str(first), str(second)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "first grpo 10 0.800 0.490 - 0.943 0.800 0.200 1.000" in lines
    assert "odd[b]run head 10 0.500 0.237 - 0.763 0.495 0.350 0.625" in lines
    assert any(line.startswith("first grpo odd[b]run") for line in lines)
    assert any("-0.200" in line and line.endswith("0 2 0.500") for line in lines)


def test_the_cost_of_an_answer_stands_beside_its_figures_where_a_run_measured_it(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run("one")
    cost = {
        "prompt_tokens": 96.25,
        "video_tokens": 24.0,
        "generated_tokens": 31.5,
        "scored_tokens": 0.0,
        "seconds": 0.018,
    }
    (path / "stages/grpo").mkdir(parents=True)
    (path / "stages/grpo/done.json").write_text(json.dumps({"inference": cost}))
    arms = {arm["name"]: arm for arm in found(tmp_path, path)["arms"]}
    assert arms["grpo"]["inference"] == cost
    assert arms["base"]["inference"] is None
    capsys.readouterr()
    assert main(["compare", str(path), "--price-per-hour", "2"]) == 0
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "grpo 96.2 24.0 31.5 0.0180 0.0100" in printed
    assert not any(line.startswith("base 9") for line in printed)


def test_the_rarest_label_has_its_f1_in_the_table(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run("one", {"base": 6, "grpo": 9}, clips=range(9))
    assert main(["compare", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "F1 b" in printed
    assert any(
        line.split()[:1] == ["grpo"] and line.split()[-1] == "1.000"
        for line in printed.splitlines()
    )


def test_published_classifiers_stand_under_the_tables(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run("one")
    (path / "stages/calibrated").mkdir(parents=True)
    done = path / "stages/calibrated/done.json"
    done.write_text(json.dumps({"classifier": published_result()}))
    (record,) = found(tmp_path, path)["classifiers"]
    assert (record["stage"], record["method"]) == ("calibrated", "policy+verdict")
    printed = " ".join(capsys.readouterr().out.split())
    assert "classifier of calibrated: policy+verdict - policy+verdict has the best nll" in printed
    assert "sets promised to hold the true label of 90%" in printed
