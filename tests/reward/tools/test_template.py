"""`deepintuit reward new`: what it writes is a reward without a fault, with a test that passes."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cluster.cli import main
from reward.config import RewardTerm
from tests.reward.tools.builders import contents
from tests.reward.tools.test_lint import linted


@pytest.mark.parametrize("style", ["verl", "trl"])
def test_the_file_has_no_fault_and_the_lines_for_the_recipe_name_it(
    style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["reward", "new", "brevity", "--style", style]) == 0
    said = capsys.readouterr()
    (values,) = tomllib.loads(said.out)["reward"]["terms"]
    term = RewardTerm(**values)
    assert term.function == "rewards/brevity.py:brevity"
    settings = [f"params.{name}={value}" for name, value in term.params.items()]
    (report,) = linted(tmp_path, term.function, *(w for s in settings for w in ("--set", s)))
    assert report["findings"] == []
    assert report["style"].startswith("verl's" if style == "verl" else "TRL's")
    assert "pytest rewards/test_brevity.py" in said.err


@pytest.mark.slow
@pytest.mark.parametrize("style", ["verl", "trl"])
def test_its_test_passes_and_fails_once_the_reward_is_spoilt(style: str, tmp_path: Path):
    folder = tmp_path / "mine"
    assert main(["reward", "new", "brevity", "--style", style, "--dir", str(folder)]) == 0
    command = [sys.executable, "-m", "pytest", "-q", str(folder / "test_brevity.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
    reward = folder / "brevity.py"
    reward.write_text(reward.read_text().replace("return 0.0", "raise ValueError"))
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    "name", ["Brevity", "two words", "class", "1st", "min", "re", "a-b", "../x", ""]
)
def test_a_name_that_python_cannot_have_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["reward", "new", "--dir", str(tmp_path), "--", name]) == 2
    assert "is no name for a function" in capsys.readouterr().err
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("there", ["brevity.py", "test_brevity.py"])
def test_a_file_that_is_there_is_not_touched(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / there).write_text("mine")
    before = contents(tmp_path)
    assert main(["reward", "new", "brevity", "--dir", str(tmp_path)]) == 2
    assert "is there already; give another name" in capsys.readouterr().err
    assert contents(tmp_path) == before
