import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.actors import shared_paths
from cluster.actors.shared_paths import SharedPaths, look
from tests.cluster.actors.in_own_process import run_on_fake_nodes


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SharedPaths:
    """All that a node is to see; it is there."""
    monkeypatch.setattr(shared_paths, "_PATIENCE_S", 0.0)
    for folder in ("run", "model"):
        (tmp_path / folder).mkdir()
    for file in ("run/.seen-1", "model/config.json", "model/model.safetensors", "a.mp4", "b.mp4"):
        (tmp_path / file).write_text(file)
    model = {name: len(f"model/{name}") for name in ("config.json", "model.safetensors")}
    return SharedPaths(
        run_dir=str(tmp_path / "run"),
        proof=str(tmp_path / "run/.seen-1"),
        folders={str(tmp_path / "model"): model},
        clips={str(tmp_path / "a.mp4"): 5, str(tmp_path / "b.mp4"): 5},
    )


def faults_of(paths: SharedPaths) -> list[str]:
    return look(paths)[1]


def test_a_node_that_sees_what_the_driver_sees_has_no_fault(paths: SharedPaths):
    assert look(paths) == (os.uname().nodename, [])


def test_a_run_directory_that_is_not_there_and_one_of_the_nodes_own_are_told_apart(
    paths: SharedPaths,
):
    elsewhere = replace(paths, run_dir="/nowhere/run", proof="/nowhere/run/.seen-1")
    (fault,) = faults_of(elsewhere)
    assert fault.startswith("it does not see the run directory /nowhere/run: give --run-dir")
    Path(paths.proof).unlink()
    (fault,) = faults_of(paths)
    assert "has a folder of its own as the run directory" in fault


def test_a_run_directory_that_cannot_be_written_is_a_fault(
    paths: SharedPaths, monkeypatch: pytest.MonkeyPatch
):
    def refuse(dir: str) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(shared_paths.tempfile, "TemporaryFile", refuse)
    (fault,) = faults_of(paths)
    assert fault.startswith(f"it cannot write the run directory {paths.run_dir} (Read-only")


def test_a_model_that_is_absent_incomplete_or_another_is_named(paths: SharedPaths):
    model = Path(next(iter(paths.folders)))
    (model / "config.json").write_text("{}")
    (fault,) = faults_of(paths)
    assert f"lacks files of the model {model}, or has others (config.json)" in fault
    for file in list(model.iterdir()):
        file.unlink()
    (fault,) = faults_of(paths)
    assert fault.startswith(f"it does not see the model {model}: give 'model' as a path")


def test_a_hub_model_that_is_not_in_the_nodes_cache_is_a_matter_of_hf_home(paths: SharedPaths):
    hub = "/root/.cache/huggingface/hub/models--Qwen--Qwen2.5-VL-7B/snapshots/5f3a"
    (fault,) = faults_of(replace(paths, folders={hub: {"config.json": 3}}))
    assert f"does not see the model {hub}: set HF_HOME to a folder that all nodes share" in fault


def test_a_clip_that_is_not_there_or_another_is_named_with_the_number_of_others(
    paths: SharedPaths,
):
    first, second = paths.clips
    Path(first).unlink()
    Path(second).write_text("another")
    (fault,) = faults_of(paths)
    assert f"it does not see the clip {first} (nor 1 more of 2 that were tried)" in fault


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_that_does_not_see_a_path_is_named_before_anything_starts():
    """Three nodes; one of them sees nothing under the shared folder."""
    seen = run_on_fake_nodes("paths_on_fake_nodes")
    assert seen["all see it"] is None
    error = seen["one does not"]
    assert error.count(f"node {os.uname().nodename} ({seen['blind node']}): it does not see") == 3
    assert "the run directory" in error
    assert "the model" in error
    assert "the clip" in error
    assert error.count(f"node {os.uname().nodename} (") == 3, "the others are not named"
    assert "cannot run this project's code: No module named 'vllm'" in seen["another environment"]
    assert seen["left in the run directory"] == []
    assert seen["seconds"] < 30
