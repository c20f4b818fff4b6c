"""A user function on two fake nodes, one of which is lost, then the other. Prints who scored, as
JSON. (No test file.)

A process of its own: the tests' own Ray stays up.
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray

from cluster.actors.placement import Reservation, Seat
from cluster.actors.reward_nodes import RewardNode, reward_nodes
from cluster.config.recipe import RunConfig
from cluster.inputs.scorer import make_scorer
from reward.config import RewardConfig, RewardTerm
from reward.plugins.shipped import ShippedFunction
from reward.scorer import Scorer
from tests.cluster.actors.seats_on_fake_nodes import fake_nodes
from tests.cluster.config.test_node_layout import config_of
from wire.errors import ConfigError
from wire.types import Completion, FinishReason, PolicyVersion, Sample, Score, Split

SOURCE = """
import os, time

def whose(pid):
    return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])

def place(solution_str):
    time.sleep(0.2)
    return {"score": 1.0, "pid": os.getpid(), "runner": whose(os.getppid())}
"""
VERSION = PolicyVersion(attempt=0, step=0)
SAMPLE = Sample(id="a", video="a.mp4", label="fall", split=Split.TRAIN)
ANSWER = Completion(
    token_ids=(1,),
    logprobs=(-0.1,),
    text="four",
    policy_version=VERSION,
    finish_reason=FinishReason.STOP,
)


def recipe(file: Path) -> RunConfig:
    """A recipe whose reward is that file's, on all nodes."""
    term = RewardTerm(function=f"{file}:place", name="place")
    return config_of(1, 1, 0, 0).model_copy(
        update={"reward": RewardConfig(terms=(term,), placement="spread")}
    )


async def ask(scorer: Scorer, count: int) -> list[dict[str, float] | str]:
    """Parts of groups of two, or the reason of a failure."""
    groups = await asyncio.gather(*[scorer.score(SAMPLE, [ANSWER, ANSWER]) for _ in range(count)])
    outcomes = [outcome for group in groups for outcome in group]
    return [
        dict(outcome.parts) if isinstance(outcome, Score) else outcome.reason
        for outcome in outcomes
    ]


async def refusal(node: RewardNode, file: Path) -> str:
    """Why a node does not load a function whose file is gone."""
    function = ShippedFunction.of(RewardTerm(function=f"{file}:place"), None)
    file.unlink()
    try:
        await node.load(function)
    except ConfigError as error:
        return str(error)
    return ""


async def lost_one_by_one(names: list[str], file: Path) -> dict[str, Any]:
    """Scores of a run with two workers on one node and a rank on another."""
    config, group = recipe(file), Any
    seats = [Seat(group, index, node) for index, node in enumerate([names[0], *names])]  # type: ignore[arg-type]
    async with reward_nodes(config, Reservation(tuple(seats[:2]), tuple(seats[2:]))) as nodes:
        actors = [node._actor for node in nodes]
        seen: dict[str, Any] = {
            "names": [node.name for node in nodes],
            "actors": ray.get([actor.__ray_call__.remote(whereabouts) for actor in actors]),
            "driver": os.getpid(),
        }
        async with make_scorer(config, nodes=nodes) as scorer:
            seen["both"] = await ask(scorer, 8)
            waiting = asyncio.create_task(ask(scorer, 8))
            await asyncio.sleep(0.3)  # in the middle of them
            ray.kill(actors[0])
            seen["while one is killed"] = await waiting
            seen["without it"] = await ask(scorer, 2)
            seen["figures"] = scorer.take_figures()
            copy = file.with_name("gone.py")
            copy.write_text(SOURCE)
            seen["refusal"] = await refusal(nodes[1], copy)
            ray.kill(actors[1])
            seen["without any"] = await ask(scorer, 2)
    return seen


def whereabouts(_: Any) -> tuple[str, int]:
    """Node and process of an actor."""
    return ray.get_runtime_context().get_node_id(), os.getpid()


async def on_the_driver(file: Path) -> int:
    """Number of reward actors of a recipe that spreads nothing."""
    config = recipe(file)
    plain = config.model_copy(update={"reward": RewardConfig(terms=config.reward.terms)})
    async with reward_nodes(plain, Reservation((), ())) as nodes:
        return len(nodes)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, fake_nodes(2, 1) as names:
        file = Path(folder, "mine.py")
        file.write_text(SOURCE)
        seen = asyncio.run(lost_one_by_one(names, file))
        seen["nodes"] = names
        seen["with placement = driver"] = asyncio.run(on_the_driver(file))
    sys.stdout.write(f"{json.dumps(seen)}\n")


if __name__ == "__main__":
    main()
