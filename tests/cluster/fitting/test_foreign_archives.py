"""Archives of another policy than the one served, as a user may bring them: refused, or marked if
that is asked for. Weights are a few bytes; archives are real."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.fitting.archived_traces import TraceQuery, find_traces
from cluster.fitting.fit import FitOrder, mark_of_others
from cluster.fitting.source import FitRequest, fit_order
from cluster.inputs.policies import POLICIES_FILE, note_policy
from tests.cluster.fitting.scripted_runs import ScriptedRun, answer
from tests.groups import make_group, make_sample
from wire.archive.compaction import compact_archive
from wire.errors import DataError
from wire.types import Purpose, Split

STEP = 8


def write_model(folder: Path, weights: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def calibrate(run: ScriptedRun) -> None:
    """Traces of cal and val clips by the policy of the last step."""
    for split, purpose in ((Split.CAL, Purpose.CALIBRATION), (Split.VAL, Purpose.EVALUATION)):
        for number in range(6):
            sample = make_sample("undo", id=f"{split}-{number}", split=split)
            run.append(
                make_group(
                    answer("undo", run.version(STEP)),
                    group_id=f"calibrated/{purpose}/{sample.id}",
                    purpose=purpose,
                    sample=sample,
                    policy_version=run.version(STEP),
                )
            )
    run.compact(STEP)


def finished(path: Path, weights: bytes) -> ScriptedRun:
    """A run whose policy has these weights, and has written its calibration traces."""
    run = ScriptedRun(path)
    write_model(run.path / "stages/grpo/model", weights)
    calibrate(run)
    note_policy(run.path / "archive", run.version(STEP), "grpo", run.path / "stages/grpo/model")
    run.finish()
    return run


def order_of(source: Path, tmp_path: Path, **asked: Any) -> FitOrder:
    return fit_order(FitRequest(source=source, out=tmp_path / "out", **asked))


def model(run: ScriptedRun) -> Path:
    return run.path / "stages/grpo/model"


def test_a_run_is_fitted_from_its_own_traces_and_they_are_not_marked(tmp_path: Path):
    run = finished(tmp_path / "one", b"one")
    order = order_of(run.path, tmp_path)
    assert (order.policy, order.foreign) == (run.version(STEP), "")
    assert order.served == {run.version(STEP)}


def test_the_archive_of_another_run_is_refused_though_its_versions_have_the_same_numbers(
    tmp_path: Path,
):
    one, two = finished(tmp_path / "one", b"one"), finished(tmp_path / "two", b"two")
    assert one.version(STEP) == two.version(STEP)
    with pytest.raises(DataError, match=r"wrote none of the traces.*--allow-foreign"):
        order_of(one.path, tmp_path, model=model(two))
    order = order_of(one.path, tmp_path, model=model(two), allow_foreign=True)
    assert "wrote none of the traces in archive" in order.foreign
    assert order.model == model(two)


@pytest.mark.parametrize("compacted", [False, True])
def test_an_archive_that_was_copied_into_another_run_is_refused(tmp_path: Path, compacted: bool):
    one, two = finished(tmp_path / "one", b"one"), finished(tmp_path / "two", b"two")
    shutil.rmtree(two.path / "archive")
    shutil.copytree(one.path / "archive", two.path / "archive")
    if compacted:
        compact_archive(two.path / "archive")
    with pytest.raises(DataError, match="wrote none of the traces"):
        order_of(two.path, tmp_path)
    assert order_of(one.path, tmp_path).foreign == ""


def test_a_bare_archive_knows_the_model_that_wrote_it_and_no_other(tmp_path: Path):
    one, two = finished(tmp_path / "one", b"one"), finished(tmp_path / "two", b"two")
    bare = tmp_path / "copied"
    shutil.copytree(one.path / "archive", bare)
    compact_archive(bare)
    recipe = tmp_path / "one/recipe.json"
    shutil.copy2(one.path / "run.json", recipe)
    asked = {"recipe": write_toml(tmp_path), "model": model(one)}
    assert order_of(bare, tmp_path, **asked).served == {one.version(STEP)}
    with pytest.raises(DataError, match="wrote none of the traces"):
        order_of(bare, tmp_path, **asked | {"model": model(two)})
    (bare / POLICIES_FILE).unlink()
    with pytest.raises(DataError, match="does not say whose weights"):
        order_of(bare, tmp_path, **asked)


def write_toml(folder: Path) -> Path:
    labels = "\n".join(
        f'[[labels]]\nname = "{name}"' for name in ("relapse", "repeat", "undo", "varied", "zigzag")
    )
    path = folder / "recipe.toml"
    path.write_text(f'model = "m"\n{labels}\n[data]\nmanifest = "m.jsonl"\n')
    return path


def test_weights_that_a_resume_trained_again_under_the_same_step_are_other_weights(tmp_path: Path):
    """The model of the stage is that of the second attempt; the first one's traces are not its."""
    run = ScriptedRun(tmp_path / "one")
    write_model(model(run), b"first")
    calibrate(run)
    note_policy(run.path / "archive", run.version(STEP), "grpo", model(run))
    run.save(2)
    run.die()
    write_model(model(run), b"second")
    with pytest.raises(DataError, match="wrote none of the traces"):
        order_of(run.path, tmp_path)
    again = run.resumed(2)
    calibrate(again)
    note_policy(again.path / "archive", again.version(STEP), "grpo", model(run))
    again.finish()
    order = order_of(run.path, tmp_path)
    assert order.served == {again.version(STEP)}


def test_a_range_with_versions_that_are_not_served_is_marked(tmp_path: Path):
    run = finished(tmp_path / "one", b"one")
    again = run.resumed_from_start()
    for step in (6, 7):
        again.append(
            make_group(
                answer("undo", again.version(step)),
                group_id=f"grpo/{step:08d}",
                sample=make_sample("undo", id=f"t-{step}"),
                policy_version=again.version(step),
            )
        )
    again.compact(STEP)
    again.finish()
    versions = f"{again.version(6)}-{again.version(7)}"
    order = order_of(run.path, tmp_path, versions=versions, purpose=Purpose.TRAIN)
    assert order.foreign == ""  # as far as the request tells
    query = TraceQuery(
        stage=order.stage.name,
        learn_from=order.learn_from,
        served=order.served,
        purpose=order.purpose,
        test=order.test,
    )
    traces = find_traces(order.archive, query, order.stage, order.config.label_set)
    mark = mark_of_others(traces, order.served)
    assert f"versions {again.version(6)}, {again.version(7)}" in mark
