"""`deepintuit rescore`: an archive under another reward, also when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from cluster.config.recipe import RunConfig, read_recipe
from cluster.driver.progress import progress_bar
from cluster.inputs.scorer import new_reward
from reward.tools.rescore import Rescored, rescore
from reward.tools.score_file import ScoreFile, read_scores
from tests.reward.judge_server import Server, reply, serving
from tests.reward.tools.builders import contents, make_group, make_run, write_plugin, write_recipe
from wire.archive.archive import Archive
from wire.errors import ConfigError, TooManyFailures
from wire.types import Purpose
from wire.whole_file import write_json

ROOT = Path(__file__).parents[3]
STARTED = "python -m cluster.cli"
RIGHT = {
    "fall": "<think>a</think><answer>fall</answer>",
    "walk": "<think>a</think><answer>walk</answer>",
}
ACCURACY = 'function = "accuracy"'
COUNTED = """
import os, time

def score(solution_str, extra_info):
    with open({log!r}, "a") as file:
        file.write(extra_info["sample_id"] + "\\n")
    time.sleep({seconds})
    return float(len(solution_str))
"""


def run_of(tmp_path: Path, count: int = 6) -> Path:
    """Every group has a right trace that had earned 0, and a wrong one that had earned 1."""
    groups = [
        make_group(k, [(RIGHT[("fall", "walk")[k % 2]], 0.0), ("<answer>none</answer>", 1.0)])
        for k in range(count)
    ]
    return make_run(tmp_path, groups)


async def rescored(run: Path, config: RunConfig) -> Rescored:
    return await rescore(run, new_reward(config, "new", run), progress_bar)


def scores_in(run: Path) -> Path:
    (path,) = (run / "rescored").glob("*/scores.jsonl")
    return path


def changed(tmp_path: Path, *words: object) -> dict[str, Any]:
    """What the command writes with --json."""
    path = tmp_path / "out.json"
    assert main(["rescore", *map(str, words), "--json", str(path)]) == 0
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def test_a_reward_that_turns_every_group_round_is_seen_to(tmp_path: Path):
    run = run_of(tmp_path)
    found = changed(tmp_path, run, "--recipe", write_recipe(tmp_path, ACCURACY))
    assert (found["num_groups"], found["num_traces"]) == (6, 12)
    assert (found["num_flipped"], found["num_comparable"]) == (6, 6)
    assert found["rank_correlation"] == pytest.approx(-1.0)
    assert found["rank_correlation_in_groups"] == pytest.approx(-1.0)
    totals = {row["label"]: row for row in found["means"] if row["part"] == "total"}
    assert set(totals) == {None, "fall", "walk"}
    assert (totals["fall"]["before"], totals["fall"]["now"]) == (0.5, 0.5)


def test_the_archive_is_left_as_it_was_and_the_scores_lie_beside_it(tmp_path: Path):
    run = run_of(tmp_path)
    before = contents(run)
    changed(tmp_path, run, "--recipe", write_recipe(tmp_path, ACCURACY))
    after = contents(run)
    assert {path: after[path] for path in before} == before
    new = {Path(path).relative_to(run).parts[0] for path in after.keys() - before.keys()}
    assert new == {"rescored"}


def test_the_same_reward_gives_the_same_scores(tmp_path: Path):
    traces = [(RIGHT["fall"], 1.0), ("<answer>walk</answer>", 0.0)]
    run = make_run(tmp_path, [make_group(k, traces, label="fall") for k in range(4)])
    found = changed(tmp_path, run, "--recipe", write_recipe(tmp_path, ACCURACY))
    assert found["num_flipped"] == 0
    assert found["rank_correlation"] == pytest.approx(1.0)
    for row in found["means"]:
        assert row["before"] == row["now"]


def test_what_is_judged_is_not_judged_again_and_what_the_run_wrote_since_is(tmp_path: Path):
    log = tmp_path / "log"
    plugin = write_plugin(tmp_path, COUNTED.format(log=str(log), seconds=0))
    recipe = write_recipe(tmp_path, f'function = "{plugin}:score"')
    groups = [make_group(k, [("a", 1.0), ("bb", 0.0)]) for k in range(6)]
    run = make_run(tmp_path, groups[:4])
    changed(tmp_path, run, "--recipe", recipe)
    assert len(log.read_text().split()) == 8
    changed(tmp_path, run, "--recipe", recipe)
    assert len(log.read_text().split()) == 8
    with Archive(run / "archive", 1) as archive:
        for group in groups[4:]:
            archive.append(group)
    assert changed(tmp_path, run, "--recipe", recipe)["num_groups"] == 6
    assert len(log.read_text().split()) == 12


def test_groups_of_one_name_in_two_attempts_are_both_judged(tmp_path: Path):
    groups = [make_group(0, [("a", 1.0)]), make_group(0, [("bb", 1.0)], attempt=1)]
    run = make_run(tmp_path, groups[:1])
    for attempt, group in ((1, groups[1]), (2, groups[1])):
        with Archive(run / "archive", attempt) as archive:
            archive.append(group)
    plugin = write_plugin(tmp_path, "def score(solution_str):\n    return len(solution_str)\n")
    recipe = write_recipe(tmp_path, f'function = "{plugin}:score"')
    found = changed(tmp_path, run, "--recipe", recipe)
    assert (found["num_groups"], found["means"][0]["now"]) == (3, pytest.approx(5 / 3))


def test_a_function_that_cannot_be_loaded_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, plugin = run_of(tmp_path), write_plugin(tmp_path, "import nothing_such\n")
    recipe = write_recipe(tmp_path, f'function = "{plugin}:score"')
    assert main(["rescore", str(run), "--recipe", str(recipe)]) == 2
    assert "nothing_such" in capsys.readouterr().err
    assert not (run / "rescored").exists()


def test_a_changed_function_goes_on_in_no_other_scores(tmp_path: Path):
    run = run_of(tmp_path)
    source = "def score(solution_str):\n    return {}\n"
    plugin = write_plugin(tmp_path, source.format(1.0))
    recipe = write_recipe(tmp_path, f'function = "{plugin}:score"')
    changed(tmp_path, run, "--recipe", recipe)
    plugin.write_text(source.format(2.0))
    found = changed(tmp_path, run, "--recipe", recipe)
    assert found["means"][0]["now"] == 2.0
    assert len(list((run / "rescored").iterdir())) == 2


def test_a_longer_timeout_or_another_placement_goes_on_in_the_same_scores(tmp_path: Path):
    run = run_of(tmp_path)
    plugin = write_plugin(tmp_path, "def score(solution_str):\n    return 1.0\n")
    for timeout, placement in ((5, "driver"), (50, "spread")):
        term = f'function = "{plugin}:score"\ntimeout_s = {timeout}'
        recipe = write_recipe(tmp_path, term)
        recipe.write_text(f'{recipe.read_text()}\n[reward]\nplacement = "{placement}"\n')
        changed(tmp_path, run, "--recipe", recipe)
    assert len(list((run / "rescored").iterdir())) == 1


def test_only_groups_of_one_purpose_are_judged_if_asked_to(tmp_path: Path):
    purposes = [Purpose.TRAIN, Purpose.EVALUATION, Purpose.EVALUATION]
    groups = [make_group(k, [("a", 1.0)], purpose=purpose) for k, purpose in enumerate(purposes)]
    run = make_run(tmp_path, groups)
    recipe = write_recipe(tmp_path, ACCURACY)
    found = changed(tmp_path, run, "--recipe", recipe, "--purpose", "evaluation")
    assert found["num_groups"] == 2
    assert changed(tmp_path, run, "--recipe", recipe)["num_groups"] == 3


def test_rationales_are_not_judged(tmp_path: Path):
    purposes = [Purpose.TRAIN, Purpose.RATIONALE, Purpose.RATIONALE]
    groups = [make_group(k, [("a", 1.0)], purpose=purpose) for k, purpose in enumerate(purposes)]
    run = make_run(tmp_path, groups)
    recipe = write_recipe(tmp_path, ACCURACY)
    assert changed(tmp_path, run, "--recipe", recipe)["num_groups"] == 1


async def test_failures_end_it_and_are_asked_again_by_the_next_call(tmp_path: Path):
    run = run_of(tmp_path, count=40)
    flag = tmp_path / "mended"
    source = f"""
