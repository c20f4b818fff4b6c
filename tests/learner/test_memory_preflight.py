"""A largest batch that does not fit is refused before it is run, with what to lower."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.config import LearnerConfig
from learner.memory_preflight import MemoryNeed, Preflight, estimate, settings_to_lower
from learner.ranks.free_memory import PeakMemory
from learner.shared_prefix.largest_batch import LargestBatch
from wire.errors import UserError

MB = 2**20
ROOT = Path(__file__).parents[2]
LARGEST = LargestBatch(
    prompt_length=200,
    response_length=40,
    group_size=4,
    num_groups=3,
    num_frames=8,
    max_tokens=800,
)


class Load:
    """Takes so many bytes per token, and per token squared, of the batch of the trial step."""

    def __init__(self, per_token: float, per_square: float = 0.0) -> None:
        self._per_token, self._per_square = per_token, per_square
        self.seen: list[int] = []

    def __call__(self, batch: LargestBatch) -> None:
        tokens = batch.num_tokens
        self.seen.append(tokens)
        size = int(self._per_token * tokens + self._per_square * tokens**2)
        held = torch.ones(size, dtype=torch.uint8)
        time.sleep(0.1)
        del held


def trial(
    load: Load, free: int | Callable[[], int], config: LearnerConfig | None = None, **changed
) -> Preflight:
    values = {"optimizer_bytes": 0, "gather": lambda need: [need], **changed}
    left = free if callable(free) else lambda: free
    return Preflight(config or LearnerConfig(), load, free=left, **values)


def test_a_batch_that_fits_is_run_and_its_peak_is_told():
    load = Load(MB / 4)  # 180 MB at full size
    largest = replace(LARGEST, max_tokens=LARGEST.num_tokens)
    before = PeakMemory().before
    peak = trial(load, 300 * MB).run(largest)
    assert load.seen[-1] == largest.num_tokens
    assert peak * 1e9 - before == pytest.approx(largest.num_tokens * MB / 4, rel=0.25)


def test_a_batch_that_does_not_fit_is_never_run():
    """It would take 180 MB, 100 are left; the largest that was run took 45."""
    load = Load(MB / 4)
    with pytest.raises(UserError) as error:
        trial(load, 100 * MB).run(LARGEST)
    assert max(load.seen) <= LARGEST.num_tokens / 4 + 10
    text = str(error.value)
    assert "0.105 GB are left" in text
    assert "GB," in text
    order = ["max_tokens_per_batch", "gradient_checkpointing", "zero_stage", "max_response_length"]
    places = [text.index(name) for name in [*order, "group_size", "max_frames", "lora"]]
    assert places == sorted(places)


def test_a_batch_far_below_what_is_left_needs_no_proof():
    load = Load(MB / 4)
    peak = trial(load, 10_000 * MB).run(LARGEST)
    assert max(load.seen) <= LARGEST.num_tokens / 4 + 10
    assert peak > 0


def test_what_the_optimiser_takes_later_counts():
    free = 300 * MB
    trial(Load(MB / 4), free).run(LARGEST)
    with pytest.raises(UserError):
        trial(Load(MB / 4), free, optimizer_bytes=200 * MB).run(LARGEST)


def test_ranks_on_one_node_share_what_is_left_and_all_of_them_refuse():
    def both(need: MemoryNeed) -> list[MemoryNeed]:
        return [need, need]

    def elsewhere(need: MemoryNeed) -> list[MemoryNeed]:
        return [need, replace_host(need)]

    def beside_full(need: MemoryNeed) -> list[MemoryNeed]:
        return [need, MemoryNeed("other", need.bytes, 0)]

    free = 300 * MB
    trial(Load(MB / 4), free, gather=elsewhere).run(LARGEST)
    with pytest.raises(UserError):
        trial(Load(MB / 4), free, gather=both).run(LARGEST)
    with pytest.raises(UserError):  # the other rank's node is the one that is full
        trial(Load(MB / 4), free, gather=beside_full).run(LARGEST)


def replace_host(need: MemoryNeed) -> MemoryNeed:
    return MemoryNeed("other", need.bytes, need.free)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_runs_out_on_the_way_is_the_same_error(error: Exception):
    def run_out(batch: LargestBatch) -> None:
        raise error

    with pytest.raises(UserError, match="max_tokens_per_batch"):
        trial(run_out, 10_000 * MB).run(LARGEST)  # type: ignore[arg-type]


def test_an_error_of_another_kind_stays_what_it_is():
    def fail(batch: LargestBatch) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        trial(fail, 10_000 * MB).run(LARGEST)  # type: ignore[arg-type]


def test_random_numbers_go_on_as_if_nothing_had_been():
    def draw(batch: LargestBatch) -> None:
        torch.rand(3)

    before = torch.get_rng_state()
    trial(draw, 10_000 * MB).run(LARGEST)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)


@given(st.floats(0, 1e6), st.floats(0, 1e4))
def test_the_estimate_is_exact_for_tokens_and_their_square(linear: float, square: float):
    def size(share: float) -> int:
        return round(linear * 1000 * share + square * 1000 * share**2)

    assert estimate(size(1 / 8), size(1 / 4)) == pytest.approx(size(1), abs=100)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_noise_in_the_smallest_cannot_take_the_estimate_far(first: int, second: int):
    assert 4 * second <= estimate(first, second) <= 16 * second


def test_only_settings_that_can_be_lowered_are_named():
    spent = LearnerConfig(gradient_checkpointing=True, zero_stage=3, num_ranks=2)
    one = replace(LARGEST, group_size=1, num_groups=1, max_tokens=100)
    found = " ".join(settings_to_lower(spent, one))
    for name in ("max_tokens_per_batch", "gradient_checkpointing", "zero_stage", "group_size"):
        assert name not in found
    assert "max_response_length" in found


# -- under a real limit --


CHILD = """
import resource, sys
import torch
from tests.learner.test_memory_preflight import LARGEST, MB, Load, trial
from learner.ranks.free_memory import free_bytes
import psutil
used = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * MB, resource.RLIM_INFINITY))
load = Load(MB)
try:
    trial(load, free_bytes).run(LARGEST)
except ValueError as error:
    print(type(error).__name__, max(load.seen), error)
"""


@pytest.mark.slow
def test_under_a_real_limit_it_refuses_before_memory_runs_out():
    """400 MB of address space are left, the largest would take 720, a quarter of it 180."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    name, largest_run, text = done.stdout.split(maxsplit=2)
    assert name == "UserError"
    assert int(largest_run) <= LARGEST.num_tokens / 4 + 10
    assert "needs about" in text
    assert "max_tokens_per_batch" in text
