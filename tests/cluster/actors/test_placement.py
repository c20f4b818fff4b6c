import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.actors.placement import _environment, _start_local, require_fit
from cluster.config.recipe import RunConfig
from tests.cluster.actors.in_own_process import run_on_fake_nodes
from tests.cluster.config.test_node_layout import config_of
from wire.errors import PlacementError

NODE = {"CPU": 2.0, "memory": 1e9}


def cpu_config(workers: int, ranks: int, cpus: float) -> RunConfig:
    return config_of(workers, ranks, 0, 0, num_cpus=cpus)


def test_two_workers_and_two_ranks_of_half_a_cpu_fit_two_cores():
    assert require_fit(cpu_config(2, 2, 0.5), [NODE]) == [[0, 0], [0, 0]]


def test_too_few_cpus_are_said_with_what_is_there_and_what_to_do():
    with pytest.raises(PlacementError, match=r"need 8.5 CPUs.*2 CPUs.*lower rollout\.num_workers"):
        require_fit(cpu_config(2, 1, 4), [NODE])


def test_gpus_that_do_not_exist_are_said():
    with pytest.raises(PlacementError, match=r"2 GPUs in all.*0 GPUs"):
        require_fit(config_of(1, 1, 1, 1), [NODE])


def test_pairs_that_do_not_fit_are_said_to_be_pairs():
    with pytest.raises(PlacementError, match=r"3 pairs of engine and rank.*3 GPUs in all.*2 GPUs"):
        require_fit(config_of(3, 3, 0.5, 0.5), [{"CPU": 8.0, "GPU": 2.0}])


def test_roles_that_no_node_offers_are_said():
    config = cpu_config(1, 1, 0.5)
    cluster = config.cluster.model_copy(update={"role_resources": True})
    told = r"1 rollout_workers, 1 learner_ranks in all.*0 rollout_workers.*ray start --resources"
    with pytest.raises(PlacementError, match=told):
        require_fit(config.model_copy(update={"cluster": cluster}), [NODE])


def test_enough_in_sum_but_on_no_single_node_does_not_fit():
    with pytest.raises(PlacementError):
        require_fit(cpu_config(1, 1, 3), [NODE, NODE])
    assert require_fit(cpu_config(2, 1, 1.5), [NODE, NODE]) == [[0, 1], [0]]


def test_an_elastic_recipe_fits_where_its_fewest_workers_do():
    elastic = config_of(8, 1, 1, 1, min_workers=2, max_workers=16)
    assert require_fit(elastic, [{"CPU": 8.0, "GPU": 4.0}]) == [[0, 0, 0], [0]]
    with pytest.raises(PlacementError, match=r"places 3 workers that need .* 3 GPUs in all"):
        require_fit(elastic, [{"CPU": 8.0, "GPU": 2.0}])


@pytest.fixture(scope="module")
def fake_nodes() -> dict[str, Any]:
    """Where Ray puts actors on nodes with fake GPUs: 1 x 4 and 4 x 8."""
    return run_on_fake_nodes("seats_on_fake_nodes")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "pairs"), [("1x4", 4), ("4x8", 32)])
def test_an_engine_and_a_rank_that_share_a_gpu_are_a_pair_on_every_node(
    fake_nodes: dict[str, Any], nodes: str, pairs: int
):
    seen = fake_nodes[nodes]["pairs"]
    assert len(seen["engines"]) == pairs
    assert seen["engines"] == seen["ranks"], "node and GPU of engine i and rank i"
    assert len({(node, *gpus) for node, gpus in seen["ranks"]}) == pairs, "two ranks on one GPU"


@pytest.mark.ray
@pytest.mark.slow
def test_ray_puts_engines_and_ranks_on_the_nodes_that_were_chosen(fake_nodes: dict[str, Any]):
    seen = fake_nodes["4x8"]
    assert seen["16 + 16"] == [[4, 4, 4, 4], [4, 4, 4, 4]]
    assert seen["8 of two GPUs + 16"] == [[2, 2, 2, 2], [4, 4, 4, 4]]
    assert len(seen["GPUs of an engine of two"]) == 2


