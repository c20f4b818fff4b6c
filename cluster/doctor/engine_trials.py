"""The doctor's trials of Ray, DeepSpeed, vLLM and NCCL, on the embedded model.

Each runs in a process of its own, in an empty working directory, and returns an Outcome.
"""

import asyncio
import math
import os
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from cluster.doctor.runner import Outcome
from rollout.render import Renderer
from video.cache import ClipStore
from wire.labels import Label, LabelSet
from wire.types import Prompt

_TRACE = "<think>one left two up three grow</think><answer>undo</answer>"
_MAX_PROMPT_LENGTH = 384
_MEET_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The embedded model, a clip, and the prompt about it."""

    model: Path
    video: str
    clips: ClipStore
    renderer: Renderer
    prompt: Prompt


def make_scene(folder: Path) -> Scene:
    """Write the embedded model and a clip into a folder."""
    from cluster.demo.make_model import make_demo_model
    from rollout.prompt import Prompts
    from video.config import VideoConfig
    from video.encode import write_mp4
    from video.processor import ClipProcessor

    model = make_demo_model(folder / "model")
    video = folder / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (12, 56, 56, 3), np.uint8)
    with video.open("wb") as file:
        write_mp4(file, frames, Fraction(4))
    clips = ClipStore(folder / "cache", ClipProcessor(model), VideoConfig(max_frames=12))
    renderer = Renderer.load(model, _MAX_PROMPT_LENGTH)
    labels = LabelSet(labels=(Label(name="undo"), Label(name="repeat")))
    prompt = renderer.prompt(Prompts(labels).bare(), clips.get(str(video)))
    return Scene(model=model, video=str(video), clips=clips, renderer=renderer, prompt=prompt)


def try_ray() -> Outcome:
    """Run a task in the Ray that runs would use: that of RAY_ADDRESS, or a local one."""
    import ray

    from cluster.actors import placement
    from cluster.config.recipe import DataConfig, RunConfig

    labels = (Label(name="yes"), Label(name="no"))
    nowhere = DataConfig(manifest=Path("unused"))
    config = RunConfig(model=Path("unused"), labels=labels, data=nowhere)
    before = time.monotonic()
    placement.connect(config, debug=False)
    try:
        started = time.monotonic() - before
        task: Any = ray.remote(num_cpus=0.5)(_process_id)
        pid = ray.get(task.remote(), timeout=90)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()
    if pid == os.getpid():
        raise RuntimeError("the task ran in the driver's own process")
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    where = os.environ.get("RAY_ADDRESS") or "a local Ray"
    text = f"{where} up in {started:.0f} s, a task ran; {len(nodes)} node(s), "
    return Outcome(status="ok", found=f"{text}{cpus:g} CPUs, {gpus:g} GPUs")


def _process_id() -> int:
    """Id of the Ray worker's process."""
    return os.getpid()


def try_deepspeed() -> Outcome:
    """Two updates of the embedded model with our learner under ZeRO 1; the loss must fall."""
    from learner.config import GrpoLossConfig, LearnerConfig, OptimConfig
    from learner.ranks.rendezvous import open_rendezvous
    from learner.shared_prefix.rows import StepCounts, supervised_row
    from learner.worker import LearnerWorker

    scene = make_scene(Path.cwd())
    config = LearnerConfig(dtype="float32", zero_stage=1, num_threads=2, num_gpus=_num_gpus())
    worker = LearnerWorker(config, GrpoLossConfig(), scene.clips)
    worker.join(0, "127.0.0.1", open_rendezvous(1))
    worker.begin(str(scene.model), OptimConfig(learning_rate=1e-3))
    row = supervised_row(scene.prompt, scene.video, scene.renderer.target(_TRACE))
    counts, losses = StepCounts.of([row]), []
    for _ in range(2):
        losses.append(worker.train_step([row], counts, "supervised", 1e-3)["nll"])
    if not (math.isfinite(losses[1]) and losses[1] < losses[0]):
        raise RuntimeError(f"an update took the loss from {losses[0]:.3f} to {losses[1]:.3f}")
    text = f"an update under ZeRO 1 took the loss from {losses[0]:.2f} to {losses[1]:.2f}"
    return Outcome(status="ok", found=text)


def try_vllm() -> Outcome:
    """Generate one token about a clip with our engine and the embedded model."""
    from rollout.config import RolloutConfig

    scene = make_scene(Path.cwd())
    gpus = _num_gpus()
    config = RolloutConfig(
        dtype="bfloat16" if gpus else "float32",
        num_gpus=gpus,
        gpu_memory_utilization=0.2,
        max_prompt_length=_MAX_PROMPT_LENGTH,
        max_response_length=8,
        block_size=None if gpus else 32,
        max_num_seqs=4,
        max_batched_tokens=512,
    )
    return asyncio.run(_one_token(scene, config))


async def _one_token(scene: Scene, config: Any) -> Outcome:
    from rollout.engine import Sampling
    from rollout.vllm_engine import VllmEngine

    before = time.monotonic()
    blocked = scene.renderer.blocked_tokens()
    engine = await VllmEngine.start(scene.model, config, blocked, "object_store")
    try:
        started = time.monotonic()
        sampling = Sampling(n=1, temperature=1.0, max_tokens=1, seed=0)
        generation = await engine.generate(scene.prompt, scene.clips.get(scene.video), sampling)
        ended = time.monotonic()
    finally:
        engine.stop()
    (answer,) = generation.answers
    if len(answer.token_ids) != 1 or not math.isfinite(answer.logprobs[0]):
        raise RuntimeError(f"asked for one token, got {answer.token_ids} ({answer.logprobs})")
    device = "a GPU" if config.num_gpus else "the CPU"
    return Outcome(
        status="ok",
        found=f"on {device}: up in {started - before:.0f} s, a token about a clip in "
        f"{ended - started:.1f} s",
    )


def try_nccl() -> Outcome:
    """Run an all-reduce over one GPU, and over all GPUs."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        return Outcome(status="skipped", found="no GPU")
    for size in sorted({1, count}):
        all_reduce(size, "nccl")
    return Outcome(status="ok", found=f"all-reduce over {count} GPU(s)")


def all_reduce(num_ranks: int, backend: str) -> None:
    """Sum over ranks, each in its own process. Raises RuntimeError if it fails or is wrong."""
    from torch.multiprocessing.spawn import spawn

    from learner.ranks.rendezvous import open_rendezvous

    port = open_rendezvous(num_ranks)
    try:
        spawn(_reduce_rank, (num_ranks, port, backend), nprocs=num_ranks)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise RuntimeError(f"all-reduce over {num_ranks} by {backend}: {lines[-1]}") from error


def _reduce_rank(rank: int, num_ranks: int, port: int, backend: str) -> None:
    import torch
    import torch.distributed as dist

    from learner.ranks.rendezvous import join_rendezvous

    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    store = join_rendezvous(num_ranks, "127.0.0.1", port, _MEET_S)
    dist.init_process_group(backend, store=store, rank=rank, world_size=num_ranks)
    value = torch.full((1024,), float(rank + 1), device=device)
    dist.all_reduce(value)
    right = num_ranks * (num_ranks + 1) / 2
    if float(value.min()) != right or float(value.max()) != right:
        raise RuntimeError(f"rank {rank} got {float(value[0])}, expected {right}")
    dist.destroy_process_group()


def _num_gpus() -> int:
    """Number of GPUs for a trial: 1 where torch can use one, else 0."""
    import torch

    return int(torch.cuda.is_available())
