"""The Ray actor of one learner rank: builds its worker from the recipe."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster.actors.embeddings_of_node import open_store
from cluster.actors.engine_calls import EngineSet
from cluster.actors.engine_client import UpdateClient
from cluster.actors.host_copy import AdapterCopy, HostCopy
from cluster.actors.worker_method import worker_method
from cluster.config.recipe import RunConfig
from learner.config import GrpoLossConfig, LoraConfig, OptimConfig
from learner.ranks.clips_ahead import ClipsAhead
from learner.ranks.determinism import be_repeatable, seed_all
from learner.ranks.rendezvous import open_rendezvous
from learner.worker import LearnerWorker
from rollout.render import Renderer
from video.disk_cache.location import cache_folder
from video.processor import ClipProcessor
from video.semantic_tokens.embedding_narrator import narrator_maker
from video.semantic_tokens.narrated_clips import NarratedClips, Narration
from wire.stack_dump import offer_stacks
from wire.types import PolicyVersion, stable_seed
from wire.weight_digest import DigestRecorder

CLIPS = "clips"
"""Calls that make clips ready go on while the rank trains: Ray's concurrency group for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSyncResult:
    """Result of sending the weights to the workers once: who failed, and metrics."""

    failures: dict[str, str]
    """Workers that did not get the weights whole, and why."""
    untried: list[str] = field(default_factory=list)
    """Sound workers that did not get them because others of their group failed."""
    figures: dict[str, float]
    """Metrics ``weights/...``."""
    digests: dict[str, int] = field(default_factory=dict)
    """Digest of each tensor that was sent; empty unless engines and learner compute in
    bfloat16."""
    copy: HostCopy | AdapterCopy | None = None
    """Copy of what was sent, for engines that join later."""


class LearnerActor:
    """Learner actor: one learner rank, with the run's seeds and the client of the engines."""

    train_step = worker_method(LearnerWorker.train_step)
    preflight = worker_method(LearnerWorker.preflight)
    logprobs = worker_method(LearnerWorker.logprobs)
    ref_logprobs = worker_method(LearnerWorker.ref_logprobs)
    features = worker_method(LearnerWorker.features)
    segments = worker_method(LearnerWorker.segments)
    tower = worker_method(LearnerWorker.tower)
    rest = worker_method(LearnerWorker.rest)
    save = worker_method(LearnerWorker.save)
    load = worker_method(LearnerWorker.load)
    export = worker_method(LearnerWorker.export)
    adapter_facts = worker_method(LearnerWorker.adapter_facts)
    prepare = worker_method(LearnerWorker.prepare)

    def __init__(self, config: RunConfig, rank: int) -> None:
        offer_stacks()
        os.environ["OMP_NUM_THREADS"] = str(config.learner.num_threads)
        folder = cache_folder(config.video)
        clips = NarratedClips(folder, ClipProcessor(config.model), config.video)
        embeddings = open_store(config, folder) if config.learner.embedding_cache else None
        # one decoder stays free for the clip that is needed now
        ahead = ClipsAhead(clips, max(1, config.video.decode_workers - 1))
        self.worker = LearnerWorker(config.learner, config.grpo.loss, clips, embeddings, ahead)
        self._clips, self._ahead = clips, ahead
        self._rank, self._config = rank, config
        self._client: UpdateClient | None = None

    def prepare_clip(self, video: str) -> None:
        """Let the clip at an address be made ready on this node. Returns at once."""
        self._ahead.submit(video)

    def use_tokens(self, narration: Narration) -> None:
        """Train on narratives of a tokenizer from now on."""
        config = self._config
        renderer = Renderer.load(Path(config.model), config.rollout.max_prompt_length)
        narrator_of = narrator_maker(narration, Path(config.model))
        self._clips.use(narration, renderer.plain_ids, narrator_of)

    def open_rendezvous(self) -> tuple[str, int]:
        """Where the other ranks find this one: its node and a port."""
        import ray

        return ray.util.get_node_ip_address(), open_rendezvous(self._config.learner.num_ranks)

    def join(self, address: str, port: int) -> None:
        """Join the other ranks at rank 0's address."""
        if self._config.deterministic:
            be_repeatable()
        self.worker.join(self._rank, address, port)

    def begin(
        self,
        model_dir: str,
        optim: OptimConfig,
        loss: GrpoLossConfig | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        """Start a stage from a model directory, with a fresh optimiser, seeded by the run's
        seed."""
        seed_all(stable_seed("learner", self._config.seed))  # new weights: equal on all ranks
        self.worker.begin(model_dir, optim, loss, lora)
        seed_all(stable_seed("learner", self._config.seed, self._rank))

    def connect(self, client: UpdateClient, address: str) -> None:
        """Connect to the rollout engines for weight updates."""
        self._client = client
        self.worker.connect(self._config.transfer, client, address)

    def publish(self, version: PolicyVersion, engines: EngineSet) -> WeightSyncResult:
        """Send the weights to these engines. Only rank 0's result names the failures."""
        assert self._client is not None, "connect() comes first"
        self._client.open(version, engines)
        rollout, learner = self._config.rollout, self._config.learner
        # an engine of another precision rounds what it loads, and need not change with it
        compared = rollout.records_digests and rollout.dtype == learner.dtype
        recorder = DigestRecorder() if compared and self._rank == 0 else None
        figures = self.worker.publish(recorder)
        figures["weights/load_s"] = self._client.load_s
        return replace(self._result(figures), digests=recorder.digests if recorder else {})

    def publish_adapter(self, version: PolicyVersion, engines: EngineSet) -> WeightSyncResult:
        """Send the adapter alone to these engines, else as :meth:`publish`."""
        assert self._client is not None, "connect() comes first"
        self._client.open(version, engines)
        files = self.worker.adapter()  # all ranks gather
        assert files is not None, "only a learner with LoRA has an adapter"
        if self._rank == 0:
            self._client.load_adapter(files)
        return self._result({"weights/gb": files.num_bytes / 1e9})

    def _result(self, figures: dict[str, float]) -> WeightSyncResult:
        assert self._client is not None, "connect() comes first"
        return WeightSyncResult(
            failures=self._client.failures,
            untried=self._client.untried,
            figures=figures,
            copy=self._client.copy,
        )
