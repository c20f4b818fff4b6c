"""An engine of two workers, each with half of every weight, as on two GPUs: the same promises."""

import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EXACT = 1e-5


def test_an_engine_in_two_halves_agrees_before_and_after_an_update_and_leaves_no_process(
    ray_session: None, make_place: Callable[..., Any], open_stage: Callable[..., Any]
) -> None:
    place = make_place("qwen2_5_vl", vision_heads=2)
    with open_stage(place, tensor_parallel_size=2, num_threads=1) as stage:
        clips = stage.samples[:2]
        before = stage.gap(clips)
        stage.train()
        between = stage.gap(clips)
        stage.publish()
        after = stage.gap(clips)
        actor, *engine = map(psutil.Process, stage.get(stage.rollouts.processes.remote()))
        assert len(engine) >= 3  # engine core and two workers
        assert max(before, after) < EXACT < 1e-3 < between
        os.kill(actor.pid, signal.SIGKILL)
        _, left = psutil.wait_procs(engine, timeout=30)
        assert left == []
