"""The classes that run as Ray actors. Each builds its worker from the recipe and forwards calls to
it."""

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
from learner.meeting import open_rendezvous
from learner.rows import Row, StepCounts
from learner.worker import LearnerWorker, Objective
from rollout.engine import Sampling, VllmEngine
from rollout.lora import AdapterSlots
from rollout.prompt import PromptKind
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
class WeightSyncResult:
    """Result of sending the weights to the workers once: who failed, and metrics."""

    failures: dict[str, str]
    """Workers that did not get the weights whole, and why."""
    figures: dict[str, float]
    """Metrics ``weights/...``."""


class RolloutActor:
    """Rollout actor: a rollout worker and its vLLM engine."""

    def __init__(self, config: RunConfig, name: str, cache_dir: str) -> None:
        self._config, self._name, self._cache_dir = config, name, cache_dir
        self._engine: VllmEngine | None = None
        self._worker: RolloutWorker | None = None
        self._clips: ClipStore | None = None
        self._held: SharedBuffer | None = None

    async def start(self, model_dir: str, version: PolicyVersion) -> None:
        """Start the engine with a model's weights, and the worker on it."""
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
            _adapter_slots(config),
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
        """Write the traces of a sample; ``upcoming``: a clip to prepare meanwhile."""
        return await self._started.answer(sample, sampling, upcoming)

    async def prompt(self, sample: Sample, ask: PromptKind) -> Prompt | Failure:
        """See RolloutWorker."""
        return await self._started.prompt(sample, ask)

    async def logprobs(
        self,
        video: str,
        prompt: Prompt,
        response: Sequence[int],
        adapter_of: PolicyVersion | None = None,
    ) -> list[float]:
        """Logprobs of a fixed response, for the parity probe."""
        return await self._started.logprobs(video, prompt, response, adapter_of)

    async def cache_counts(self) -> dict[str, int]:
        """Clip cache hits and misses since the start."""
        assert self._clips is not None, "start() comes first"
        return {"clip_hits": self._clips.hits, "clip_misses": self._clips.misses}

    async def init_transfer(self, init_info: dict[str, Any]) -> None:
        """Join the rendezvous of the weight-transfer backend."""
        assert self._engine is not None, "start() comes first"
        await self._engine.init_transfer(init_info)

    async def begin_update(self) -> None:
        """Pause the engine, and prepare it for new weights."""
        await self._started.begin_update()

    def node(self) -> str:
        """Ray's id of the actor's node."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    async def is_alive(self) -> bool:
        """Whether the engine's process still runs."""
        return self._engine is not None and self._engine.is_alive

    def cache_chunk(self, update: dict[str, Any]) -> dict[str, Any]:
        """Copy a chunk's bytes to memory that all engines of this node can read, until the next
        chunk. Returns the chunk with the path of that memory. Raises WeightUpdateError if the
        bytes differ from those sent."""
        data = update["data"]
        if (received := digest(data)) != update["digest"]:
            raise WeightUpdateError(
                f"weights came to this node damaged: digest {received:016x}, "
                f"sent with {update['digest']:016x}"
            )
        if self._held is None or len(self._held.data) < len(data):
            self._held = SharedBuffer(2 * len(data))  # pages that are never touched take no memory
        self._held.data[: len(data)] = data
        rest = {key: value for key, value in update.items() if key not in ("data", "digest")}
        return {**rest, "path": self._held.path}

    async def update_weights(self, update: dict[str, Any]) -> float:
        """Load one chunk of new weights. Returns the seconds this took."""
        start = time.perf_counter()
        await self._started.update_weights(update)
        return time.perf_counter() - start

    async def finish_update(self, version: PolicyVersion) -> None:
        """End the update: drop what the old weights computed, answer under the new version."""
        await self._started.finish_update(version)

    async def load_adapter(self, version: PolicyVersion, files: AdapterFiles) -> None:
        """Load a version's adapter; running requests keep the adapter they have."""
        await self._started.load_adapter(version, files)

    async def serve_adapter(self, version: PolicyVersion) -> None:
        """Answer new requests with a version's adapter, which is loaded."""
        await self._started.serve_adapter(version)

    async def stop(self) -> None:
        """End the engine's process."""
        if self._engine is not None:
            self._engine.stop()

    @property
    def _started(self) -> RolloutWorker:
        assert self._worker is not None, "start() comes first"
        return self._worker


