import json
from pathlib import Path

import pytest

from cluster.doctor.trial_process import main


@pytest.fixture
def trial_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of trials that the process can import."""
    code = "from cluster.doctor.runner import Outcome\n\n\n"
    code += "def works(path):\n    return Outcome(status='ok', found=path)\n\n\n"
    code += "def fails():\n    raise RuntimeError('first line\\nsecond line')\n"
    (tmp_path / "some_trials.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return "some_trials"


def answer_of(tmp_path: Path, trial: str, **settings: str) -> dict[str, str]:
    answer = tmp_path / "answer.json"
    main(trial, str(answer), json.dumps(settings))
    outcome: dict[str, str] = json.loads(answer.read_text())
    return outcome


def test_a_trial_gets_its_settings_and_its_outcome_is_written(tmp_path: Path, trial_module: str):
    outcome = answer_of(tmp_path, f"{trial_module}:works", path="/tmp")
    assert (outcome["status"], outcome["found"]) == ("ok", "/tmp")


@pytest.mark.parametrize(
    ("trial", "found"),
    [("fails", "RuntimeError: first line"), ("missing", "AttributeError: ")],
)
def test_whatever_a_trial_raises_is_a_failure_in_one_line(
    tmp_path: Path, trial_module: str, trial: str, found: str
):
    outcome = answer_of(tmp_path, f"{trial_module}:{trial}")
    assert outcome["status"] == "failed"
    assert outcome["found"].startswith(found)
