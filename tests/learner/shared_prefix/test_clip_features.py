"""Features and pixels on their way between devices: what the CPU reads has arrived."""

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from learner.shared_prefix.batch import make_batch
from learner.shared_prefix.clip_features import ClipFeatures, Pixels
from tests.learner.builders import VIDEO_TOKEN, RandomClips, make_row
from video.positions import PositionRule

RULE = PositionRule("qwen2_5_vl", VIDEO_TOKEN, merge_size=2, tokens_per_second=2)


class Recorder(TorchFunctionMode):
    """Records for each copy of a tensor whether it may still run when the call returns."""

    def __init__(self) -> None:
        super().__init__()
        self.may_run_on: list[bool] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        kwargs = kwargs or {}
        if function is torch.Tensor.to:
            self.may_run_on.append(bool(kwargs.get("non_blocking")))
        assert function is not torch.Tensor.copy_ or not kwargs.get("non_blocking")
        return function(*args, **kwargs)


def everything_that_moves() -> list[Any]:
    clips = RandomClips()
    batch = make_batch([make_row(0, (3, 5))], lambda r: clips.load(r.prompt.clip_key, "", ""), RULE)
    features = ClipFeatures(torch.ones(4, 8), (torch.ones(4, 8),))
    return [features, Pixels(torch.ones(4, 8), torch.ones(1, 3, dtype=torch.int64)), batch]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(("device", "runs_on"), [("cpu", False), ("meta", True)])
def test_a_copy_to_the_cpu_has_ended_when_it_returns_and_one_to_a_gpu_may_run_on(
    number: int, device: str, runs_on: bool
):
    moving = everything_that_moves()[number]
    with Recorder() as recorder:
        moving.to(torch.device(device))
        moving.to(device)
    assert len(recorder.may_run_on) >= 4
    assert set(recorder.may_run_on) == {runs_on}