@pytest.mark.ray
@pytest.mark.slow
def test_each_rollout_worker_has_a_placement_group_of_its_own_and_gives_it_back_alone(
    fake_nodes: dict[str, Any],
):
    seen = fake_nodes["4x8"]
    assert seen["groups of 16 + 16"] == [16, 1], "ranks are placed together"
    assert seen["room beside 16 + 16"] == 0
    assert seen["room once one has left"] == 1
    assert seen["it comes to the node that has room"]


@pytest.mark.ray
@pytest.mark.slow
def test_an_elastic_run_starts_with_as_many_workers_as_fit(fake_nodes: dict[str, Any]):
    assert fake_nodes["4x8"]["elastic"] == [[4, 4, 4, 4], [4, 4, 4, 4]], "24 were asked for"


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_waits_for_all_of_its_gpus_and_leaves_none_reserved_when_it_gives_up(
    fake_nodes: dict[str, Any],
):
    seen = fake_nodes["4x8"]
    assert "its resources were not free within 1 s" in seen["while one GPU is taken"]
    assert seen["free after it gave up"] == 31
    assert seen["once it is free"] == [[4, 4, 4, 4], [4, 4, 4, 4]]


@pytest.mark.ray
@pytest.mark.slow
def test_no_gpu_of_a_killed_run_is_held_when_the_next_begins(fake_nodes: dict[str, Any]):
    seen = fake_nodes["1x4"]["after a kill"]
    assert seen["free while it ran"] == 0
    assert seen["GPUs of the next"] == [0, 1, 2, 3]
    assert seen["seconds"] < 60


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_has_the_role_whose_resource_it_offers(fake_nodes: dict[str, Any]):
    assert fake_nodes["roles"] == [[0, 2], [2, 0]], "workers, and ranks, by node"


class SlowRay:
    """Comes up at the n-th start."""

    def __init__(self, comes_up_at: int) -> None:
        self.starts, self._at, self.is_half_up = 0, comes_up_at, False

    def init(self, **options: Any) -> None:
        assert options == {"address": "local", "log_to_driver": False}
        assert not self.is_half_up, "what is left of the last start is in the way"
        self.starts += 1
        self.is_half_up = self.starts < self._at
        if self.is_half_up:
            raise Exception("The current node timed out during startup. This could happen")

    def shutdown(self) -> None:
        self.is_half_up = False


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> SlowRay:
    """In place of Ray's own calls: other tests' Ray stays up."""
    slow = SlowRay(request.param)
    monkeypatch.setattr(ray, "init", slow.init)
    monkeypatch.setattr(ray, "shutdown", slow.shutdown)
    return slow


@pytest.mark.parametrize("late", [2], indirect=True)
def test_a_ray_that_comes_up_too_late_is_started_once_more(late: SlowRay):
    _start_local(log_to_driver=False)
    assert late.starts == 2


@pytest.mark.parametrize("late", [9], indirect=True)
def test_a_ray_that_does_not_come_up_is_no_bug_of_ours(late: SlowRay):
    with pytest.raises(PlacementError, match="too busy; end other work, or start Ray beforehand"):
        _start_local(log_to_driver=False)
    assert not late.is_half_up


def test_an_interpreter_whose_path_has_a_space_is_quoted_for_ray():
    assert _environment("/a path/bin/python")["py_executable"] == "'/a path/bin/python'"
    assert "py_executable" not in _environment("/a/bin/python")


_WORKER = """
import ray, sys
from cluster.actors.placement import _environment
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
         object_store_memory=100 * 2**20, runtime_env=_environment(sys.executable))
print(ray.get(ray.remote(lambda: sys.executable).remote(), timeout=90))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_workers_start_in_an_environment_whose_path_has_a_space(tmp_path: Path):
    (tmp_path / "a path").mkdir()
    (tmp_path / "a path" / "env").symlink_to(Path(sys.prefix), target_is_directory=True)
    python = str(tmp_path / "a path" / "env" / "bin" / "python")
    done = subprocess.run([python, "-c", _WORKER], capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == python, done.stderr[-2000:]
