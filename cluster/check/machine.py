"""Checks that a machine has room for a run: workers, memory, disk.

    recipe + model sizes + clips -> bytes -> this machine, or the nodes of a Ray -> findings

Bytes are lower bounds: activations, buffers and CUDA's own come on top
(cluster/plan/model_size.py).
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.config.recipe import RunConfig
from cluster.driver.units import format_bytes
from cluster.plan.types import Memory, Plan
from cluster.plan.warnings import kv_cache_fault, large_clip_warning
from wire.finding import Area, Finding, error, from_error, ok, warning

_TIGHT = 0.8
_GB = 10**9


def is_local(config: RunConfig) -> bool:
    """Whether a run would start a Ray of its own, on this machine."""
    from cluster.actors.placement import address_of

    return address_of(config) is None


def placement_findings(config: RunConfig) -> list[Finding]:
    """Findings on CPUs and GPUs of the workers. Raises PlacementError if one does not fit."""
    from cluster.actors.placement import nodes, require_fit
    from cluster.config.node_layout import describe, kinds_of

    there = nodes(config)
    layout = require_fit(config, there)
    return [ok(Area.PLACEMENT, describe(kinds_of(config), layout, there))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Memory of a machine."""

    ram: int
    """Bytes, or what the container may use."""
    gpu: int | None
    """Bytes of the smallest GPU; None without one."""


def this_machine(*, with_gpus: bool) -> Machine:
    """Memory of this machine; of its GPUs only on request, because that loads torch."""
    import psutil

    ram, limit = psutil.virtual_memory().total, Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        ram = min(ram, int(text))
    return Machine(ram=ram, gpu=_smallest_gpu() if with_gpus else None)


def _smallest_gpu() -> int | None:
    import torch

    devices = range(torch.cuda.device_count())
    sizes = [torch.cuda.get_device_properties(device).total_memory for device in devices]
    return min(sizes, default=None)


def plan_findings(config: RunConfig, plan: Plan, *, measured: bool) -> list[Finding]:
    """Findings on a plan's warnings; an engine that would refuse its cache is an error.

    ``measured``: the prompts of the clips themselves are known, so none need be supposed.
    """
    refused = kv_cache_fault(config, plan.memory)
    findings = [from_error(Area.MEMORY, refused)] if refused else []
    known = [refused, large_clip_warning(config, plan.clip_tokens) if measured else None]
    for text in plan.warnings:
        if text not in known:
            what, _, remedy = text.partition("; ")
            findings.append(warning(Area.RECIPE, what, remedy))
    if config.model.is_dir():  # else that it is not there is said already
        findings += [
            warning(Area.MODEL, note, "give all of the model's files") for note in plan.notes
        ]
    return findings


def memory_findings(config: RunConfig, memory: Memory, machine: Machine) -> list[Finding]:
    """Findings on the memory of learner ranks and engines, against RAM and GPUs."""
    rollout, learner = config.rollout, config.learner
    engine = memory.engine
    findings = []
    ram = int(config.cluster.object_store_mb * 2**20)
    if learner.num_gpus:
        # a pair's engine has taken its share of the GPU before the rank comes
        share = 1 - rollout.gpu_memory_utilization if config.colocated else 1.0
        findings += _on_gpu("a learner rank", memory.rank.device_bytes, machine, share)
        ram += learner.num_ranks * memory.rank.offloaded_bytes
    else:
        ram += learner.num_ranks * memory.rank.total_bytes
    if rollout.num_gpus:
        held = engine.weight_bytes + engine.kv_bytes_longest_sequence
        share = rollout.gpu_memory_utilization
        findings += _on_gpu("an engine with one sequence", held, machine, share)
    else:
        ram += rollout.num_workers * (engine.weight_bytes + (engine.kv_cache_bytes or 0))
    return [*findings, _on_ram(ram, machine.ram)]


def _on_ram(held: int, ram: int) -> Finding:
    what = f"workers hold at least {_size(held)} of memory, and this machine has {_size(ram)}"
    remedy = (
        "lower rollout.num_workers, learner.num_ranks or rollout.kv_cache_gb, raise "
        "learner.zero_stage, or take a larger machine"
    )
    if held > ram:
        return error(Area.MEMORY, what, remedy)
    if held > _TIGHT * ram:
        return warning(Area.MEMORY, f"{what}; activations come on top", remedy)
    return ok(Area.MEMORY, what)


def _on_gpu(who: str, held: float, machine: Machine, share: float) -> list[Finding]:
    if machine.gpu is None:
        return []  # placement says that there is none
    what = f"{who} holds at least {_size(held)} of a GPU's {_size(share * machine.gpu)}"
    remedy = (
        "more ranks and learner.zero_stage = 3, learner.offload, rollout.tensor_parallel_size, "
        "dtype = 'bfloat16', or larger GPUs"
    )
    if held > share * machine.gpu:
        return [error(Area.MEMORY, what, remedy)]
    if held > _TIGHT * share * machine.gpu:
        return [warning(Area.MEMORY, f"{what}; activations come on top", remedy)]
    return [ok(Area.MEMORY, what)]


def disk_findings(needs: Mapping[Path, int]) -> list[Finding]:
    """Findings on free space: bytes still to be written below each folder, which need not exist
    yet, against the free space of its file system, which its folders share."""
    by_device: dict[int, list[Path]] = {}
    for folder in needs:
        by_device.setdefault(_existing(folder).stat().st_dev, []).append(folder)
    return [
        _on_disk(folders, sum(needs[folder] for folder in folders))
        for folders in by_device.values()
    ]


def _on_disk(folders: Sequence[Path], need: int) -> Finding:
    free = shutil.disk_usage(_existing(folders[0])).free
    names = " and ".join(str(folder) for folder in folders)
    what = f"{names}: about {_size(need)} to come, {_size(free)} free"
    remedy = "make room, or set video.cache_dir or --run-dir to a larger disk"
    if need > free:
        return error(Area.DISK, what, remedy)
    if need > _TIGHT * free:
        return warning(Area.DISK, what, remedy)
    return ok(Area.DISK, what)


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below a folder; 0 if there is none."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except OSError:  # a writer has just renamed it
                continue
    return total


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.resolve().parents) if path.exists())


def _size(number: float) -> str:
    return format_bytes(number, gb_from=_GB / 10, mb_from=0)
