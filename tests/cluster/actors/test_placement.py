from typing import Any

import pytest
import ray

from cluster.actors.placement import _start_local, check_fits
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
