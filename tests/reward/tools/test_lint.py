"""`deepintuit reward lint`: whose a function is, what fills it, every fault with its remedy."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from cluster.inputs.reward_subject import read_subject
from reward.tools.lint import lint
from reward.tools.sample_traces import RIGHT, sample_traces
from tests.reward.judge_server import Server, reply, serving
from tests.reward.tools.builders import write_plugin, write_recipe
from wire.finding import Level


def linted(tmp_path: Path, subject: object, *words: str, status: int = 0) -> list[dict[str, Any]]:
    """What the command writes with --json, of each term."""
    path = tmp_path / "out.json"
    assert main(["reward", "lint", str(subject), *words, "--json", str(path)]) == status
    values = json.loads(path.read_text())
    assert values["passed"] == (status == 0)
    terms: list[dict[str, Any]] = values["terms"]
    return terms


def faults(term: dict[str, Any], level: str = "error") -> list[tuple[str, str, list[str]]]:
    found = [it for it in term["findings"] if it["level"] == level]
    return [(it["what"], it["remedy"], it["where"]) for it in found]


GOOD = """
def score(solution_str, ground_truth, extra_info=None, scale=2.0):
    return scale * float(f"<answer>{ground_truth}" in solution_str)
"""


def test_a_good_function_has_no_finding(tmp_path: Path):
    (term,) = linted(tmp_path, f"{write_plugin(tmp_path, GOOD)}:score")
    assert term["findings"] == []
    assert term["style"] == "verl's, because it takes solution_str; sync, once per trace"
    assert term["values"][RIGHT] == 2.0
    assert term["values"]["wrong answer"] == 0.0
    assert set(term["values"]) == {case.name for case in sample_traces("a", "b")}
    filled = {argument["name"]: argument["filled_by"] for argument in term["arguments"]}
    assert filled["ground_truth"] == "the label"
    assert filled["scale"] == "its default; no such column"


def test_a_setting_of_the_term_is_used(tmp_path: Path):
    plugin = write_plugin(tmp_path, GOOD)
    (term,) = linted(tmp_path, f"{plugin}:score", "--set", "params.scale=3.0")
    assert term["values"][RIGHT] == 3.0


def test_an_async_function_of_trls_is_told_apart(tmp_path: Path):
    source = """
async def f(completions, label, log_metric=None, **kw):
    return [float(one in text) for one, text in zip(label, completions)]
"""
    (term,) = linted(tmp_path, f"{write_plugin(tmp_path, source)}:f")
    assert term["style"] == "TRL's, because it takes completions; async, once per group"
    assert term["findings"] == []


def test_a_function_of_verls_batch_manager_is_told_apart(tmp_path: Path):
    source = """
def f(data_sources, solution_strs, ground_truths, extra_infos, scale=1.0):
    both = zip(ground_truths, solution_strs)
    return [{"score": float(f"<answer>{one}</answer>" in text)} for one, text in both]
"""
    (term,) = linted(tmp_path, f"{write_plugin(tmp_path, source)}:f")
    whose = "that of verl's batch manager, because it takes solution_strs; sync, once per group"
    assert term["style"] == whose
    assert term["findings"] == []
    filled = {argument["name"]: argument["filled_by"] for argument in term["arguments"]}
    assert filled["ground_truths"] == "the label, for each of them"
    assert filled["scale"] == "its default; no such column"


@pytest.mark.parametrize(
    ("body", "what", "remedy", "where"),
    [
        ("return solution_str.split('<answer>')[1] and 1.0", "IndexError", "return 0", "empty"),
        ("return float('nan') if '1e999' in solution_str else 1.0", "nan", "finite", "no label"),
        ("return 'good' if not solution_str else 1.0", "'good' (str)", "a number", "empty"),
        ("return {'reward': 1.0}", "without 'score'", "name the reward 'score'", RIGHT),
        ("import sys; sys.exit(3) if '\\x00' in solution_str else 0; return 1.0",
         "SystemExit", "instead of ending", "unicode"),
        ("import os; os.abort() if 'im_start' in solution_str else 0; return 1.0",
         "SIGABRT", "mend the crash", "control tokens"),
    ],
)  # fmt: skip
def test_every_fault_names_its_traces_and_its_remedy(
    body: str, what: str, remedy: str, where: str, tmp_path: Path
):
    plugin = write_plugin(tmp_path, f"def f(solution_str):\n    {body}\n")
    (term,) = linted(tmp_path, f"{plugin}:f", status=2)
    found = faults(term)
    assert any(what in w and remedy in r and where in places for w, r, places in found), found
    if where != RIGHT:
        assert all(RIGHT not in places for _, _, places in found)


@pytest.mark.slow
def test_a_function_that_hangs_on_one_trace_is_late_on_that_alone(tmp_path: Path):
    body = "import time; time.sleep(99 if len(solution_str) > 50000 else 0); return 1.0"
    plugin = write_plugin(tmp_path, f"def f(solution_str):\n    {body}\n")
    (term,) = linted(tmp_path, f"{plugin}:f", "--set", "timeout_s=6", status=2)
    ((what, remedy, where),) = faults(term)
    assert what.startswith("no answer within 6 s")
    assert "raise the term's timeout_s" in remedy
    assert where == ["very long"]
    assert faults(term, "warning") == []


def test_a_fault_that_only_a_group_shows_is_found(tmp_path: Path):
    source = """
