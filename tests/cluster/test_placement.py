from typing import Any

import pytest
import ray

from cluster.placement import _start_local, check_fits
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


class SlowRay:
    """Comes up at the n-th start."""

    def __init__(self, comes_up_at: int) -> None:
        self.starts, self._at = 0, comes_up_at

    def init(self, **options: Any) -> None:
        assert options == {"address": "local", "log_to_driver": False}
        self.starts += 1
        if self.starts < self._at:
            raise Exception("The current node timed out during startup. This could happen")


def test_a_ray_that_comes_up_too_late_is_started_once_more(monkeypatch: pytest.MonkeyPatch):
    late = SlowRay(comes_up_at=2)
    monkeypatch.setattr(ray, "init", late.init)
    _start_local(log_to_driver=False)
    assert late.starts == 2


def test_a_ray_that_does_not_come_up_is_no_bug_of_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "init", SlowRay(comes_up_at=9).init)
    with pytest.raises(PlacementError, match="too busy; end other work, or start Ray beforehand"):
        _start_local(log_to_driver=False)
