"""Whole GRPO steps, ours against TRL's GRPOTrainer, in turns, on the same model, clips and prompts.

    python -m tests.benchmarks.grpo_step [--json FILE] [--sizes video demo]

One row per figure: name, value, unit, limit, and whether the goal is above or below it; rows
without a limit tell what the others are made of. Ends with status 1 if a limit is missed.

The two sides are up at the same time, one waits while the other makes a step: ours, TRL with
transformers' generate, TRL with its colocated vLLM, ours, ... Ratios are medians over these rounds;
the first one warms up. Every round has new clips.

Ours is a run of a recipe: Ray, a vLLM worker, the reward as a plugin in its process, the archive,
the DeepSpeed learner, weights handed over and proven by the probe, metrics written; nothing left
out but evaluation and the checkpoint at the end. Synchronous (max_staleness = 0).

TRL 1.16's GRPOTrainer takes no videos. It gets the same frames as images: every second one, because
a Qwen2.5-VL makes one patch in time of two frames or of one image. So both sides' towers see as
many patches and both sides' prompts have as many vision tokens; the prompts are of equal length,
and all responses too (no side can end one). Both: float32, AdamW, 2 threads, frozen tower, GRPO
with token-mean, no KL, one update per step.

What TRL is given beyond its defaults, all of it to be faster: gradient checkpointing off,
rollouts per pass (8) as was fastest (32 at once took four times as long), fused AdamW, no logging,
no checkpoints, no shuffling, pictures decoded beforehand in memory, and (without which it does not
run on a CPU) the repair of vLLM's packed weights from rollout/vllm_extension.py. Its colocated vLLM
computes in bfloat16: TRL has no setting for that. Its importance correction stays on, as is ours,
and costs it one more forward pass; ``ratio_without_old_logprobs`` leaves that pass out.
"""

import argparse
import asyncio
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil

from tests.benchmarks.grpo_material import (
    EPSILON_HIGH,
    EPSILON_LOW,
    LABELS,
    LEARNING_RATE,
    REWARD_FILE,
    Material,
    Size,
    make_material,
)
from tests.benchmarks.grpo_trl import Mode, TrlSide, TrlStep

SIZES = (
    Size(name="video", frames=16, side=224, response=48, groups=4, steps=4),
    Size(name="demo", frames=12, side=56, response=40, groups=8, steps=4),
)
MODES: tuple[Mode, ...] = ("generate", "vllm")
_GOAL = 3.0

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
dtype = "float32"
block_size = 32
num_threads = 2
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


