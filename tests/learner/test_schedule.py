import warnings
from collections.abc import Callable

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from learner.schedule import Decay, schedule

NUM_STEPS = 37
DECAYS: list[Decay] = ["constant", "linear", "cosine"]


def shares(decay: Decay, warmup: int = 0, floor: float = 0.0) -> list[float]:
    return [schedule(decay, step, NUM_STEPS, warmup, floor) for step in range(NUM_STEPS)]


def theirs(make: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]):
    """Rates that a scheduler of torch's kind gives at a peak of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimizer.step(): nothing is trained here
        for _ in range(NUM_STEPS):
            found.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    return found


@pytest.mark.parametrize(
    ("decay", "name", "extra"),
    [
        ("constant", "constant_with_warmup", {}),
        ("linear", "linear", {}),
        ("cosine", "cosine", {}),
        ("cosine", "cosine_with_min_lr", {"min_lr_rate": 0.1}),
    ],
)
@pytest.mark.parametrize("warmup", [0, 5])
def test_schedules_are_transformers_but_for_a_warm_up_that_starts_above_zero(
    decay: Decay, name: str, extra: dict, warmup: int
):
    expected = theirs(
        lambda optimizer: transformers.get_scheduler(
            name, optimizer, warmup, NUM_STEPS, scheduler_specific_kwargs=extra
        )
    )
    found = shares(decay, warmup, extra.get("min_lr_rate", 0.0))
    assert found[warmup:] == pytest.approx(expected[warmup:], rel=1e-12)
    assert found[: warmup - 1] == pytest.approx(expected[1:warmup], rel=1e-12) or warmup == 0


@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_cosine_is_torchs_annealing(floor: float):
    expected = theirs(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, NUM_STEPS, eta_min=floor
        )
    )
    assert shares("cosine", floor=floor) == pytest.approx(expected, rel=1e-9)


def test_linear_is_torchs_with_a_floor():
    expected = theirs(
        lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.25, NUM_STEPS)
    )
    assert shares("linear", floor=0.25) == pytest.approx(expected, rel=1e-9)


@given(
    decay=st.sampled_from(DECAYS),
    step=st.integers(0, 300),
    num_steps=st.integers(1, 200),
    warmup=st.integers(0, 250),
    floor=st.floats(0, 1),
)
def test_a_share_rises_then_never_rises_again_and_keeps_to_its_floor(
    decay: Decay, step: int, num_steps: int, warmup: int, floor: float
):
    now, then = (schedule(decay, at, num_steps, warmup, floor) for at in (step, step + 1))
    assert 0 <= now <= 1
    if step + 1 < warmup:
        assert now < then
    elif step >= warmup:
        assert then <= now
        assert now >= floor - 1e-12
