"""Our side of grpo_step.py: GRPO by a recipe on the real engines; each step is followed by TRL's.

The loop, the engines, the rewards, the archive and the hand-off are those of `deepintuit grpo`.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.grpo_material import (
    EPSILON_HIGH,
    EPSILON_LOW,
    LABELS,
    LEARNING_RATE,
    REWARD_FILE,
    Material,
    Size,
)
from tests.benchmarks.grpo_trl import Mode, TrlSide, TrlStep

_RECIPE = """
model = "{model}"
{labels}
[data]
manifest = "{manifest}"
use_side_text = true
[video]
max_frames = {frames}
[rollout]
group_size = {group_size}
max_prompt_length = 1024
max_response_length = {response}
dtype = "{dtype}"
block_size = 32
share_embeddings = true
num_threads = 1
[reward]
terms = [{{ function = "{reward}:compute_score" }}]
[learner]
dtype = "float32"
num_threads = 2
[coldstart]
epochs = 0
[grpo]
num_steps = {steps}
groups_per_step = {groups}
save_every = {steps}
max_staleness = 0
optim = {{ learning_rate = {rate}, weight_decay = 0.0, warmup_steps = 0, grad_clip = 1.0 }}
loss = {{ clip_ratio_low = {low}, clip_ratio_high = {high} }}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OurStep:
    """One step of the run, from its metrics."""

    seconds: float
    """By the clock, from the end of the others' turn; without the checkpoint."""
    generation: float
    """Clips, rollouts, rewards: all that the metrics do not name as another phase."""
    learning: float
    handoff: float
    prompt_tokens: int
    """Of each prompt."""
    response_tokens: int
    """Of all rollouts."""
    loss: float
    reward_std: float


async def run_ours(material: Material, sides: Mapping[Mode, TrlSide]) -> tuple["Turns", float]:
    """GRPO by our own loop; after each of its steps the others make theirs. Returns the steps, and
    the largest change of a weight."""
    from cluster.config.recipe import read_recipe
    from cluster.inputs.samples import check_stages
    from cluster.run_dir import RunDir
    from cluster.session import open_session
    from cluster.stages.grpo.stage import train_grpo
    from cluster.stages.stage_functions import stage_run

    recipe = material.folder / "recipe.toml"
    recipe.write_text(recipe_text(material))
    config = read_recipe(recipe, [])
    run_dir = RunDir.open(material.folder / "run", config, resume=False, overwrite=False)
    check_data = partial(check_stages, config, names=("grpo",))
    async with open_session(config, run_dir, check_data, material.model, 0, debug=False) as session:
        turns = Turns(session.metrics, material.size, sides)
        session.metrics = turns  # type: ignore[assignment]
        await train_grpo(session, stage_run(config, run_dir, "grpo"))
        trained = run_dir.model("grpo")
        await session.learner.export(str(trained))
    run_dir.close()
    return turns, largest_change(material.model, trained)


class Turns:
    """Stands where a run's metrics log stands: a step's figures are the last thing of it, so here
    the others get their turn. Our next step begins when they are done."""

    def __init__(self, log: Any, size: Size, sides: Mapping[Mode, TrlSide]) -> None:
        self._log, self._size, self._sides = log, size, sides
        self.ours: list[OurStep] = []
        self.trl: dict[Mode, list[TrlStep]] = {mode: [] for mode in sides}
        self._waited: dict[str, list[tuple[float, float]]] = {"ours": [], "trl": []}
        self._theirs_before = self._cpu_of_trl()
        self._ours_began = time.perf_counter()

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One step of ours is done."""
        self._log.write(stage, step, values)
        now = time.perf_counter()
        used = self._cpu_of_trl() - self._theirs_before
        self._waited["trl"].append((used, now - self._ours_began))
        self.ours.append(_our_step(values, self._size.rollouts, now - self._ours_began))
        before, began = self._cpu_of_ours(), time.perf_counter()
        for mode, side in self._sides.items():
            self.trl[mode].append(side.step())
        spent = time.perf_counter() - began
        self._waited["ours"].append((self._cpu_of_ours() - before, spent))
        self._theirs_before, self._ours_began = self._cpu_of_trl(), time.perf_counter()

    def close(self) -> None:
        """With the run."""
        self._log.close()

    def busy_while_waiting(self) -> dict[str, float]:
        """Cores used by a side while it was another's turn."""
        return {
            name: sum(used for used, _ in spans[1:]) / max(sum(t for _, t in spans[1:]), 1e-9)
            for name, spans in self._waited.items()
        }

    def _cpu_of_trl(self) -> float:
        return sum(_cpu_seconds(psutil.Process(side.pid)) for side in self._sides.values())

    def _cpu_of_ours(self) -> float:
        """Ray and all its workers are children of this process, as TRL's are."""
        return _cpu_seconds(psutil.Process(os.getpid())) - self._cpu_of_trl()


def _cpu_seconds(process: psutil.Process) -> float:
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _our_step(values: Mapping[str, float], rollouts: int, spent: float) -> OurStep:
    written = rollouts * (1 - values["rollout/failed_groups_frac"])
    seconds = spent - values.get("timing_s/save", 0.0)
    phases = {k: v for k, v in values.items() if k.startswith("timing_s/")}
    for whole in ("timing_s/gen", "timing_s/step", "timing_s/save"):
        phases.pop(whole, None)
    return OurStep(
        seconds=seconds,
        generation=seconds - sum(phases.values()),
        learning=values["timing_s/update_actor"],
        handoff=values["timing_s/update_weights"],
        prompt_tokens=round(values["prompt_length/mean"]),
        response_tokens=round(written * values["response_length/mean"]),
        loss=values["policy_loss"],
        reward_std=values["reward/std"],
    )


def recipe_text(material: Material) -> str:
    """Ours."""
    size = material.size
    labels = "\n".join(
        f'[[labels]]\nname = "{label.name}"\ndefinition = "{label.definition}"'
        for label in LABELS.labels
    )
    return _RECIPE.format(
        model=material.model,
        labels=labels,
        manifest=material.manifest,
        frames=size.frames,
        group_size=size.group_size,
        response=size.response,
        dtype=size.our_rollouts,
        reward=REWARD_FILE,
        steps=size.all_steps,
        groups=size.groups,
        rate=LEARNING_RATE,
        low=EPSILON_LOW,
        high=EPSILON_HIGH,
    )


def largest_change(before: Path, after: Path) -> float:
    """Of any weight of two models on disk."""
    from safetensors.torch import load_file

    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    return max(float((new[name] - old[name]).abs().max()) for name in old)