class LearnerActor:
    """Learner actor: one learner rank."""

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

    def open_rendezvous(self) -> tuple[str, int]:
        """Where the other ranks find this one: its node and a port."""
        import ray

        return ray.util.get_node_ip_address(), open_rendezvous(self._config.learner.num_ranks)

    def join(self, address: str, port: int) -> None:
        """Join the other ranks at rank 0's address."""
        if self._config.deterministic:
            be_repeatable()
        self._worker.join(self._rank, address, port)

    def begin(self, model_dir: str, optim: OptimConfig) -> None:
        """Start a stage from a model directory, with a fresh optimiser, seeded by the run's
        seed."""
        seed_all(stable_seed("learner", self._config.seed))  # new weights: equal on all ranks
        self._worker.begin(model_dir, optim)
        seed_all(stable_seed("learner", self._config.seed, self._rank))

    def connect(self, client: EngineClient, address: str, num_engine_ranks: int) -> None:
        """Connect to the rollout engines for weight updates."""
        self._client = client
        self._worker.connect(self._config.transfer, client, address, num_engine_ranks)

    def publish(self, version: PolicyVersion, names: list[str]) -> WeightSyncResult:
        """Send the weights to the named workers. Only rank 0's result names the failures."""
        assert self._client is not None, "connect() comes first"
        self._client.open(version, names)
        figures = self._worker.publish()
        figures["weights/load_s"] = self._client.load_s
        return WeightSyncResult(failures=self._client.failures, figures=figures)

    def publish_adapter(self, version: PolicyVersion, names: list[str]) -> WeightSyncResult:
        """Send the adapter alone to the named workers, else as :meth:`publish`."""
        assert self._client is not None, "connect() comes first"
        self._client.open(version, names)
        files = self._worker.adapter()  # all ranks gather
        assert files is not None, "only a learner with LoRA has an adapter"
        if self._rank == 0:
            self._client.load_adapter(files)
        figures = {"weights/gb": files.num_bytes / 1e9}
        return WeightSyncResult(failures=self._client.failures, figures=figures)

    def train_step(
        self, rows: Sequence[Row], counts: StepCounts, objective: Objective, learning_rate: float
    ) -> dict[str, float]:
        """Make one update from this rank's rows. Returns metrics."""
        return self._worker.train_step(rows, counts, objective, learning_rate)

    def preflight(self, largest: LargestBatch, refers: bool) -> float:
        """Peak memory of the largest batch, GB. Restores the random state, because a resumed run
        runs the preflight again."""
        before = random_state()
        peak_gb = self._worker.preflight(largest, refers)
        set_random_state(before)
        return peak_gb

    def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        """Logprobs per row, response and token, of the present policy."""
        return self._worker.logprobs(rows)

    def ref_logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        """Logprobs per row, response and token, of the model that the stage started from."""
        return self._worker.ref_logprobs(rows)

    def features(self, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
        """Hidden states [len(rows), hidden] at each row's last token."""
        return self._worker.features(rows)

    def save(self, directory: str, tag: str, notes: dict[str, str]) -> None:
        """Save a checkpoint of all ranks, with the caller's files ``notes``."""
        self._worker.save(directory, tag, notes)

    def load(self, directory: str, tag: str) -> None:
        """Load a checkpoint of the same stage, to continue from it."""
        self._worker.load(directory, tag)

    def export(self, directory: str) -> None:
        """Write the weights as a Hugging Face directory."""
        self._worker.export(directory)


def _adapter_slots(config: RunConfig) -> AdapterSlots | None:
    lora = config.learner.lora
    if lora is None or not config.learner.hands_off_adapters:
        return None
    return AdapterSlots(rank=lora.rank, count=config.adapters_per_engine)
