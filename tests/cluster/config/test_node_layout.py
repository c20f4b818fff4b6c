from typing import Any

import pytest

from cluster.config.fleet import ClusterConfig
from cluster.config.node_layout import (
    Kind,
    describe,
    kinds_of,
    lay_out,
    lay_out_run,
    room_for,
    worker_kind,
)
from cluster.config.recipe import RunConfig
from wire.config import validate

EIGHT = {"CPU": 64.0, "GPU": 8.0}


def config_of(workers: int, ranks: int, engine: float, rank: float, **rollout: Any) -> RunConfig:
    values = {
        "model": "m",
        "labels": [{"name": "a"}, {"name": "b"}],
        "data": {"manifest": "m.jsonl"},
        "rollout": {"num_workers": workers, "num_gpus": engine, **rollout},
        "learner": {"num_ranks": ranks, "num_gpus": rank},
    }
    return validate(RunConfig, values, "recipe")


def counted(layout: list[list[int]] | None, num_nodes: int) -> list[list[int]]:
    """Workers of each kind on each node."""
    assert layout is not None
    return [[nodes.count(node) for node in range(num_nodes)] for nodes in layout]


@pytest.mark.parametrize(
    ("workers", "ranks", "tensor_parallel", "nodes", "engines_on", "ranks_on"),
    [
        (16, 16, 1, 4, [4, 4, 4, 4], [4, 4, 4, 4]),
        (4, 4, 1, 1, [4], [4]),
        (4, 4, 1, 4, [4, 0, 0, 0], [4, 0, 0, 0]),
        (8, 8, 1, 4, [4, 4, 0, 0], [4, 4, 0, 0]),
        (8, 16, 2, 4, [2, 2, 2, 2], [4, 4, 4, 4]),
        (10, 12, 2, 4, [3, 3, 2, 2], [2, 2, 4, 4]),
        (12, 20, 1, 4, [3, 3, 3, 3], [5, 5, 5, 5]),
        (1, 15, 1, 2, [1, 0], [7, 8]),
        (1, 1, 1, 1, [1], [1]),
        (1, 8, 8, 2, [1, 0], [0, 8]),
    ],
)
def test_each_node_gets_engines_and_ranks_in_proportion_and_no_node_is_used_in_vain(
    workers: int,
    ranks: int,
    tensor_parallel: int,
    nodes: int,
    engines_on: list[int],
    ranks_on: list[int],
):
    config = config_of(workers, ranks, tensor_parallel, 1, tensor_parallel_size=tensor_parallel)
    layout = lay_out(kinds_of(config), [EIGHT] * nodes)
    assert counted(layout, nodes) == [engines_on, ranks_on]


def test_neighbouring_ranks_share_a_node():
    layout = lay_out(kinds_of(config_of(8, 24, 1, 1)), [EIGHT] * 4)
    assert layout is not None
    assert layout[1] == sorted(layout[1])


def test_a_larger_node_gets_more_of_both():
    config = config_of(6, 6, 1, 1)
    layout = lay_out(kinds_of(config), [{"CPU": 64.0, "GPU": 4.0}, EIGHT])
    assert counted(layout, 2) == [[2, 4], [2, 4]]


def test_workers_without_gpus_are_spread_as_those_with():
    cpu_only = [{"CPU": 4.0}] * 4
    kinds = [
        Kind(name="rollout worker", bundle={"CPU": 2.0}, count=4),
        Kind(name="learner rank", bundle={"CPU": 2.0}, count=4),
    ]
    assert counted(lay_out(kinds, cpu_only), 4) == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_a_pair_has_a_gpu_of_its_own_even_if_it_asks_for_less():
    (kind,) = kinds_of(config_of(4, 4, 0.3, 0.3, num_cpus=2))
    assert (kind.count, kind.bundle) == (4, {"CPU": 2.5, "GPU": 1.0})
    assert counted(lay_out([kind], [EIGHT]), 1) == [[4]]
    assert lay_out([kind], [{"CPU": 64.0, "GPU": 3.0}]) is None


def test_what_fits_only_into_odd_gaps_is_found_a_place():
    """In proportion each node would get one of the large ones first."""
    kinds = [
        Kind(name="a", bundle={"CPU": 3.0}, count=2),
        Kind(name="b", bundle={"CPU": 2.0}, count=2),
    ]
    layout = lay_out(kinds, [{"CPU": 6.0}, {"CPU": 4.0}])
    assert counted(layout, 2) == [[2, 0], [0, 2]]


def test_enough_in_sum_but_on_no_single_node_does_not_fit():
    three = Kind(name="a", bundle={"CPU": 3.0}, count=1)
    assert lay_out([three], [{"CPU": 2.0}, {"CPU": 2.0}]) is None


def test_a_layout_is_described_by_node():
    nodes = [EIGHT] * 4
    kinds = kinds_of(config_of(10, 12, 2, 1, tensor_parallel_size=2))
    layout = lay_out(kinds, nodes)
    assert layout is not None
    text = describe(kinds, layout, nodes)
    assert text.startswith("22 workers reserve 11 CPUs and 32 GPUs of 256 CPUs and 32 GPUs: ")
    assert "2 of 4 nodes with 3 rollout workers and 2 learner ranks each" in text
    pairs = kinds_of(config_of(4, 4, 0.5, 0.5))
    assert describe(pairs, [[0] * 4], [EIGHT]).startswith("4 pairs of engine and rank reserve")


def test_an_elastic_run_is_laid_out_with_as_many_workers_as_fit():
    elastic = config_of(12, 4, 1, 1, min_workers=2)
    assert counted(lay_out_run(elastic, [EIGHT]), 1) == [[4], [4]]
    assert counted(lay_out_run(elastic, [EIGHT] * 2), 2) == [[6, 6], [2, 2]]
    assert lay_out_run(elastic, [{"CPU": 64.0, "GPU": 5.0}]) is None, "two and four do not fit"
    assert lay_out_run(config_of(12, 4, 1, 1), [EIGHT]) is None, "that many or none"


def test_room_counts_whole_workers_of_each_node():
    kind = worker_kind(config_of(1, 1, 1, 1, num_cpus=4))
    nodes = [{"CPU": 64.0, "GPU": 2.0}, {"CPU": 7.9, "GPU": 8.0}, {"CPU": 64.0}]
    assert [room_for(kind, [node]) for node in nodes] == [2, 1, 0]
    assert room_for(kind, nodes) == 3


def test_roles_keep_ranks_off_nodes_that_come_and_go():
    cluster = {"role_resources": True}
    config = config_of(2, 2, 1, 1).model_copy(update={"cluster": ClusterConfig(**cluster)})
    comes_and_goes = {"CPU": 64.0, "GPU": 8.0, "rollout_worker": 2.0}
    stays = {"CPU": 64.0, "GPU": 2.0, "learner_rank": 2.0}
    assert lay_out(kinds_of(config), [comes_and_goes, stays]) == [[0, 0], [1, 1]]
    assert lay_out(kinds_of(config), [comes_and_goes, comes_and_goes]) is None
    assert kinds_of(config, engines=False)[0].bundle["learner_rank"] == 1
