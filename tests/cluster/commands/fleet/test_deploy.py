from pathlib import Path

import pytest
import yaml

from cluster.cli import main

RECIPE = """
model = "{root}/models/Qwen2.5-VL-7B-Instruct"
[[labels]]
name = "a"
definition = "an a"
[[labels]]
name = "b"
definition = "a b"
[data]
manifest = "{root}/data/manifest.jsonl"
"""


def write_recipe(folder: Path, root: str = "/shared") -> Path:
    path = folder / "my.toml"
    path.write_text(RECIPE.format(root=root))
    return path


def test_a_ray_job_is_printed_for_kubectl(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["deploy", str(write_recipe(tmp_path)), "--kuberay", "--image", "di:1"]
    words += ["--pvc", "videos:/shared", "--set", "rollout.max_workers=5", "--retries", "0"]
    assert main(words) == 0
    config_map, ray_job = yaml.safe_load_all(capsys.readouterr().out)
    assert "max_workers = 5" in config_map["data"]["my.toml"]
    assert ray_job["metadata"]["name"] == "my"
    assert ray_job["spec"]["backoffLimit"] == 0
    assert "--run-dir /shared/runs/my " in ray_job["spec"]["entrypoint"]


def test_a_batch_script_is_written_with_the_command_that_submits_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "my.sbatch"
    words = ["deploy", str(write_recipe(tmp_path)), "--slurm", "--run-dir", "/shared/runs/it"]
    assert main([*words, "--set", "grpo.num_steps=9", "--out", str(out)]) == 0
    assert out.read_text().startswith("#!/bin/bash\n#SBATCH --job-name=my\n")
    assert "--run-dir /shared/runs/it --auto-resume --set grpo.num_steps=9" in out.read_text()
    assert f"sbatch {out}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--kuberay"], "--kuberay needs --image IMAGE"),
        (["--kuberay", "--image", "di:1"], "--pvc CLAIM:PATH"),
        (["--kuberay", "--image", "di:1", "--pvc", "videos:/data"], "model = /shared/models"),
        (["--slurm", "--sbatch", "nodes=2"], "--sbatch nodes=2"),
        (["--slurm", "--sbatch", "a=b\nrm -rf c"], "one option of sbatch on one line"),
        (["--slurm", "--name", "a\nrm -rf c"], "give --name"),
        (["--slurm", "--name", "two words"], "give --name"),
        (["--slurm", "--time", "1:00\n#SBATCH --x"], "24:00:00 or 2-12:00:00"),
        (["--slurm", "--time", "soon"], "24:00:00 or 2-12:00:00"),
        (["--slurm", "--out", "/nowhere/at/all"], "cannot write /nowhere/at/all"),
        (["--slurm", "--set", "grpo.num_stepps=2"], "num_steps"),
    ],
)
def test_a_mistake_is_named_with_what_to_do(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["deploy", str(write_recipe(tmp_path)), *words]) == 2
    assert told in capsys.readouterr().err


def test_one_of_the_two_kinds_must_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(["deploy", str(write_recipe(tmp_path))])
    assert "--kuberay --slurm" in capsys.readouterr().err
