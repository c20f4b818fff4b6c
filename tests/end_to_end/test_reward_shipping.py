"""Reward functions travel with a Ray job: a file and a package module of its working directory are
found and run on whatever node, by a driver or a reward actor there, after the place from which they
came is gone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.runs import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

JOB = """
import asyncio, json, os, shutil, sys
import ray
from cluster.actors.reward_nodes import open_nodes

root, folder = sys.argv[1:]
sys.path.append(root)
from reward.config import RewardConfig, RewardTerm
from reward.scorer import Scorer
from wire.labels import Label, LabelSet
from wire.types import Completion, FinishReason, PolicyVersion, Sample, Split

os.chdir(folder)
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
         runtime_env={"working_dir": folder, "env_vars": {"PYTHONPATH": root}})
functions = ("mine.py:of_a_file", "my_rewards.text:of_a_module")
config = RewardConfig(terms=tuple(RewardTerm(function=name) for name in functions))
labels = LabelSet(labels=(Label(name="fall"), Label(name="walk")))
nodes = open_nodes([node["NodeID"] for node in ray.nodes()])
spread = Scorer(config, labels, nodes=nodes)
os.chdir(root)
shutil.rmtree(folder)

async def ask(make_scorer):
    sample = Sample(id="a", video="a.mp4", label="fall", split=Split.TRAIN)
    answer = Completion(token_ids=(1,), logprobs=(-0.1,), text="four", policy_version=
                        PolicyVersion(attempt=0, step=0), finish_reason=FinishReason.STOP)
    async with make_scorer() as scorer:
        (score,) = await scorer.score(sample, [answer])
        return dict(score.parts)

@ray.remote
def driver_of_a_job():
    return asyncio.run(ask(lambda: Scorer(config, labels))), os.getcwd()

there = asyncio.run(ask(lambda: spread))
sys.stdout.write(json.dumps([*ray.get(driver_of_a_job.remote()), there]))
"""


def test_a_file_and_a_module_are_shipped_with_the_working_directory(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    (folder / "my_rewards").mkdir(parents=True)
    (folder / "my_rewards/__init__.py").write_text("BONUS = 10.0\n")
    (folder / "mine.py").write_text("def of_a_file(solution_str):\n    return len(solution_str)\n")
    (folder / "my_rewards/text.py").write_text(
        "from my_rewards import BONUS\n\n"
        "def of_a_module(completions):\n    return [BONUS + len(text) for text in completions]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(ROOT), str(folder)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    in_a_job, where, on_a_node = json.loads(done.stdout.splitlines()[-1])
    assert in_a_job == on_a_node == {"of_a_file": 4.0, "of_a_module": 14.0}
    assert not Path(where).is_relative_to(tmp_path)
    assert not folder.exists()
