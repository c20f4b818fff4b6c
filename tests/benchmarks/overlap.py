"""Overlap of generation and learning: a step's seconds, beside the longer of the two alone.

    python -m tests.benchmarks.overlap [--json FILE] [--rounds 2] [--steps 8] [--sizes NAME ...]

Trainings of one run, in turns, all from the same weights and on the same clips, which a first
training, not counted, has decoded:

    alone      grpo.max_staleness = 0: engines generate, then the learner trains; each is timed
    together   grpo.max_staleness = 1: both at once

The engine and its actor are pinned to one core, the learner's rank to another, with one thread
each, in all of the run; driver, reward plugin and Ray run where the system puts them. *Generate* is
a step's time until its groups are judged and archived, *learn* the update, the weights sent and
proven, and the archive compacted: what engines and learner each do in every step. Means over the
steps but the first two of each training, and the last, in which nothing is left to be generated:
with overlap a step that waits for groups and one that does not take turns.

Sizes: `reasoning` has answers of 256 tokens, as long as a short line of thought, so that a step
takes seconds; `video` and `demo` are those of grpo_step, whose steps of half a second are a sixth
pauses, proofs and the driver.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil

from tests.benchmarks.figures import Figure, report, say
from tests.benchmarks.grpo_material import Material, Size, make_material
from tests.benchmarks.grpo_ours import recipe_text
from tests.benchmarks.grpo_step import SIZES, SMALLEST

GOAL = 1.15
REASONING = Size(name="reasoning", frames=8, side=112, response=256, groups=4, steps=8)
LIMITS = {REASONING.name: GOAL}
"""Limit of each size; of the others:"""
_LIMIT_OF_SHORT = 1.5
_WARM, _LAST = 2, 1
_LEARNING = ("timing_s/update_actor", "timing_s/update_weights", "timing_s/archive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Seconds of one step."""

    whole: float
    generate: float
    learn: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    usual = [REASONING, *SIZES]
    sizes = {size.name: size for size in (*usual, SMALLEST)}
    parser.add_argument("--sizes", nargs="+", choices=sizes, default=[one.name for one in usual])
    options = parser.parse_args()
    figures = (
        figure
        for name in options.sizes
        for figure in compare(sizes[name], options.rounds, options.steps)
    )
    return report(figures, options.json)


def compare(size: Size, rounds: int, steps: int) -> Iterator[Figure]:
    """Figures of one size."""
    steps += _WARM + _LAST
    size = replace(size, steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        material = make_material(Path(folder) / size.name, size)
        taken = asyncio.run(train(material, rounds, steps))
    yield from rows_of(size.name, taken["alone"], taken["together"])


def rows_of(name: str, alone: Sequence[Step], together: Sequence[Step]) -> list[Figure]:
    """Figures of steps alone and together."""
    generate, learn = (fmean(s.generate for s in alone), fmean(s.learn for s in alone))
    step, synchronous = (fmean(s.whole for s in steps) for steps in (together, alone))
    longer, limit = max(generate, learn), LIMITS.get(name, _LIMIT_OF_SHORT)
    say(
        f"{name}: goal {GOAL:g}x the longer of the two; without overlap {synchronous / longer:.2f}x"
    )
    return [
        Figure(f"{name}/generate", generate, "s"),
        Figure(f"{name}/learn", learn, "s"),
        Figure(f"{name}/step_alone", synchronous, "s"),
        Figure(f"{name}/step_together", step, "s"),
        Figure(f"{name}/step_over_longer", step / longer, "x", limit, "below"),
        Figure(f"{name}/speedup_by_overlap", synchronous / step, "x"),
    ]


async def train(material: Material, rounds: int, steps: int) -> dict[str, list[Step]]:
    """Steps of the trainings alone and together."""
    from cluster.config.recipe import read_recipe
    from cluster.inputs.samples import SampleSplits, check_stages
    from cluster.run_dir import RunDir
    from cluster.session import open_session
    from cluster.stages.grpo.stage import train_grpo
    from cluster.stages.stage_functions import stage_run

    kinds = ["first", *["alone", "together"] * rounds]
    names = [f"{kind}_{number}" for number, kind in enumerate(kinds)]
    recipe = material.folder / "recipe.toml"
    recipe.write_text(recipe_text(material) + _stages(names, kinds, steps))
    config = read_recipe(recipe, ["rollout.num_threads=1", "learner.num_threads=1"])
    run_dir = RunDir.open(material.folder / "run", config, resume=False, overwrite=False)

    def check(data: SampleSplits) -> None:
        check_stages(config, data, names)

    taken: dict[str, list[Step]] = {"first": [], "alone": [], "together": []}
    async with open_session(config, run_dir, check, material.model, 0, debug=False) as session:
        pin()
        log = _Steps(session.metrics)
        session.metrics = log  # type: ignore[assignment]
        for name, kind in zip(names, kinds, strict=True):
            log.steps = []
            await train_grpo(session, stage_run(config, run_dir, name))
            taken[kind] += log.steps[_WARM:-_LAST]
    run_dir.close()
    return taken


def _stages(names: Sequence[str], kinds: Sequence[str], steps: int) -> str:
    return "".join(
        f'[[stages]]\nname = "{name}"\nkind = "grpo"\nfrom = "base"\nnum_steps = {steps}\n'
        f"save_every = {steps}\nmax_staleness = {int(kind == 'together')}\n"
        for name, kind in zip(names, kinds, strict=True)
    )


class _Steps:
    """Metrics log that keeps each step's seconds."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self.steps: list[Step] = []

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self._log.write(stage, step, values)
        learn = sum(values.get(name, 0.0) for name in _LEARNING)
        whole = values["timing_s/step"] - values.get("timing_s/save", 0.0)
        self.steps.append(Step(whole=whole, generate=values["timing_s/gen"], learn=learn))

    def close(self) -> None:
        self._log.close()


def pin() -> None:
    """Pin engine and rollout actor to the first core, the learner's rank to the second."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    pinned = {"RolloutActor": 0, "EngineCore": 0, "LearnerActor": 0}
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            core = first if "RolloutActor" in title or "EngineCore" in title else second
            kind = next((kind for kind in pinned if kind in title), None)
            if kind is None:
                continue
            for thread in process.threads():
                os.sched_setaffinity(thread.id, {core})
            pinned[kind] += 1
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    assert all(pinned.values()), f"not all are there to be pinned: {pinned}"


if __name__ == "__main__":
    sys.exit(main())