import os

def score(solution_str):
    if not os.path.exists({str(flag)!r}):
        raise RuntimeError("the service is down")
    return 1.0
"""
    plugin = write_plugin(tmp_path, source)
    config = read_recipe(write_recipe(tmp_path, f'function = "{plugin}:score"'), [])
    with pytest.raises(TooManyFailures, match="service is down"):
        await rescored(run, config)
    flag.touch()
    found = await rescored(run, config)
    assert (found.num_before, found.num_judged) == (0, 40)
    assert found.change.num_failed_now == 0


async def test_traces_that_failed_are_left_out_of_both_sides(tmp_path: Path):
    groups = [make_group(k, [("a", None), ("a", 1.0)], label="fall") for k in range(3)]
    run = make_run(tmp_path, groups)
    config = read_recipe(write_recipe(tmp_path, ACCURACY), [])
    change = (await rescored(run, config)).change
    assert (change.num_failed_before, change.num_failed_now) == (3, 0)
    assert change.num_comparable == 0
    assert (change.means[0].num_before, change.means[0].num_now) == (3, 6)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", 'labels=[{name="x"}, {name="y"}]'], "has the label 'fall'"),
        (["--purpose", "calibration"], "no traces of purpose calibration"),
    ],
)
def test_an_archive_that_the_recipe_does_not_fit_is_refused(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, recipe = run_of(tmp_path), write_recipe(tmp_path, ACCURACY)
    assert main(["rescore", str(run), "--recipe", str(recipe), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (run / "rescored").exists()


def test_a_folder_without_an_archive_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = write_recipe(tmp_path, ACCURACY)
    assert main(["rescore", str(tmp_path), "--recipe", str(recipe)]) == 1
    assert "there is no trace archive" in capsys.readouterr().err


async def test_a_judge_is_asked_anew_and_its_cache_answers_for_what_was_cut_off(tmp_path: Path):
    run = run_of(tmp_path)
    async with serving(Server(reply("<score>5</score>"))) as server:
        params = f'{{ base_url = "{server.url}", model = "m", cache_dir = "{tmp_path}/cache" }}'
        term = f'function = "judge"\nweight = 2.0\nparams = {params}'
        config = read_recipe(write_recipe(tmp_path, term), [])
        found = await rescored(run, config)
        assert {row.now for row in found.change.means if row.part == "judge"} == {0.5}
        assert {row.now for row in found.change.means if row.part == "total"} == {1.0}
        asked = len(server.requests)
        path = found.folder / "scores.jsonl"
        path.write_bytes(path.read_bytes()[:-9])
        again = await rescored(run, config)
    assert (again.num_before, again.num_judged) == (5, 1)
    assert again.change == found.change
    assert len(server.requests) == asked


async def test_two_at_once_are_refused(tmp_path: Path):
    run = run_of(tmp_path)
    config = read_recipe(write_recipe(tmp_path, ACCURACY), [])
    folder = (await rescored(run, config)).folder
    with (
        ScoreFile(folder / "scores.jsonl"),
        pytest.raises(ConfigError, match="another process is scoring"),
    ):
        await rescored(run, config)


async def test_a_torn_last_line_is_cut_off_and_its_group_judged_again(tmp_path: Path):
    run = run_of(tmp_path)
    config = read_recipe(write_recipe(tmp_path, ACCURACY), [])
    first = await rescored(run, config)
    path = first.folder / "scores.jsonl"
    whole = path.read_bytes()
    for cut in (1, 7, 60):
        path.write_bytes(whole[:-cut])
        again = await rescored(run, config)
        assert (again.num_before, again.num_judged) == (5, 1)
        assert again.change == first.change
        assert len(read_scores(path)) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "num_done"),
    [(signal.SIGKILL, 1), (signal.SIGKILL, 9), (signal.SIGKILL, 30), (signal.SIGINT, 5)],
)
def test_a_killed_rescore_goes_on_without_losing_or_repeating_a_group(
    number: signal.Signals, num_done: int, tmp_path: Path
):
    """In the middle of groups; an interrupt says how to go on."""
    log = tmp_path / "log"
    plugin = write_plugin(tmp_path, COUNTED.format(log=str(log), seconds=0.02))
    recipe = write_recipe(tmp_path, f'function = "{plugin}:score"\nconcurrency = 2')
    groups = [make_group(k, [("a", 1.0), ("bb", 0.0), ("c", 0.5)]) for k in range(40)]
    run = make_run(tmp_path, groups)
    before = contents(run / "archive")
    command = [sys.executable, "-m", "cluster.cli", "rescore", str(run), "--recipe", str(recipe)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    said = tmp_path / "said"
    with said.open("w") as file:
        killed = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=file
        )
    deadline = time.monotonic() + 120
    while killed.poll() is None and _lines(run) < num_done and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(killed.pid, number)
    if number is signal.SIGKILL:
        assert killed.wait() == -signal.SIGKILL
    else:
        assert killed.wait() == 130
        assert f"go on from what is done with: {STARTED} rescore {run}" in said.read_text()
    kept = {judged.sample_id for judged in read_scores(scores_in(run))}
    assert num_done <= len(kept) < 40
    time.sleep(0.5)  # its reward processes end with it
    calls_before = Counter(log.read_text().split())

    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    lines = [json.loads(line) for line in scores_in(run).read_text().splitlines()]
    assert sorted(line["sample_id"] for line in lines) == sorted(f"clip-{k}" for k in range(40))
    assert all([o["total"] for o in line["now"]] == [1.0, 2.0, 1.0] for line in lines)
    calls_after = Counter(log.read_text().split()) - calls_before
    assert not kept & calls_after.keys()
    assert contents(run / "archive") == before


def _lines(run: Path) -> int:
    paths = list((run / "rescored").glob("*/scores.jsonl"))
    return paths[0].read_bytes().count(b"\n") if paths else 0


def test_a_reward_is_given_the_prompts_that_the_runs_traces_answer(tmp_path: Path):
    run = run_of(tmp_path, 2)
    config = read_recipe(write_recipe(tmp_path, ACCURACY), [])
    sample = make_group(0, []).sample
    recipes = new_reward(config, "new", run).prompt_of(sample)
    assert recipes == config.prompt_set.trace(sample)[0].text
    texts = {"prompts": {"trace": "Asked then: {labels}"}}
    write_json(run / "run.json", config.model_dump(mode="json") | texts)
    assert new_reward(config, "new", run).prompt_of(sample) == "Asked then: fall, walk"
