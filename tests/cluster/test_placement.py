import pytest

from cluster.placement import check_fits
from wire.errors import PlacementError

NODE = {"CPU": 2.0, "memory": 1e9}


def test_two_workers_and_two_ranks_of_half_a_cpu_fit_two_cores():
    check_fits([{"CPU": 0.5}] * 4, [NODE])


def test_too_few_cpus_are_said_with_what_is_there_and_what_to_do():
    with pytest.raises(PlacementError, match=r"need 8 CPUs.*2 CPUs.*lower rollout\.num_workers"):
        check_fits([{"CPU": 4.0}] * 2, [NODE])


def test_gpus_that_do_not_exist_are_said():
    with pytest.raises(PlacementError, match=r"2 GPUs in all.*0 GPUs"):
        check_fits([{"CPU": 0.5, "GPU": 1.0}] * 2, [NODE])


def test_enough_in_sum_but_on_no_single_node_does_not_fit():
    with pytest.raises(PlacementError):
        check_fits([{"CPU": 3.0}], [NODE, NODE])
    check_fits([{"CPU": 2.0}, {"CPU": 2.0}], [NODE, NODE])
