"""What the parity probe takes of an engine whose vocabulary is as large as real models have it."""

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import tiny_models
from tests.real_workers import make_config, open_workers
from wire.types import PolicyVersion

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

VOCABULARY = 151_936


def engine_of(pid: int) -> int:
    below = psutil.Process(pid).children(recursive=True)
    (engine,) = [process for process in below if "VLLM::" in " ".join(process.cmdline())]
    return engine.pid


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(peak) * 1024


async def test_a_probe_makes_no_logits_of_the_prompt(
    ray_session: None, place: Any, tmp_path: Path
) -> None:
    settings = {"num_cpus": 0.5, "max_prompt_length": 1024, "max_batched_tokens": 2048}
    config = make_config(
        tiny_models.write_tiny_model(tmp_path / "model", "qwen2_5_vl", vocab_size=VOCABULARY),
        place.root.parent / "data" / "manifest.jsonl",
        [label.name for label in place.labels.labels],
        rollout=settings,
        learner={"num_cpus": 0.25},
    )
    labels = [label.model_copy(update={"definition": "long " * 30}) for label in config.labels]
    config = config.model_copy(update={"labels": labels})
    async with open_workers(config, tmp_path / "cache") as workers:
        (name,) = workers.rollouts.names
        actor, row = workers.rollouts._fleet.actors[name], workers.probe
        prompt, response = row.prompt, row.responses[0].token_ids
        first = await workers.rollouts.logprobs(name, row.video, prompt, response)
        pid = engine_of(await actor.__ray_call__.remote(lambda self: os.getpid()))
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
        before = peak_bytes(pid)
        again = await workers.rollouts.logprobs(name, row.video, prompt, response)
        taken = peak_bytes(pid) - before
        async with workers.learner(num_ranks=1) as (_, sync):
            report = await sync.publish(PolicyVersion(attempt=0, step=1))
    of_prompt = len(prompt.token_ids) * VOCABULARY * 4
    print(f"{taken / 1e6:.0f} MB, logits of the prompt {of_prompt / 1e6:.0f} MB")  # noqa: T201
    assert of_prompt > 200e6
    assert again == pytest.approx(first, abs=1e-4)
    assert report.max_logprob_diff < 1e-4, "a learner says the same"
    assert taken < of_prompt / 2