def f(completions, **kw):
    return [float(len(c)) for c in completions if c.strip() or len(completions) == 1]
"""
    (term,) = linted(tmp_path, f"{write_plugin(tmp_path, source)}:f", status=2)
    ((what, remedy, _),) = faults(term)
    assert what == "asked about 17 traces at once: returned 15 rewards for 17 completions"
    assert remedy.startswith("return one reward for each completion")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("return 1.0", "gives 1 to every trace"),
        ("return None", "gives None to every trace"),
        ("import random; return random.random()", "to the same trace"),
        ("return -float(ground_truth in solution_str)",
         "gives the wrong answer 0, the right one -1"),
        ("return None if '<answer>' not in solution_str else float(ground_truth in solution_str)",
         "does not apply (None) to malformed traces"),
    ],
)  # fmt: skip
def test_what_a_policy_would_learn_wrongly_is_a_warning(body: str, what: str, tmp_path: Path):
    plugin = write_plugin(tmp_path, f"def f(solution_str, ground_truth):\n    {body}\n")
    (term,) = linted(tmp_path, f"{plugin}:f")
    assert any(what in found for found, _, _ in faults(term, "warning")), term["findings"]


@pytest.mark.parametrize(
    ("source", "what", "remedy"),
    [
        ("def f(text):\n    return 1.0\n", "wrong signature", "--set style=verl"),
        ("def f1(solution_str):\n    return 1.0\n", "has no 'f'", "did you mean"),
        ("import nothing_such\n", "importing", "No module named"),
        ("def f(:\n", "importing", "SyntaxError"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_one_error(
    source: str, what: str, remedy: str, tmp_path: Path
):
    (term,) = linted(tmp_path, f"{write_plugin(tmp_path, source)}:f", status=2)
    (fault,) = faults(term)
    assert what in f"{fault[0]}; {fault[1]}"
    assert remedy in f"{fault[0]}; {fault[1]}"
    assert term["values"] == {}


def test_a_recipe_says_which_columns_fill_a_function_and_which_rows_lack_one(tmp_path: Path):
    source = "def f(solution_str, fps, spans, scene='x'):\n    return fps + len(solution_str)\n"
    recipe = write_recipe(
        tmp_path,
        f'function = "{write_plugin(tmp_path, source)}:f"',
        'function = "accuracy"\ngated_by = "f"\nweight = 0.1',
    )
    plugin, accuracy = linted(tmp_path, recipe, status=2)
    filled = {argument["name"]: argument["filled_by"] for argument in plugin["arguments"]}
    assert filled["fps"] == "column fps, in all 2 samples"
    assert filled["spans"] == "column spans, in 1 of 2 samples"
    assert any("spans, which 1 of 2 rows lack" in what for what, _, _ in faults(plugin))
    assert accuracy["findings"] == []
    assert accuracy["values"][RIGHT] == 1.0


def test_a_function_that_needs_a_column_is_not_tried_without_a_manifest(tmp_path: Path):
    plugin = write_plugin(tmp_path, "def f(solution_str, fps):\n    return float(fps)\n")
    (term,) = linted(tmp_path, f"{plugin}:f")
    ((what, remedy, _),) = faults(term, "warning")
    assert "takes fps from the manifest" in what
    assert "--set params.fps=VALUE" in remedy


def test_a_function_that_hangs_on_everything_is_given_up_after_three_traces(tmp_path: Path):
    plugin = write_plugin(tmp_path, "def f(solution_str):\n    while True:\n        pass\n")
    (term,) = linted(tmp_path, f"{plugin}:f", "--set", "timeout_s=0.3", status=2)
    ((_, _, where),) = faults(term)
    assert len(where) == 3


async def test_a_judge_is_asked_about_each_trace_once():
    async with serving(Server(reply("<score>5</score>"))) as server:
        settings = [f'params={{base_url = "{server.url}", model = "m", max_retries = 0}}']
        (term,) = await lint(read_subject("judge", settings))
        assert len(server.requests) == len(sample_traces("a", "b"))
        assert {finding.level for finding in term.findings} == {Level.WARNING}  # always 0.5
        server.replies = [reply("no idea")]
        (term,) = await lint(read_subject("judge", settings))
    assert [it.remedy for it in term.findings] == [
        "see that the judge answers, and that it is told to give one score"
    ]


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("nothing.py:f", "there is no file"),
        ("acuracy", "did you mean 'accuracy'?"),
        ("nothing.toml", "cannot read the recipe"),
    ],
)
def test_what_is_not_there_is_refused(
    subject: str, message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["reward", "lint", subject]) == 2
    said = capsys.readouterr()
    assert message in said.err + said.out


def test_a_person_reads_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plugin = write_plugin(tmp_path, "def f(solution_str):\n    return 1 / len(solution_str)\n")
    assert main(["reward", "lint", f"{plugin}:f"]) == 2
    said = capsys.readouterr()
    assert "verl's, because it takes solution_str" in said.out
    assert "ZeroDivisionError" in said.out
    assert "on: empty" in said.out
    assert "-> catch it: malformed output" in said.out
    assert said.err.startswith("error: 1 error in ")
