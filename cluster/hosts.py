"""What lives inside each Ray actor: plain classes that build a worker from the recipe and hand
calls on to it."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.config import RunConfig
from cluster.engine_client import EngineClient
from learner.config import OptimConfig
from learner.determinism import be_repeatable, random_state, seed_all, set_random_state
from learner.embedding_store import EmbeddingStore
from learner.largest_batch import LargestBatch
from learner.meeting import listen
from learner.rows import Row, StepCounts
from learner.worker import LearnerWorker, Objective
from rollout.engine import Sampling, VllmEngine
from rollout.lora import AdapterRoom
from rollout.prompt import Ask
from rollout.render import Renderer
from rollout.worker import Rollout, RolloutWorker
from video.cache import ClipStore
from video.processor import ClipProcessor
from wire.adapters import AdapterFiles
from wire.errors import WeightUpdateError
from wire.shared_memory import SharedBuffer
from wire.types import Failure, PolicyVersion, Prompt, Sample, stable_seed
from wire.weights import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What became of one sending of the weights."""

    failures: dict[str, str]
    """Workers that did not get them whole, and why."""
    figures: dict[str, float]
    """Metrics ``weights/...``."""


class RolloutHost:
    """A rollout worker and its engine, in an actor of their own."""

    def __init__(self, config: RunConfig, name: str, cache_dir: str) -> None:
        self._config, self._name, self._cache_dir = config, name, cache_dir
        self._engine: VllmEngine | None = None
        self._worker: RolloutWorker | None = None
        self._clips: ClipStore | None = None
        self._held: SharedBuffer | None = None

    async def start(self, model_dir: str, version: PolicyVersion) -> None:
        """Bring the engine up with a model's weights."""
        config, folder = self._config, Path(model_dir)
        renderer = Renderer.load(folder, config.rollout.max_prompt_length)
        clips = ClipStore(self._cache_dir, ClipProcessor(folder), config.video)
        self._clips = clips
        blocked = renderer.blocked_tokens()
        engine = await VllmEngine.start(
            folder,
            config.rollout,
            blocked,
            config.transfer.kind,
            _adapter_room(config),
            deterministic=config.deterministic,
        )
        self._engine = engine
        self._worker = RolloutWorker(
            self._name,
            engine,
            renderer,
            clips,
            config.label_set,
            version,
            config.data.use_side_text,
        )

    async def answer(
        self, sample: Sample, sampling: Sampling, upcoming: str | None = None
    ) -> Rollout:
        """See RolloutWorker."""
        return await self._started.answer(sample, sampling, upcoming)

    async def prompt(self, sample: Sample, ask: Ask) -> Prompt | Failure:
        """See RolloutWorker."""
        return await self._started.prompt(sample, ask)

    async def logprobs(
        self,
        video: str,
        prompt: Prompt,
        response: Sequence[int],
        adapter_of: PolicyVersion | None = None,
    ) -> list[float]:
        """See RolloutWorker."""
        return await self._started.logprobs(video, prompt, response, adapter_of)

    async def cache_counts(self) -> dict[str, int]:
        """Clips found processed, and clips decoded, since the start."""
        assert self._clips is not None, "start() comes first"
        return {"clip_hits": self._clips.hits, "clip_misses": self._clips.misses}

    async def init_transfer(self, init_info: dict[str, Any]) -> None:
        """Rendezvous of the weight-transfer backend."""
        assert self._engine is not None, "start() comes first"
        await self._engine.init_transfer(init_info)

    async def begin_update(self) -> None:
        """See RolloutWorker."""
        await self._started.begin_update()

    def node(self) -> str:
        """Ray's name of the node that this is on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    async def is_alive(self) -> bool:
        """Whether the engine's process is still there."""
        return self._engine is not None and self._engine.is_alive

    def hold(self, update: dict[str, Any]) -> dict[str, Any]:
        """Put a chunk's bytes where all engines of this node can read them, until the next chunk.
        Returns the chunk that says where. Raises WeightUpdateError if they are not those sent."""
        data = update["data"]
        if (found := digest(data)) != update["digest"]:
            raise WeightUpdateError(
                f"weights came to this node damaged: digest {found:016x}, "
                f"sent with {update['digest']:016x}"
            )
        if self._held is None or len(self._held.data) < len(data):
            self._held = SharedBuffer(2 * len(data))  # what is never touched takes no memory
        self._held.data[: len(data)] = data
        rest = {key: value for key, value in update.items() if key not in ("data", "digest")}
        return {**rest, "path": self._held.path}

    async def update_weights(self, update: dict[str, Any]) -> float:
        """See RolloutWorker. Returns the seconds it took."""
        start = time.perf_counter()
        await self._started.update_weights(update)
        return time.perf_counter() - start

    async def finish_update(self, version: PolicyVersion) -> None:
        """See RolloutWorker."""
        await self._started.finish_update(version)

    async def load_adapter(self, version: PolicyVersion, files: AdapterFiles) -> None:
        """See RolloutWorker."""
        await self._started.load_adapter(version, files)

    async def serve_adapter(self, version: PolicyVersion) -> None:
        """See RolloutWorker."""
        await self._started.serve_adapter(version)

    async def stop(self) -> None:
        """End the engine's process."""
        if self._engine is not None:
            self._engine.stop()

    @property
    def _started(self) -> RolloutWorker:
        assert self._worker is not None, "start() comes first"
        return self._worker


