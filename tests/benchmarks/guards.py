"""What the guards against reward hacking cost a step.

    python -m tests.benchmarks.guards [--json FILE]

A step of 512 groups of 8 traces of 1,000 tokens, with prompts of 5,000 video tokens and a side text
each: processor time of the whole look, figures and warnings. Prompts that were seen before are
those of the second epoch on, and those without a side text.

Rows: {name, value, unit, limit, goal}; ``limit``: fail above it.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from cluster.stages.hacking_guards import HackingGuards
from reward.hacking_alerts import AlertState
from rollout.prompt import Prompts
from tests.benchmarks.figures import Figure, report
from tests.cluster.session_fakes import NAMES, load_renderer, make_config
from tests.groups import make_completion, make_group, make_sample
from video.processor import PLACEHOLDER
from wire.types import Prompt, Score, Trace, TraceGroup

NUM_GROUPS, GROUP_SIZE, NUM_TOKENS, NUM_VIDEO = 512, 8, 1_000, 5_000
LIMIT_S = 0.2


def step() -> list[TraceGroup]:
    """No two traces alike, and no two prompts."""
    draw, renderer = random.Random(1), load_renderer()
    prompts = Prompts(make_config().label_set, use_side_text=True)
    start, pad, end = renderer._ids(PLACEHOLDER)
    clip = (start, *[pad] * NUM_VIDEO, end)
    words = " ".join(draw.choice(("turn", "up", "then", "left")) for _ in range(NUM_TOKENS))
    groups = []
    for number in range(NUM_GROUPS):
        label = draw.choice(NAMES)
        text = renderer._text(prompts.trace(make_sample(label, text=f"clip {number}")))
        before, after = text.split(PLACEHOLDER)
        ids = (*renderer._ids(before), *clip, *renderer._ids(after))
        traces = [trace(f"{number} {n} {words}", draw) for n in range(GROUP_SIZE)]
        prompt = Prompt(token_ids=ids, clip_key="k", fingerprint="f")
        groups.append(make_group(*traces, sample=make_sample(label), prompt=prompt))
    return groups


def trace(words: str, draw: random.Random) -> Trace:
    right = float(draw.random() < 0.5)
    text = f"<think>{words}</think><answer>{draw.choice(NAMES)}</answer>"
    return Trace(
        completion=make_completion(text, num_tokens=NUM_TOKENS),
        outcome=Score(total=right + 1, parts={"accuracy": right, "format": 1.0}),
    )


def figures() -> Iterator[Figure]:
    """Medians of 5."""
    groups, first, then = step(), [], []
    for _ in range(5):
        config, state = make_config(), AlertState()
        prompts, groups_per_step = config.prompt_set, config.grpo.groups_per_step
        guards = HackingGuards(
            *(config.reward, prompts, load_renderer(), "grpo", state),
            groups_per_step=groups_per_step,
        )
        for seconds in (first, then):
            begin = time.process_time()
            guards.check_step(groups, float(NUM_TOKENS))
            seconds.append(time.process_time() - begin)
    yield Figure("prompts seen before", median(then), "s", LIMIT_S, "below")
    yield Figure("prompts read for the first time", median(first), "s")


def main() -> int:
    """Exit status: 1 if the limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    return report(figures(), parser.parse_args().json)


if __name__ == "__main__":
    sys.exit(main())
