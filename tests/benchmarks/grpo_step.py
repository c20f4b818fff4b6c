"""Whole GRPO steps, ours against TRL's GRPOTrainer, in turns, on the same model, clips and prompts.

    python -m tests.benchmarks.grpo_step [--json FILE] [--sizes video demo] [--modes generate vllm]
                                         [--our-rollouts float32 | bfloat16]

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
and all responses too (no side can end one). Both: float32, AdamW, frozen tower, GRPO with
token-mean, no KL, one update per step. Threads: TRL 2 (with 1 its step takes half as long again),
our learner 2, our engine 1; our engine and learner share what the tower made of a clip, which TRL
cannot.

What TRL is given beyond its defaults, all of it to be faster: gradient checkpointing off,
rollouts per pass (8) as was fastest (32 at once took four times as long), fused AdamW, no logging,
no checkpoints, no shuffling, pictures decoded beforehand in memory, and (without which it does not
run on a CPU) the repair of vLLM's packed weights from rollout/vllm_extension.py. Its colocated vLLM
computes in bfloat16: TRL has no setting for that. Ours computes in float32 unless told to do as
TRL's, which is the recipes' default, by ``--our-rollouts bfloat16``. Its importance correction
stays on, as is ours, and costs it one more forward pass; ``ratio_without_old_logprobs`` leaves that
pass out.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.figures import Figure, report, say
from tests.benchmarks.grpo_figures import Measured, check_fair, describe, rows_of
from tests.benchmarks.grpo_material import Size, make_material
from tests.benchmarks.grpo_ours import recipe_text, run_ours
from tests.benchmarks.grpo_trl import Mode, TrlSide

SIZES = (
    Size(name="video", frames=16, side=224, response=48, groups=4, steps=3),
    Size(name="demo", frames=12, side=56, response=40, groups=8, steps=4),
)
SMALLEST = Size(
    name="smallest", frames=4, side=56, response=8, groups=2, steps=1, group_size=4, trl_batch=4
)
"""For the test of this script."""
MODES: tuple[Mode, ...] = ("generate", "vllm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    sizes = {size.name: size for size in (*SIZES, SMALLEST)}
    usual = [size.name for size in SIZES]
    parser.add_argument("--sizes", nargs="+", choices=sizes, default=usual)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--our-rollouts", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    chosen = [replace(sizes[name], our_rollouts=options.our_rollouts) for name in options.sizes]
    figures = (figure for size in chosen for figure in compare(size, options.modes))
    return report(figures, options.json)


def compare(size: Size, modes: Sequence[Mode]) -> list[Figure]:
    """One size, told before the next is begun."""
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder) / size.name, size, modes)
    check_fair(measured)
    say(describe(measured))
    return rows_of(measured)


def measure(folder: Path, size: Size, modes: Sequence[Mode]) -> Measured:
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
            changed={"ours": changed}
            | {f"trl_{mode}": side.finish() for mode, side in sides.items()},
            busy_while_waiting=turns.busy_while_waiting(),
            settings={mode: side.settings for mode, side in sides.items()}
            | {"ours": recipe_text(material)},
        )


if __name__ == "__main__":
    sys.exit(main())
