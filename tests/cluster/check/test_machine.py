import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.check.machine import (
    Machine,
    disk_findings,
    folder_bytes,
    memory_findings,
    plan_findings,
    this_machine,
)
from cluster.config.recipe import RunConfig, read_recipe
from cluster.plan.disk_size import cache_bytes
from cluster.plan.model_size import read_shape
from cluster.plan.run_plan import plan_of
from cluster.plan.types import Plan
from tests.cluster.check.builders import levels, only
from wire.finding import Area, Level

SEVEN_B = "Qwen2.5-VL-7B-Instruct"
GIB = 2**30


@pytest.fixture
def planned(recipe: Callable[..., Path]) -> Callable[..., tuple[RunConfig, Plan]]:
    def plan(*settings: str) -> tuple[RunConfig, Plan]:
        config = read_recipe(recipe(), list(settings))
        return config, plan_of(config, ("base", "grpo"), None)

    return plan


def findings_of(planned, machine: Machine, *settings: str):
    config, plan = planned(f"model=/nowhere/{SEVEN_B}", *settings)
    return memory_findings(config, plan.memory, machine)


def test_a_7b_model_does_not_fit_a_laptop(planned):
    (finding,) = findings_of(planned, Machine(ram=16 * GIB, gpu=None))
    assert finding.level is Level.ERROR
    assert "this machine has 17.2 GB" in finding.what


def test_a_machine_that_just_holds_it_is_a_warning_and_a_large_one_fine(planned):
    config, plan = planned(f"model=/nowhere/{SEVEN_B}")
    memory = plan.memory
    held = memory.rank.total_bytes + memory.engine.weight_bytes + GIB + 512 * 2**20
    for ram, level in ((held - 1, Level.ERROR), (held, Level.WARNING), (2 * held, Level.OK)):
        assert levels(memory_findings(config, memory, Machine(ram=ram, gpu=None))) == [level]


def test_gpus_are_measured_where_the_recipe_asks_for_them(planned):
    gpus = ("rollout.num_gpus=1", "learner.num_gpus=1", "rollout.dtype=bfloat16")
    found = findings_of(planned, Machine(ram=256 * GIB, gpu=24 * GIB), *gpus)
    assert "a learner rank holds at least" in only(found, Level.ERROR).what
    sharded = ("learner.num_ranks=8", "learner.zero_stage=3", "learner.dtype=bfloat16")
    eight = findings_of(planned, Machine(ram=256 * GIB, gpu=80 * GIB), *gpus, *sharded)
    assert set(levels(eight)) == {Level.OK}


def test_a_rank_that_shares_a_gpu_has_what_its_engine_leaves(planned):
    machine = Machine(ram=900 * GIB, gpu=80 * GIB)
    pairs = ("rollout.num_gpus=0.5", "learner.num_gpus=0.5", "learner.dtype=bfloat16")
    pairs += ("rollout.dtype=bfloat16", "learner.zero_stage=3")
    eight = (*pairs, "rollout.num_workers=8", "learner.num_ranks=8")
    assert set(
        levels(findings_of(planned, machine, *eight, "rollout.gpu_memory_utilization=0.5"))
    ) == {Level.OK}
    found = findings_of(planned, machine, *eight, "rollout.gpu_memory_utilization=0.9")
    assert "of a GPU's 8.6 GB" in only(found, Level.ERROR).what


def test_a_cache_too_small_for_a_sequence_is_an_error_and_not_said_twice(planned):
    config, plan = planned("rollout.max_prompt_length=4000000")
    findings = plan_findings(config, plan, measured=True)
    assert "the engine refuses to start" in only(findings, Level.ERROR).what
    assert sum("refuses to start" in finding.what for finding in findings) == 1


def test_prompts_that_were_measured_need_not_be_supposed(planned):
    config, plan = planned("video.max_pixels=1000000")
    supposed = plan_findings(config, plan, measured=False)
    assert "video tokens" in only(supposed, Level.WARNING).what
    assert plan_findings(config, plan, measured=True) == []


def test_the_cache_of_a_clip_is_what_its_file_takes(demo: Path, tmp_path: Path):
    from video.cache import ClipStore
    from video.config import VideoConfig
    from video.processor import ClipProcessor

    shape = read_shape(demo / "model")
    assert shape is not None
    clip = next((demo / "data").rglob("*.mp4"))
    made = ClipStore(tmp_path, ClipProcessor(demo / "model"), VideoConfig()).get(clip)
    expected = cache_bytes(shape, len(made.placeholder_ids) - 2)
    assert folder_bytes(tmp_path) == pytest.approx(expected, rel=0.1)


def test_folders_of_one_disk_share_its_room(tmp_path: Path):
    free = shutil.disk_usage(tmp_path).free
    half = {tmp_path / "a/b": int(0.6 * free), tmp_path / "c": int(0.6 * free)}
    (finding,) = disk_findings(half)
    assert (finding.level, finding.area) == (Level.ERROR, Area.DISK)
    assert levels(disk_findings({tmp_path / "a": int(0.6 * free)})) == [Level.OK]
    assert levels(disk_findings({tmp_path / "a": int(0.9 * free)})) == [Level.WARNING]


def test_this_machine_has_memory():
    assert this_machine(with_gpus=False).ram > GIB