@dataclass(frozen=True)
class Row:
    name: str
    value: float
    unit: str
    limit: float | None = None
    goal: Literal["above", "below"] = "above"

    @property
    def holds(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.goal == "above" else self.value <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class OurStep:
    """One step of the run, from its metrics."""

    seconds: float
    """Without the checkpoint, and without the others' turn."""
    generation: float
    learning: float
    handoff: float
    prompt_tokens: int
    """Of each prompt."""
    response_tokens: int
    """Of all rollouts."""
    loss: float
    reward_std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All steps of one size, warm-up included."""

    size: Size
    ours: list[OurStep]
    trl: dict[Mode, list[TrlStep]]
    changed: dict[str, float]
    """Largest change of a weight, by side."""
    busy_while_waiting: dict[str, float]
    """Cores that a side uses while another makes its step."""
    settings: dict[str, Any]
    """TRL's, and ours."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--sizes", nargs="+", choices=[size.name for size in SIZES])
    options = parser.parse_args()
    chosen = [size for size in SIZES if not options.sizes or size.name in options.sizes]
    rows = []
    for size in chosen:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(Path(folder) / size.name, size)
        check_fair(measured)
        say(describe(measured))
        rows += rows_of(measured)
    for row in rows:
        say(line_of(row))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0 if all(row.holds for row in rows) else 1


def measure(folder: Path, size: Size, modes: Sequence[Mode] = MODES) -> Measured:
    """Bring all sides up together, let them take turns, take them down."""
    material = make_material(folder, size)
    with ExitStack() as stack:
        sides = {mode: TrlSide(material, mode) for mode in modes}
        for side in sides.values():
            stack.callback(side.kill)
        turns, changed = asyncio.run(run_ours(material, sides))
        return Measured(
            size=size,
            ours=turns.ours,
            trl=turns.trl,
            changed={"ours": changed} | {mode: side.finish() for mode, side in sides.items()},
            busy_while_waiting=turns.busy_while_waiting(),
            settings={mode: side.settings for mode, side in sides.items()}
            | {"ours": recipe_text(material)},
        )


async def run_ours(material: Material, sides: Mapping[Mode, TrlSide]) -> tuple["Turns", float]:
    """GRPO by our own loop; after each of its steps the others make theirs. Returns the steps, and
    the largest change of a weight."""
    from cluster.config import read_recipe
    from cluster.data import check_splits
    from cluster.grpo import GrpoPlan, run_grpo
    from cluster.run_dir import RunDir
    from cluster.session import open_session
    from wire.types import Split

    recipe = material.folder / "recipe.toml"
    recipe.write_text(recipe_text(material))
    config = read_recipe(recipe, [])
    run_dir = RunDir.open(material.folder / "run", config, resume=False, overwrite=False)
    check_data = partial(check_splits, config, stages=("grpo",))
    async with open_session(config, run_dir, check_data, material.model, 0, debug=False) as session:
        turns = Turns(session.metrics, material.size, sides)
        session.metrics = turns  # type: ignore[assignment]
        plan = GrpoPlan(name="grpo", samples=session.data.of(Split.TRAIN))
        await run_grpo(session, material.model, plan)
        trained = run_dir.model("grpo")
        await session.learner.export(str(trained))
    run_dir.close()
    return turns, largest_change(material.model, trained)


class Turns:
    """Stands where a run's metrics log stands: a step's figures are the last thing of it, so here
    the others get their turn. What they take is no time of our next step's."""

    def __init__(self, log: Any, size: Size, sides: Mapping[Mode, TrlSide]) -> None:
        self._log, self._size, self._sides = log, size, sides
        self.ours: list[OurStep] = []
        self.trl: dict[Mode, list[TrlStep]] = {mode: [] for mode in sides}
        self._others_took = 0.0
        self._waited: dict[str, list[tuple[float, float]]] = {"ours": [], "trl": []}
        self._theirs_before = self._cpu_of_trl()
        self._ours_began = time.perf_counter()

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One step of ours is done."""
        self._log.write(stage, step, values)
        now = time.perf_counter()
        used = self._cpu_of_trl() - self._theirs_before
        self._waited["trl"].append((used, now - self._ours_began))
        self.ours.append(_our_step(values, self._size.rollouts, self._others_took))
        before, began = self._cpu_of_ours(), time.perf_counter()
        for mode, side in self._sides.items():
            self.trl[mode].append(side.step())
        self._others_took = time.perf_counter() - began
        self._waited["ours"].append((self._cpu_of_ours() - before, self._others_took))
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


def _our_step(values: Mapping[str, float], rollouts: int, others_took: float) -> OurStep:
    written = rollouts * (1 - values["rollout/failed_groups_frac"])
    return OurStep(
        seconds=values["timing_s/step"] - values.get("timing_s/save", 0.0) - others_took,
        generation=values["timing_s/gen"] - others_took,
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


def check_fair(measured: Measured) -> None:
    """Both sides did the same work, and learnt by it."""
    size = measured.size
    for name, change in measured.changed.items():
        assert change > 0, f"{name} has trained nothing"
    tokens = size.rollouts * size.response
    for step in [*measured.ours, *(s for steps in measured.trl.values() for s in steps)]:
        assert step.response_tokens == tokens, f"{step} instead of {tokens} response tokens"
        assert step.prompt_tokens == measured.ours[0].prompt_tokens, f"{step}: another prompt"
        assert math.isfinite(step.loss), f"{step}: no loss"
        assert step.reward_std > 0, f"{step}: nothing to learn from"


def rows_of(measured: Measured) -> list[Row]:
    """The figures of one size, without its warm-up."""
    size, name, ours = measured.size, measured.size.name, measured.ours[1:]
    rows = [
        Row(f"{name}/ours/rollouts_per_s", size.rollouts / _median(ours, "seconds"), "1/s"),
        *[
            Row(f"{name}/ours/{part}", _median(ours, part), "s")
            for part in ("seconds", "generation", "learning", "handoff")
        ],
        Row(f"{name}/ours/busy_in_trl_s_turn", measured.busy_while_waiting["ours"], "cores"),
    ]
    for mode, all_steps in measured.trl.items():
        steps, side = all_steps[1:], f"{name}/trl_{mode}"
        rows += [
            Row(f"{side}/rollouts_per_s", size.rollouts / _median(steps, "seconds"), "1/s"),
            *[
                Row(f"{side}/{part}", _median(steps, part), "s")
                for part in ("seconds", "generation", "old_logprobs", "preparation", "learning")
            ],
            Row(f"{side}/ratio", _ratio(steps, ours, "seconds"), "x", _GOAL),
            Row(f"{side}/ratio_of_learning", _ratio(steps, ours, "learning"), "x"),
            Row(f"{side}/ratio_of_generation", _ratio(steps, ours, "generation"), "x"),
        ]
        if _median(steps, "old_logprobs"):
            spared = [
                (t.seconds - t.old_logprobs) / o.seconds for t, o in zip(steps, ours, strict=True)
            ]
            ratio = statistics.median(spared)
            rows.append(Row(f"{side}/ratio_without_old_logprobs", ratio, "x"))
    return rows


def _median(steps: Sequence[Any], part: str) -> float:
    return statistics.median(getattr(step, part) for step in steps)


def _ratio(theirs: Sequence[TrlStep], ours: Sequence[OurStep], part: str) -> float:
    pairs = zip(theirs, ours, strict=True)
    return statistics.median(getattr(one, part) / getattr(other, part) for one, other in pairs)


def describe(measured: Measured) -> str:
    """What was compared."""
    size, first = measured.size, measured.ours[0]
    lines = [
        f"{size.name}: {size.groups} groups of {size.group_size} a step, prompts of "
        f"{first.prompt_tokens} tokens, {size.vision_tokens} of them vision, responses of "
        f"{size.response}; ours {size.frames} frames of {size.side} px as video, TRL "
        f"{size.images} of them as images",
        f"  ours: {' '.join(measured.settings['ours'].split())}",
    ]
    for mode, steps in measured.trl.items():
        settings = ", ".join(f"{k}={v}" for k, v in measured.settings[mode].items())
        gap = statistics.median(step.logprob_gap for step in steps)
        lines.append(f"  TRL, {mode}: {settings}; sampler and trainer differ by {gap:.2g} nats")
    changes = ", ".join(f"{side} {change:.2g}" for side, change in measured.changed.items())
    return "\n".join([*lines, f"  largest change of a weight: {changes}"])


def line_of(row: Row) -> str:
    """As it is printed."""
    text = f"{row.name:42} {row.value:10.3f} {row.unit:6}"
    if row.limit is None:
        return text
    sign = ">=" if row.goal == "above" else "<="
    return f"{text} {sign} {row.limit:g}  {'ok' if row.holds else 'MISSED'}"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
