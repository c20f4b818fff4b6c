"""The Ray actor of one rollout worker: builds the worker and its engine from the recipe."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cluster.actors.embeddings_of_node import EmbeddingsOfNode
from cluster.actors.worker_method import worker_method
from cluster.config.recipe import RunConfig
from rollout.lora import AdapterSlots
from rollout.render import Renderer
from rollout.vllm_engine import VllmEngine
from rollout.worker import RolloutWorker
from video.disk_cache.location import cache_folder
from video.processor import ClipProcessor
from video.semantic_tokens.embedding_narrator import narrator_maker
from video.semantic_tokens.narrated_clips import NarratedClips, Narration
from wire.errors import WeightUpdateError
from wire.shared_memory import SharedBuffer
from wire.stack_dump import offer_stacks
from wire.types import PolicyVersion, stable_seed
from wire.weights import digest


class RolloutActor:
    """Rollout actor: a rollout worker and its vLLM engine."""

    answer = worker_method(RolloutWorker.answer)
    prompt = worker_method(RolloutWorker.prompt)
    logprobs = worker_method(RolloutWorker.logprobs)
    sleep = worker_method(RolloutWorker.sleep)
    weight_digests = worker_method(RolloutWorker.weight_digests)
    load_adapter = worker_method(RolloutWorker.load_adapter)
    serve_adapter = worker_method(RolloutWorker.serve_adapter)

    def __init__(self, config: RunConfig, name: str) -> None:
        offer_stacks()
        self._config, self._name = config, name
        self._engine: VllmEngine | None = None
        self._worker: RolloutWorker | None = None
        self._clips: NarratedClips | None = None
        self._renderer: Renderer | None = None
        self._held: dict[int, SharedBuffer] = {}
        self._holding = ThreadPoolExecutor(2, thread_name_prefix="hold-weights")

    @property
    def worker(self) -> RolloutWorker:
        """The worker, once :meth:`start` has built it."""
        assert self._worker is not None, "start() comes first"
        return self._worker

    async def start(self, model_dir: str, version: PolicyVersion, restarts: int = 0) -> int:
        """Start the engine with a model's weights, and the worker on it. ``restarts``: of this
        worker until now. Returns the id of the actor's process."""
        config, folder = self._config, Path(model_dir)
        renderer = Renderer.load(folder, config.rollout.max_prompt_length)
        clips = NarratedClips(cache_folder(config.video), ClipProcessor(folder), config.video)
        self._clips, self._renderer = clips, renderer
        blocked = renderer.blocked_tokens()
        again = (restarts,) if restarts else ()  # it is not to draw once more what it has drawn
        engine = await VllmEngine.start(
            folder,
            config.rollout,
            blocked,
            config.transfer.backend,
            _adapter_slots(config),
            seed=stable_seed("engine", self._name, config.seed, version, *again),
            deterministic=config.deterministic,
        )
        self._engine = engine
        self._worker = RolloutWorker(
            self._name,
            engine,
            renderer,
            clips,
            config.prompt_set,
            version,
        )
        return os.getpid()

    def use_tower(self, tower: str | None) -> None:
        """Let the next weights bring a frozen vision tower, by the learner's name for it; None: one
        that is trained. Where the recipe says so, embeddings of clips are shared with the learner
        ranks of this node."""
        assert self._engine is not None, "start() comes first"
        config = self._config
        self._engine.use_tower(tower)
        if tower is not None and config.rollout.share_embeddings:
            folder, model = cache_folder(config.video), Path(config.model)
            self._engine.embeddings = EmbeddingsOfNode.open(config, folder, tower, model)

    def use_tokens(self, narration: Narration) -> None:
        """Show narratives of a tokenizer from now on."""
        assert self._clips is not None, "start() comes first"
        assert self._renderer is not None, "it comes with the clips"
        narrator_of = narrator_maker(narration, Path(self._config.model))
        self._clips.use(narration, self._renderer.plain_ids, narrator_of)

    async def cache_counts(self) -> dict[str, int]:
        """Clip cache hits and misses, clips decoded by each decoder, and traces that updates had
        written anew, since the start."""
        clips, engine = self._clips, self._engine
        assert clips is not None, "start() comes first"
        assert engine is not None, "start() comes first"
        decoded = {f"decoded_by_{name}": number for name, number in clips.decoded.items()}
        counts = {"clip_hits": clips.hits, "clip_misses": clips.misses}
        of_engine = {"restarted_traces": engine.num_restarted}
        return {**counts, **of_engine, **decoded, "decoders_lost": clips.decoders_lost}

    async def init_transfer(self, init_info: dict[str, Any]) -> None:
        """Join the rendezvous of the weight-transfer backend."""
        assert self._engine is not None, "start() comes first"
        await self._engine.init_transfer(init_info)

    def node(self) -> str:
        """Ray's id of the actor's node."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    async def is_alive(self) -> bool:
        """Whether the engine's process still runs."""
        return self._engine is not None and self._engine.is_alive

    async def probe(self) -> bool:
        """Let the engine show that it works; the caller sets a deadline. False: its process has
        ended."""
        if self._engine is None or not self._engine.is_alive:
            return False
        await self._engine.probe()
        return True

    async def end_processes(self) -> None:
        """End the processes of the engine and of the decoders, whatever state they are in."""
        below = psutil.Process().children(recursive=True)
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(below, timeout=5)

    async def hold(self, chunk: dict[str, Any], place: int) -> dict[str, Any]:
        """Copy a chunk's bytes to memory that all engines of this node can read, until the next
        chunk of the same ``place``. Returns the chunk with the path of that memory. Raises
        WeightUpdateError if the bytes differ from those sent."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._holding, self._copy, chunk, place)

    async def begin_update(self, after: object = None) -> None:
        """Pause, and get ready for new weights. ``after``: here and below, an answer to wait
        for."""
        await self.worker.begin_update()

    async def update_weights(self, update: dict[str, Any], after: object = None) -> float:
        """Load one chunk of new weights. Returns the seconds this took."""
        start = time.perf_counter()
        await self.worker.update_weights(update)
        return time.perf_counter() - start

    async def finish_update(self, version: PolicyVersion, after: object = None) -> None:
        """Answer under the new version."""
        await self.worker.finish_update(version)

    def _copy(self, chunk: dict[str, Any], place: int) -> dict[str, Any]:
        data = chunk["data"]
        if (received := digest(data)) != chunk["digest"]:
            raise WeightUpdateError(
                f"weights came to this node damaged: digest {received:016x}, "
                f"sent with {chunk['digest']:016x}"
            )
        held = self._held.get(place)
        if held is None or len(held.data) < len(data):
            # pages that are never touched take no memory
            self._held[place] = held = SharedBuffer(2 * len(data))
        held.data[: len(data)] = data
        rest = {key: value for key, value in chunk.items() if key not in ("data", "digest")}
        return {**rest, "path": held.path}

    async def stop(self) -> None:
        """End the engine's process."""
        if self._engine is not None:
            self._engine.stop()


def _adapter_slots(config: RunConfig) -> AdapterSlots | None:
    lora = config.learner.lora
    if lora is None or not config.learner.hands_off_adapters:
        return None
    return AdapterSlots(rank=lora.rank, count=config.adapters_per_engine)
