"""Clips of two epochs on four nodes, each with a cache of its own. Prints figures as JSON. (No test
file.)

The pool, the learner group, caches, decoders and threads are the product's; the engine and the
update are scripted: they load clips, and take some time.
"""

import asyncio
import json
import os
import random
import runpy
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray

from cluster.actors import learner_group, ray_fleet
from cluster.actors.clip_homes import homes_of
from cluster.actors.learner_actor import CLIPS
from cluster.actors.learner_group import LearnerGroup
from cluster.actors.placement import Reservation, reserve
from cluster.actors.rollout_pool import RolloutPool
from cluster.config.recipe import RunConfig
from learner.ranks.clips_ahead import ClipsAhead
from learner.shared_prefix.rows import Row, supervised_row
from rollout.engine import Sampling
from rollout.worker import Rollout
from tests.cluster.actors.seats_on_fake_nodes import fake_nodes
from tests.cluster.config.test_node_layout import config_of
from video.cache import ClipStore
from video.config import VideoConfig
from wire.types import PolicyVersion, Prompt, Sample, Split

BUILDERS = runpy.run_path(str(Path(__file__).parents[2] / "video/conftest.py"))
NUM_CLIPS, STEP, EPOCHS = 48, 16, 2
WORK_S = 0.3  # of an answer, and of a row's update
NODE_OF = dict[str, str]()
"""Node of each actor, where Ray does not say it."""


def open_store(config: RunConfig, who: str) -> ClipStore:
    """This node's cache; the log beside it has a line for every clip made."""
    assert config.video.cache_dir is not None
    node = NODE_OF.get(who) or ray.get_runtime_context().get_node_id()
    folder = config.video.cache_dir / node
    folder.mkdir(exist_ok=True)
    processor = BUILDERS["FakeProcessor"](folder / "log")
    return ClipStore(folder / "cache", processor, VideoConfig(max_frames=4, decode_workers=2))


class ScriptedEngine:
    """A RolloutActor: looks at the clip, and takes its time."""

    def __init__(self, config: RunConfig, name: str) -> None:
        self._clips = open_store(config, name.replace("rollout-", "engine "))

    async def start(self, model_dir: str, version: PolicyVersion, restarts: int) -> int:
        self._version = version
        return os.getpid()

    async def probe(self) -> bool:
        return True

    async def answer(
        self, sample: Sample, sampling: Sampling, upcoming: str | None, ask: Any
    ) -> Rollout:
        clip = await asyncio.to_thread(self._clips.get, sample.video)
        await asyncio.sleep(WORK_S)
        ids = [1] * 40
        prompt = Prompt(token_ids=ids, clip_key=clip.clip_key, fingerprint=clip.fingerprint)
        return Rollout(prompt=prompt, completions=(), failures=(), policy_version=self._version)

    async def stop(self) -> None:
        pass


class ScriptedRank:
    """A LearnerActor: loads the clips of its rows one after another."""

    def __init__(self, config: RunConfig, rank: int) -> None:
        self._clips = open_store(config, f"rank {rank}")
        self._ahead = ClipsAhead(self._clips, 1)

    def prepare_clip(self, video: str) -> None:
        self._ahead.submit(video)

    def prepare(self, rows: list[Row]) -> None:
        for row in rows:
            if not self._ahead.has(row.prompt.clip_key):
                self._ahead.submit(row.video)

    def train_step(self, rows: list[Row], *_: Any) -> dict[str, float]:
        self.prepare(rows)
        for row in rows:
            self._ahead.load(row.prompt.clip_key, row.video, row.prompt.fingerprint)
            time.sleep(WORK_S)
        return {"timing_s/wait_clips": self._ahead.take_waited_s()}


async def train(folder: Path) -> dict[str, Any]:
    """The epochs on a real Ray."""
    ray_fleet.RemoteRolloutActor = ray.remote(ScriptedEngine)
    remote: Any = ray.remote(concurrency_groups={CLIPS: 1})
    learner_group.RemoteLearnerActorWithClips = remote(ScriptedRank)
    seats = await reserve(config_of(4, 4, 0, 0, num_cpus=1.5))
    seen = await run_epochs(folder, seats)
    seats.release()
    return seen


async def run_epochs(folder: Path, seats: Reservation) -> dict[str, Any]:
    """Two epochs in steps, each answered and trained."""
    config = config_of(4, 4, 0, 0, num_cpus=1.5)
    config = config.model_copy(update={"video": VideoConfig(cache_dir=folder)})
    homes = homes_of(config, seats)
    assert homes is not None
    learner = LearnerGroup(config, seats.ranks, homes)
    pool = RolloutPool(config, seats.workers, homes, learner.prepare_clip)
    await pool.start("model", PolicyVersion(attempt=0, step=0))
    samples = [make_sample(folder, number) for number in range(NUM_CLIPS)]
    order = [
        sample
        for epoch in range(EPOCHS)
        for sample in random.Random(epoch).sample(samples, NUM_CLIPS)
    ]
    waits = []
    for start in range(0, len(order), STEP):
        step, later = order[start : start + STEP], order[start + STEP : start + 2 * STEP]
        asked = [one(pool, sample, coming) for sample, coming in pairs(step, later)]
        rows = list(await asyncio.gather(*asked))
        waits.append(await wait_of(learner, rows))
    made = decodes(folder)
    half = len(waits) // EPOCHS
    return {
        "nodes": len({seat.node for seat in seats.ranks}),
        "most decodes of a clip on a node": max(made.values()),
        "nodes per clip": sum(made.values()) / NUM_CLIPS,
        "waits, first epoch": waits[:half],
        "waits, second epoch": waits[half:],
    }


def pairs(step: list[Sample], later: list[Sample]) -> list[tuple[Sample, str | None]]:
    """Each sample with the clip that is prepared meanwhile."""
    return [(s, later[n].video if n < len(later) else None) for n, s in enumerate(step)]


async def one(pool: RolloutPool, sample: Sample, coming: str | None) -> Row:
    sampling = Sampling(n=1, temperature=1.0, max_tokens=9, seed=0)
    prompt = (await pool.answer(sample, sampling, coming)).prompt
    assert prompt is not None
    return supervised_row(prompt, sample.video, [2] * random.Random(sample.id).randint(5, 30))


async def wait_of(learner: LearnerGroup, rows: list[Row]) -> float:
    """Seconds that the slowest rank waited."""
    return max(
        figures["timing_s/wait_clips"]
        for figures in await learner._ranks.each("train_step", learner._deal(rows), None)
    )


def make_sample(folder: Path, number: int) -> Sample:
    clip = BUILDERS["write_clip"](folder / f"{number}.mp4", frames=4 + number)
    return Sample(id=str(number), video=str(clip), label="a", split=Split.TRAIN)


def decodes(folder: Path) -> Counter[tuple[str, str]]:
    """How often each clip was made on each node."""
    return Counter(
        (log.parent.name, key) for log in folder.glob("*/log") for key in log.read_text().split()
    )


def main() -> int:
    """All figures, as one line of JSON."""
    with fake_nodes(4, 0, num_cpus=2), tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(train(Path(folder)))
    sys.stdout.write(f"{json.dumps(seen)}\n")
    return 0
