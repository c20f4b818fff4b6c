"""Reward functions travel with a Ray job: a file and a package module of its working directory are
found and run on whatever node, after the place that they came from is gone."""

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

root, folder = sys.argv[1:]
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
         runtime_env={"working_dir": folder, "env_vars": {"PYTHONPATH": root}})
shutil.rmtree(folder)

@ray.remote
def score():
    from reward.config import RewardConfig, RewardTerm
    from reward.scorer import Scorer
    from wire.labels import Label, LabelSet
    from wire.types import Completion, FinishReason, PolicyVersion, Sample, Split

    functions = ("mine.py:of_a_file", "my_rewards.text:of_a_module")
    config = RewardConfig(terms=tuple(RewardTerm(function=name) for name in functions))
    labels = LabelSet(labels=(Label(name="fall"), Label(name="walk")))
    sample = Sample(id="a", video="a.mp4", label="fall", split=Split.TRAIN)
    answer = Completion(token_ids=(1,), logprobs=(-0.1,), text="four", policy_version=
                        PolicyVersion(attempt=0, step=0), finish_reason=FinishReason.STOP)

    async def ask():
        async with Scorer(config, labels) as scorer:
            (score,) = await scorer.score(sample, [answer])
            return dict(score.parts), os.getcwd()

    return asyncio.run(ask())

sys.stdout.write(json.dumps(ray.get(score.remote())))
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
    parts, where = json.loads(done.stdout.splitlines()[-1])
    assert parts == {"of_a_file": 4.0, "of_a_module": 14.0}
    assert not Path(where).is_relative_to(tmp_path)
    assert not folder.exists()
