"""`deepintuit reward bench`: figures that add up, and nothing timed that failed."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from tests.reward.tools.builders import make_group, make_run, write_plugin, write_recipe

SOURCE = """
import time

def slow(solution_str):
    time.sleep(0.005)
    return 1.0

def quick(completions, completion_ids, **kw):
    return [float(len(ids)) for ids in completion_ids]

def broken(solution_str):
    raise ValueError("no")

def of_a_column(solution_str, fps):
    return float(fps)

def batch(data_sources, solution_strs, ground_truths, extra_infos):
    return [float(len(text)) for text in solution_strs]

async def waits(solution_str):
    return 1.0
"""


def timed(tmp_path: Path, subject: object, *words: object) -> list[dict[str, Any]]:
    path = tmp_path / "out.json"
    assert main(["reward", "bench", str(subject), *map(str, words), "--json", str(path)]) == 0
    terms: list[dict[str, Any]] = json.loads(path.read_text())["terms"]
    return terms


def test_a_slow_function_takes_its_time_in_both_ways(tmp_path: Path):
    plugin = write_plugin(tmp_path, SOURCE)
    (row,) = timed(tmp_path, f"{plugin}:slow", "--traces", 20, "--tokens", 10)
    assert row["num_traces"] == 20
    assert row["seconds"] >= 0.1
    assert row["plain_s"] >= 0.1
    assert row["overhead_s"] == pytest.approx(row["seconds"] - row["plain_s"])
    assert row["traces_per_s"] == pytest.approx(20 / row["seconds"])
    assert 0.005 <= row["p50_s"] <= row["p99_s"]
    assert (row["call"], row["num_failed"]) == ("trace", 0)


@pytest.mark.parametrize("function", ["quick", "batch", "waits"])
def test_groups_and_async_functions_are_timed_too(function: str, tmp_path: Path):
    plugin = write_plugin(tmp_path, SOURCE)
    (row,) = timed(tmp_path, f"{plugin}:{function}", "--traces", 20, "--tokens", 10)
    assert row["call"] == ("trace" if function == "waits" else "group")
    assert row["plain_s"] > 0


def test_what_fails_is_counted_and_has_no_plain_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    plugin = write_plugin(tmp_path, SOURCE)
    (row,) = timed(tmp_path, f"{plugin}:broken", "--traces", 5, "--tokens", 10)
    assert (row["num_failed"], row["plain_s"], row["overhead_s"]) == (5, None, None)
    assert "ValueError" in capsys.readouterr().out


def test_every_term_of_a_recipe_is_timed_alone_but_no_judge_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    judge = 'function = "judge"\nparams = { base_url = "http://127.0.0.1:9/v1", model = "m" }'
    quick = f'function = "{write_plugin(tmp_path, SOURCE)}:quick"'
    recipe = write_recipe(tmp_path, 'function = "accuracy"', quick, judge)
    rows = timed(tmp_path, recipe, "--traces", 20, "--tokens", 10)
    assert [row["part"] for row in rows] == ["accuracy", "quick"]
    assert (rows[0]["plain_s"], rows[0]["call"]) == (None, "group")
    assert 0 < rows[0]["p50_s"] <= rows[0]["p99_s"]
    assert "judge: left out" in capsys.readouterr().out


def test_the_traces_of_a_run_have_its_labels_and_columns(tmp_path: Path):
    run = make_run(tmp_path, [make_group(k, [("a", 1.0), ("b", 0.0)]) for k in range(6)])
    plugin = write_plugin(tmp_path, SOURCE)
    (row,) = timed(tmp_path, f"{plugin}:of_a_column", "--run", run)
    assert (row["num_traces"], row["num_failed"]) == (12, 0)
    (row,) = timed(tmp_path, f"{plugin}:of_a_column", "--run", run, "--traces", 5)
    assert row["num_traces"] == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--traces", "0"], "expected numbers from 1"),
        (["--run", "nowhere"], "there is no run in nowhere"),
        ([], "takes fps from the manifest"),
    ],
)
def test_what_cannot_be_timed_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    plugin = write_plugin(tmp_path, SOURCE)
    assert main(["reward", "bench", f"{plugin}:of_a_column", *words]) == 2
    assert message in capsys.readouterr().err
