from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.config.recipe import read_recipe
from cluster.deploy.node_groups import NodeGroup, PerNode, node_groups
from wire.errors import ConfigError

Write = Callable[..., Path]
GPUS = """
[rollout]
num_workers = 4
num_gpus = 1
num_cpus = 4
{more}
[learner]
num_ranks = 12
num_gpus = 1
num_cpus = 3
"""


def groups(write_recipe: Write, sections: str, **per_node: float) -> dict[str, NodeGroup]:
    config = read_recipe(write_recipe(sections), [])
    return {group.name: group for group in node_groups(config, PerNode(**per_node))}


def test_an_elastic_recipe_has_rollout_nodes_that_come_and_go_and_fixed_learner_nodes(
    write_recipe: Write,
):
    made = groups(write_recipe, GPUS.format(more="min_workers = 2\nmax_workers = 20"))
    rollout, learner = made["rollout"], made["learner"]
    assert (rollout.minimum, rollout.start, rollout.maximum) == (2, 4, 20)
    assert (rollout.gpus, rollout.cpus, rollout.per_node) == (1, 4, 1)
    assert (learner.minimum, learner.start, learner.maximum) == (2, 2, 2)
    assert (learner.gpus, learner.cpus, learner.per_node) == (6, 18, 6)  # 12 ranks: not 8 and 4
    assert rollout.is_elastic
    assert not learner.is_elastic


def test_without_bounds_no_node_comes_or_goes(write_recipe: Write):
    rollout = groups(write_recipe, GPUS.format(more=""))["rollout"]
    assert (rollout.minimum, rollout.start, rollout.maximum) == (4, 4, 4)


def test_several_workers_of_a_node_make_fewer_nodes(write_recipe: Write):
    made = groups(write_recipe, GPUS.format(more="max_workers = 21"), workers=4, ranks=3)
    rollout = made["rollout"]
    assert (rollout.minimum, rollout.start, rollout.maximum) == (1, 1, 6)
    assert (rollout.gpus, rollout.cpus) == (4, 16)
    assert made["learner"].start == 4


def test_ranks_that_do_not_divide_into_nodes_are_refused(write_recipe: Write):
    with pytest.raises(ConfigError, match=r"--ranks-per-node 5 does not divide .*=12"):
        groups(write_recipe, GPUS.format(more=""), ranks=5)


def test_pairs_of_engine_and_rank_have_one_fixed_group(write_recipe: Write):
    halves = "[rollout]\nnum_workers = 16\nnum_gpus = 0.5\nnum_cpus = 2\n[learner]\n"
    made = groups(write_recipe, halves + "num_ranks = 16\nnum_gpus = 0.5\nnum_cpus = 1\n")
    (pairs,) = made.values()
    assert (pairs.name, pairs.role, pairs.start, pairs.maximum) == ("pairs", "learner_rank", 2, 2)
    assert (pairs.per_node, pairs.gpus, pairs.cpus) == (8, 8, 24)


def test_memory_grows_with_what_a_node_holds_and_can_be_given(write_recipe: Write):
    sections = GPUS.format(more="")
    one = groups(write_recipe, sections)["rollout"].memory_gb
    assert one > 16.6 + 4  # a 7B model in bfloat16, and its process
    assert groups(write_recipe, sections, workers=2)["rollout"].memory_gb == pytest.approx(
        2 * one, 0.1
    )
    assert groups(write_recipe, sections, worker_gb=70)["rollout"].memory_gb == 100  # Ray takes 30%


def test_a_worker_that_computes_on_cpus_has_as_many_as_threads(write_recipe: Write):
    made = groups(write_recipe, "[rollout]\nnum_cpus = 0.5\nnum_threads = 3\n", workers=2)
    assert (made["rollout"].cpus, made["rollout"].gpus) == (6, 0)
