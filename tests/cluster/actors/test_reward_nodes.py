"""User reward functions on two fake nodes of a real Ray."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.reward.plugins.user_rewards import alive

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """Who scored what, while the nodes' actors are killed one after the other."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.actors.rewards_on_fake_nodes"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def runners(outcomes: Iterable[Any]) -> set[int]:
    """Processes that ran the function's processes; a failure would have no such part."""
    return {int(parts["place/runner"]) for parts in outcomes}


def test_both_nodes_run_the_function_in_processes_of_its_own(seen: dict[str, Any]) -> None:
    places = dict(seen["actors"])
    assert set(places) == set(seen["nodes"]), "one actor on each node, however many seats it has"
    assert runners(seen["both"]) == set(places.values())
    assert len({parts["place/pid"] for parts in seen["both"]}) == 2


def test_an_actor_that_is_killed_costs_no_score(seen: dict[str, Any]) -> None:
    (_, killed), (_, other) = seen["actors"]
    outcomes = seen["while one is killed"]
    assert [parts["place"] for parts in outcomes] == [1.0] * 16
    assert other in runners(outcomes)
    assert runners(seen["without it"]) == {other}
    assert not alive(killed)


def test_where_no_node_is_left_the_function_runs_beside_the_driver(seen: dict[str, Any]) -> None:
    assert [parts["place"] for parts in seen["without any"]] == [1.0] * 4
    assert runners(seen["without any"]) == {seen["driver"]}


def test_no_process_of_the_function_outlives_its_node(seen: dict[str, Any]) -> None:
    phases = ("both", "while one is killed", "without it", "without any")
    pids = {int(parts["place/pid"]) for phase in phases for parts in seen[phase]}
    assert len(pids) == 3
    assert not [pid for pid in pids if alive(pid)]


def test_a_file_that_is_not_there_is_refused_with_node_and_path(seen: dict[str, Any]) -> None:
    assert f"on node {seen['names'][1]}: reward" in seen["refusal"]
    assert "there is no file" in seen["refusal"]
    assert "gone.py; start the run as a job" in seen["refusal"]
    assert seen["nodes"][1][:8] in seen["names"][1]


def test_figures_of_both_nodes_are_merged(seen: dict[str, Any]) -> None:
    assert seen["figures"]["reward/place/num_started"] == 2.0
    assert seen["figures"]["reward/place/latency_p50_s"] >= 0.2


def test_nothing_is_started_where_functions_run_on_the_driver(seen: dict[str, Any]) -> None:
    assert seen["with placement = driver"] == 0
