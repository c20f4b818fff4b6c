"""Real rollout workers and learner ranks in a Ray that is up, without a run. (No test file.)"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.actors import placement
from cluster.actors.bucket_client import BucketClient
from cluster.actors.learner_group import LearnerGroup
from cluster.actors.rollout_pool import RolloutPool
from cluster.config.recipe import DataConfig, RunConfig
from cluster.weight_sync.full_weights import WeightSync
from cluster.weight_sync.parity_probe import probe_row
from learner.config import OptimConfig
from learner.shared_prefix.rows import Response, Row
from rollout.manifest import read_manifest
from wire.labels import Label, LabelSet
from wire.token_arrays import TokenIds
from wire.types import PolicyVersion, Sample

FLOAT32: dict[str, Any] = {"dtype": "float32", "num_threads": 1}


@dataclass
class Workers:
    """Rollout workers that are up, and a way to learners that send to them."""

    config: RunConfig
    seats: placement.Reservation
    rollouts: RolloutPool
    samples: list[Sample]
    probe: Row
    events: "RecordedEvents"
    """What became of the workers."""

    @asynccontextmanager
    async def learner(
        self, client: type[BucketClient] = BucketClient, *values: Any, **settings: Any
    ) -> AsyncIterator[tuple[LearnerGroup, WeightSync]]:
        """Fresh learner ranks, met with the engines through ``client(..., *values)``."""
        config = self.config.model_copy(
            update={"learner": self.config.learner.model_copy(update=settings)}
        )
        learner = LearnerGroup(config, self.seats.ranks[: config.learner.num_ranks])
        try:
            await learner.start()
            await learner.begin(str(config.model), OptimConfig())
            await learner.connect(client(config.rollout.update_timeout_s, *values))
            precisions = config.rollout.dtype, config.learner.dtype
            limits = config.parity.limit(*precisions), config.parity.noise_limit(*precisions)
            sync = WeightSync(self.rollouts, learner, self.probe, *limits)
            self.rollouts.use_weights_of(sync)
            yield learner, sync
        finally:
            learner.stop()


class RecordedEvents:
    """Keeps a pool's events."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, dict[str, Any]]] = []
        """Kind, subject, fields."""

    def note(self, kind: str, subject: str, **fields: Any) -> None:
        self.all.append((kind, subject, fields))

    def states(self, name: str) -> list[tuple[str, str]]:
        """States of a worker, and why it came to each."""
        return [(f["state"], f["cause"]) for _, who, f in self.all if who == name and "state" in f]


def make_config(model: Path, manifest: Path, names: list[str], **settings: Any) -> RunConfig:
    """For small models on a CPU; ``settings`` are sections of the recipe."""
    rollout = {"max_prompt_length": 512, "max_response_length": 96, "block_size": 32}
    rollout |= {"max_batched_tokens": 1024, **FLOAT32, **settings.pop("rollout", {})}
    return RunConfig(
        model=model,
        labels=[Label(name=name, definition=name) for name in names],
        data=DataConfig(manifest=manifest),
        rollout=rollout,
        learner={**FLOAT32, **settings.pop("learner", {})},
        **settings,
    )


def with_cache(config: RunConfig, folder: Path) -> RunConfig:
    """A recipe whose clip cache is a test's own."""
    video = config.video.model_copy(update={"cache_dir": folder})
    return config.model_copy(update={"video": video})


@asynccontextmanager
async def open_workers(config: RunConfig, cache_dir: Path) -> AsyncIterator[Workers]:
    """Engines up with the model's weights as version 0.0; all ended afterwards."""
    config = with_cache(config, cache_dir)
    seats = await placement.reserve(config)
    events = RecordedEvents()
    rollouts = RolloutPool(config, seats.workers, events=events)
    try:
        await rollouts.start(str(config.model), PolicyVersion(attempt=0, step=0))
        labels = LabelSet(labels=config.labels)
        samples = list(read_manifest(config.data.manifest, labels, None))
        probe = await make_probe(rollouts, samples[0])
        yield Workers(config, seats, rollouts, samples, probe, events)
    finally:
        await rollouts.stop()
        seats.release()


async def make_probe(rollouts: RolloutPool, sample: Sample) -> Row:
    """A prompt and a few tokens that hardly ever follow it. Asked of engines in service."""
    prompt = await rollouts.prompt(sample, "trace")
    row = Row(prompt=prompt, video=sample.video, responses=(Response(token_ids=TokenIds((5,))),))
    return probe_row(row, tuple(prompt.token_ids[-6:]))
