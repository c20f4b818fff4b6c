"""What a fit is made from: a run or a bare archive, its settings, weights and versions."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.fitting.source import FitRequest, VersionRange, fit_order
from cluster.inputs.policies import POLICIES_FILE, note_policy
from tests.cluster.session_fakes import make_config, make_run_dir, write_model
from tests.groups import make_completion, make_group, make_sample
from wire.archive.archive import Archive
from wire.errors import ConfigError, DataError
from wire.types import PolicyVersion, Purpose, Score, Split, Trace

GRPO = PolicyVersion(attempt=0, step=4)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose calibration has archived a trace."""
    run_dir = make_run_dir(tmp_path, make_config(), "base", "coldstart", "grpo", "calibrated")
    run_dir.close()
    sample = make_sample("undo", id="cal-0", split=Split.CAL)
    completion = make_completion("<answer>undo</answer>", policy_version=GRPO)
    with Archive(run_dir.archive, 0) as archive:
        archive.append(
            make_group(
                Trace(completion=completion, outcome=Score(total=1.0, parts={})),
                group_id="calibrated/calibration/cal-0",
                sample=sample,
                purpose=Purpose.CALIBRATION,
                policy_version=GRPO,
            )
        )
        archive.compact(4)
    note_policy(run_dir.archive, GRPO, "grpo", run_dir.model("grpo"))
    return run_dir.path


def order(run: Path, **changes: Any):
    values = {"source": run, "out": run.parent / "out", **changes}
    return fit_order(FitRequest(**values))


def test_a_run_gives_settings_policy_and_its_versions(run: Path):
    made = order(run)
    assert made.model == run / "stages/grpo/model"
    assert (made.policy, made.served, made.learn_from) == (GRPO, {GRPO}, {GRPO})
    assert (made.stage.name, made.stage.num_traces, made.foreign) == ("calibrated", 2, "")
    assert order(run / "archive", out=made.out) == made, "an archive in a run is the run's"


def test_settings_and_methods_are_changed_over_those_of_the_run(run: Path):
    settings = ("calibrate.epochs=7", "calibrate.validate.every=5", "seed=3")
    made = order(run, settings=settings, methods=("verdict", "head"))
    assert (made.stage.epochs, made.stage.validation.every, made.config.seed) == (7, 5, 3)
    assert made.stage.methods == ("verdict", "head")
    with pytest.raises(ConfigError, match="epoch"):
        order(run, settings=("calibrate.epoch=7",))


def test_a_range_of_versions_is_learned_from_and_the_policy_answers(run: Path):
    made = order(run, versions="0.2-0.4", purpose=Purpose.TRAIN)
    assert PolicyVersion(attempt=0, step=3) in made.learn_from
    assert PolicyVersion(attempt=0, step=5) not in made.learn_from
    assert made.served == {GRPO}
    with pytest.raises(ConfigError, match=r"such as 0.241 or 0.200-0.241"):
        VersionRange.parse("0.9-0.2")


def test_a_run_of_before_there_were_notes_is_read_by_the_steps_of_its_stages(run: Path):
    (run / "archive" / POLICIES_FILE).unlink()
    assert order(run).served == {GRPO}


def recipe(run: Path) -> Path:
    values = json.loads((run / "run.json").read_text())
    lines = [f'[[labels]]\nname = "{label["name"]}"' for label in values["labels"]]
    file = run.parent / "recipe.toml"
    text = '\n[data]\nmanifest = "m.jsonl"\n[calibrate]\nmethods = ["verdict"]\n'
    file.write_text('model = "nowhere"\n' + "\n".join(lines) + text)
    return file


def test_a_bare_archive_says_what_is_missing_and_knows_the_model_that_wrote_it(run: Path):
    bare, model = run.parent / "bare", run.parent / "moved"
    shutil.copytree(run / "archive", bare)
    shutil.copytree(run / "stages/grpo/model", model)
    with pytest.raises(ConfigError, match=r"--recipe FILE .* and --model DIR"):
        order(bare)
    with pytest.raises(ConfigError, match=r"give --model DIR \(the policy's weights\), or the run"):
        order(bare, recipe=recipe(run))
    made = order(bare, recipe=recipe(run), model=model)
    assert (made.model, made.config.model, made.served) == (model, model, {GRPO})


def test_a_model_that_wrote_none_of_the_traces_is_refused_or_marked(run: Path):
    bare, other = run.parent / "bare", run.parent / "other"
    shutil.copytree(run / "archive", bare)
    write_model(other, "others")
    with pytest.raises(DataError, match=r"other .* wrote none of the traces in bare.*0.4 grpo"):
        order(bare, recipe=recipe(run), model=other)
    made = order(bare, recipe=recipe(run), model=other, allow_foreign=True)
    assert "wrote none of the traces" in made.foreign
    assert (made.policy, made.served) == (GRPO, {GRPO})
    (bare / POLICIES_FILE).unlink()
    with pytest.raises(DataError, match="does not say whose weights wrote"):
        order(bare, recipe=recipe(run), model=other)


def test_a_place_without_run_or_archive_and_a_taken_out_are_refused(run: Path):
    with pytest.raises(ConfigError, match="no run and no archive"):
        order(run.parent)
    (run.parent / "out").mkdir()
    (run.parent / "out" / "a").touch()
    with pytest.raises(ConfigError, match="exists already"):
        order(run)


def test_a_stage_or_model_that_is_not_there_is_named(run: Path):
    with pytest.raises(ConfigError, match="calibrations are: calibrated"):
        order(run, stage="other")
    with pytest.raises(ConfigError, match="there is no model"):
        order(run, model=run / "nowhere")
