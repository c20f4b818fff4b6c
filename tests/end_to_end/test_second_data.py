"""From a folder of videos to a report, by the commands that the README names."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from calibrate.predictions import read_predictions
from cluster.demo.make_model import make_demo_model
from tests.end_to_end.runs import ROOT, metrics, summary
from tests.end_to_end.second_data import CLASSES, make_folder
from wire.archive.archive import read_groups
from wire.types import Purpose

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

# A run of minutes on two cores: few steps, short traces.
SHORT = {
    "grpo.num_steps": "3",
    "grpo.groups_per_step": "8",
    "rollout.max_prompt_length": "512",
    "rollout.max_response_length": "24",
    "calibrate.epochs": "4",
    "calibrate.batch_size": "32",
    "calibrate.learning_rate": "5e-4",
}


def readme_commands() -> list[list[str]]:
    """Those of the block that begins with the import of ``videos``."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    (block,) = [block for block in blocks if "deepintuit import videos" in block]
    lines = [line for line in block.splitlines() if line.startswith("deepintuit")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's commands were typed: videos in, run and report out."""
    here = tmp_path_factory.mktemp("mine")
    make_folder(here / "videos", per_class=12)
    model = make_demo_model(here / "model")
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    env["PYTHONPATH"] = str(ROOT)
    for words in readme_commands():
        if "--model" in words:
            words[words.index("--model") + 1] = str(model)
        if words[0] in ("check", "run"):
            words += [w for name, value in SHORT.items() for w in ("--set", f"{name}={value}")]
        command = [sys.executable, "-m", "cluster.cli", *words]
        done = subprocess.run(
            command, cwd=here, env=env, capture_output=True, text=True, timeout=600
        )
        said = done.stdout[-3000:] + done.stderr[-3000:]
        assert done.returncode == 0, f"deepintuit {shlex.join(words)}\n{said}"
    return here


def test_the_readme_names_the_whole_way():
    assert [words[0] for words in readme_commands()] == ["import", "init", "check", "run", "report"]


def test_every_clip_is_used_whatever_it_is_made_of(folder: Path):
    rows = [json.loads(line) for line in (folder / "data/my.jsonl").read_text().splitlines()]
    assert {row["label"] for row in rows} == set(CLASSES)
    assert len({Path(row["video"]).suffix for row in rows}) >= 4
    assert not (folder / "runs/my/quarantine.jsonl").exists()
    groups = list(read_groups(folder / "runs/my/archive", Purpose.TRAIN))
    assert len(groups) == 3 * 8
    assert all(len(group.traces) == 8 for group in groups)
    assert len({group.prompt.token_ids for group in groups if group.prompt}) > 3


def test_engine_and_learner_agree_on_every_kind_of_clip(folder: Path):
    rows = metrics(folder / "runs/my", "grpo")
    assert len(rows) == 3
    assert all(row["parity/probe_max_logprob_diff"] < 1e-4 for row in rows)
    assert all(row["parity/max_logprob_diff"] < 1e-3 for row in rows)


def test_each_stage_measured_the_test_clips(folder: Path):
    found = summary(folder / "runs/my")
    assert [stage["name"] for stage in found["stages"]] == ["base", "grpo", "calibrated"]
    predictions = read_predictions(folder / "runs/my/predictions/calibrated.parquet")
    assert {prediction.label for prediction in predictions} == set(CLASSES)
    assert found["stages"][-1]["num_samples"] == len(predictions) > 3


def test_the_report_shows_the_clips(folder: Path):
    page = (folder / "runs/my/report.html").read_text()
    assert all(label in page for label in CLASSES)
    assert "clip_000" in page
    assert "data:image/" in page
    assert len(page) < 20e6
