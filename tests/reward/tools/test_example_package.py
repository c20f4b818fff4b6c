"""docs/examples/clip-rewards: installed, named by its entry points, run in real processes."""

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from reward.config import RewardConfig, RewardTerm
from reward.scorer import Scorer
from tests.reward.tools.builders import make_group, make_run, write_recipe
from wire.labels import Label, LabelSet
from wire.types import Score

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "docs/examples/clip-rewards"
LABELS = LabelSet(labels=(Label(name="fall"), Label(name="walk")))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the package is installed in, without a network."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(EXAMPLE, folder / "source")  # a build leaves files behind
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    target = ["--target", str(folder / "site"), str(folder / "source")]
    command = [sys.executable, "-m", "pip", "install", "-q", *options, *target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.mark.slow
async def test_its_rewards_are_named_by_their_entry_points_and_run_in_their_own_processes(
    site: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ValueError, match="entry point"):
        RewardTerm(function="varied_words")
    monkeypatch.syspath_prepend(site)
    terms = (
        RewardTerm(function="ordered_events"),
        RewardTerm(function="varied_words", params={"least": 5}),
    )
    group = make_group(0, [("He stands up, then falls.", 0.0), ("He stands up.", 0.0)])
    sample = replace(group.sample, extra={"events": ["stands up", "falls"]})
    completions = [trace.completion for trace in group.traces]
    async with Scorer(RewardConfig(terms=terms), LABELS) as scorer:
        outcomes = await scorer.score(sample, completions)
        figures = scorer.take_figures()
    assert [o.parts for o in outcomes if isinstance(o, Score)] == [
        {"ordered_events": 1.0, "ordered_events/num_named": 2.0, "varied_words": 0.5},
        {"ordered_events": 0.5, "ordered_events/num_named": 1.0, "varied_words": 0.0},
    ]
    assert figures["reward/ordered_events/num_started"] == 1
    assert "clip_rewards" not in sys.modules


@pytest.mark.slow
def test_the_commands_find_it(site: Path, tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{site}"}
    run = make_run(tmp_path, [make_group(0, [("He falls.", 1.0), ("He walks.", 0.0)])])
    recipe = write_recipe(tmp_path, 'function = "varied_words"')
    for words in (["reward", "lint", "varied_words"], ["rescore", run, "--recipe", recipe]):
        command = [sys.executable, "-m", "cluster.cli", *map(str, words)]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "varied_words" in done.stdout


@pytest.mark.slow
def test_its_own_tests_pass(site: Path, tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(EXAMPLE / "tests"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


def test_its_readme_names_every_entry_point_and_uses_a_term_that_is_one():
    readme = (EXAMPLE / "README.md").read_text()
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    for name in project["entry-points"]["deepintuit.rewards"]:
        assert f"`{name}`" in readme
    block = readme.partition("```toml\n")[2].partition("```")[0]
    (term,) = tomllib.loads(block)["reward"]["terms"]
    assert term["function"] in project["entry-points"]["deepintuit.rewards"]