class LearnerHost:
    """A learner rank, in an actor of its own."""

    def __init__(self, config: RunConfig, rank: int, cache_dir: str) -> None:
        os.environ["OMP_NUM_THREADS"] = str(config.learner.num_threads)
        clips = ClipStore(cache_dir, ClipProcessor(config.model), config.video)
        embeddings = None
        if config.learner.embedding_cache:
            max_bytes = int(config.learner.embedding_cache_max_gb * 2**30)
            embeddings = EmbeddingStore(Path(cache_dir) / "embeddings", max_bytes)
        self._worker = LearnerWorker(config.learner, config.grpo.loss, clips, embeddings)
        self._rank, self._config = rank, config
        self._client: EngineClient | None = None

    def listen(self) -> tuple[str, int]:
        """Where the other ranks find this one: its node and a port."""
        import ray

        return ray.util.get_node_ip_address(), listen(self._config.learner.num_ranks)

    def join(self, address: str, port: int) -> None:
        """See LearnerWorker."""
        if self._config.deterministic:
            be_repeatable()
        self._worker.join(self._rank, address, port)

    def begin(self, model_dir: str, optim: OptimConfig) -> None:
        """See LearnerWorker. What a stage draws at random comes from the run's seed."""
        seed_all(stable_seed("learner", self._config.seed))  # what it makes anew: equal on all
        self._worker.begin(model_dir, optim)
        seed_all(stable_seed("learner", self._config.seed, self._rank))

    def connect(self, client: EngineClient, address: str, num_engine_ranks: int) -> None:
        """Meet the rollout engines."""
        self._client = client
        self._worker.connect(self._config.transfer, client, address, num_engine_ranks)

    def publish(self, version: PolicyVersion, names: list[str]) -> Published:
        """Send the weights to the named workers (rank 0 knows what became of it)."""
        assert self._client is not None, "connect() comes first"
        self._client.open(version, names)
        figures = self._worker.publish()
        figures["weights/load_s"] = self._client.load_s
        return Published(failures=self._client.failures, figures=figures)

    def publish_adapter(self, version: PolicyVersion, names: list[str]) -> Published:
        """As :meth:`publish`, the adapter alone."""
        assert self._client is not None, "connect() comes first"
        self._client.open(version, names)
        files = self._worker.adapter()  # all ranks gather
        assert files is not None, "only a learner with LoRA has an adapter"
        if self._rank == 0:
            self._client.load_adapter(files)
        figures = {"weights/gb": files.num_bytes / 1e9}
        return Published(failures=self._client.failures, figures=figures)

    def train_step(
        self, rows: Sequence[Row], counts: StepCounts, objective: Objective, learning_rate: float
    ) -> dict[str, float]:
        """See LearnerWorker."""
        return self._worker.train_step(rows, counts, objective, learning_rate)

    def preflight(self, largest: LargestBatch, refers: bool) -> float:
        """See LearnerWorker. What it draws at random is put back: a resumed run makes it anew."""
        before = random_state()
        found = self._worker.preflight(largest, refers)
        set_random_state(before)
        return found

    def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        """See LearnerWorker."""
        return self._worker.logprobs(rows)

    def ref_logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        """See LearnerWorker."""
        return self._worker.ref_logprobs(rows)

    def features(self, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
        """See LearnerWorker."""
        return self._worker.features(rows)

    def save(self, directory: str, tag: str, notes: dict[str, str]) -> None:
        """See LearnerWorker."""
        self._worker.save(directory, tag, notes)

    def load(self, directory: str, tag: str) -> None:
        """See LearnerWorker."""
        self._worker.load(directory, tag)

    def export(self, directory: str) -> None:
        """See LearnerWorker."""
        self._worker.export(directory)


def _adapter_room(config: RunConfig) -> AdapterRoom | None:
    lora = config.learner.lora
    if lora is None or not config.learner.hands_off_adapters:
        return None
    return AdapterRoom(rank=lora.rank, count=config.adapters_per_engine)
