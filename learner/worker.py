"""One learner rank: rows in, updated weights out. A plain class.

    join -> begin(model) -> train_step(rows) ... -> publish | save | export

Every rank gets the same calls in the same order.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from learner import checkpoint
from learner.config import GrpoLossConfig, LearnerConfig, LoraConfig, OptimConfig, TransferConfig
from learner.engine import DeepSpeedEngine, FrozenEngine, join_ranks
from learner.export import (
    ADAPTER_FOLDER,
    AdapterFacts,
    EngineWeights,
    adapter_facts,
    gather_weights,
    write_model,
)
from learner.memory_preflight import preflight_of
from learner.micro_batches import Batches
from learner.model.embedding_store import EmbeddingStore
from learner.model.lora import AdapterOff, adapt, adapter_config
from learner.model.policy import Policy
from learner.model.reference import FrozenPolicy
from learner.model.token_head import TokenScores
from learner.model.trained_parts import Part, freeze, frozen_parts
from learner.objective.loss import LossInputs, LossOutput, grpo_loss, supervised_loss
from learner.ranks.clips_ahead import ClipsAhead
from learner.ranks.collectives import reduce
from learner.ranks.determinism import random_state, set_random_state
from learner.shared_prefix.batch import TrainBatch
from learner.shared_prefix.float32_check import float32_gap
from learner.shared_prefix.largest_batch import LargestBatch
from learner.shared_prefix.row_layout import RowLayout
from learner.shared_prefix.rows import Row, StepCounts
from video.cache import ClipStore
from video.positions import PositionRule
from video.semantic_tokens.segment_file import Segments
from wire.adapters import AdapterFiles
from wire.token_arrays import Logprobs
from wire.weight_digest import DigestRecorder

Objective = Literal["grpo", "supervised"]


class LearnerWorker:
    """One rank of the learner. :meth:`join` comes first, then :meth:`begin` once per stage."""

    def __init__(
        self,
        config: LearnerConfig,
        loss: GrpoLossConfig,
        clips: ClipStore,
        embeddings: EmbeddingStore | None = None,
        ahead: ClipsAhead | None = None,
    ) -> None:
        """``embeddings``: store of a frozen tower's features; none: the tower runs on every clip
        anew. ``ahead``: makes clips ready while others train; none: each is made when it is
        needed."""
        self._config = self._run_config = config
        self._loss = loss
        self._clips = clips
        self._ahead = ahead
        self._embeddings = embeddings
        self._batches: Batches | None = None
        self._engine: DeepSpeedEngine | None = None
        self._reference: AdapterOff | FrozenPolicy | FrozenEngine | None = None
        self._sender: Any = None
        self._layout = RowLayout(config)

    def join(self, rank: int, address: str, port: int) -> None:
        """Join the other ranks; once per process, further calls change nothing."""
        join_ranks(self._config, rank, address, port)

    def begin(
        self,
        model_dir: str,
        optim: OptimConfig,
        loss: GrpoLossConfig | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        """Start a stage from a model directory, with a fresh optimiser; ``loss``: the objective of
        a stage that trains by GRPO; ``lora``: of this stage alone, else as the recipe trains."""
        config = self._run_config
        self._config = config = config.model_copy(update={"lora": lora}) if lora else config
        if loss is not None:
            self._loss = loss
        if self._engine is not None:
            self._engine.close()
            self._engine = self._batches = None
        if isinstance(self._reference, FrozenEngine):
            self._reference.close()
        self._reference = None
        folder = Path(model_dir)
        rule = PositionRule.load(folder)
        self._model_dir = folder
        # shards are cut and cast one by one, from the file as it lies in memory
        policy = Policy.load(folder, "auto" if config.zero_stage == 3 else config.dtype)
        if config.lora is not None:
            adapt(policy.vlm, config.lora, frozen_parts(config))
        else:
            freeze(policy, frozen_parts(config))
        self._engine = DeepSpeedEngine(policy, config, optim)
        self._batches = Batches(
            config, self._engine, rule, self._clips, self._embeddings, self._ahead
        )

    def train_step(
        self, rows: Sequence[Row], counts: StepCounts, objective: Objective, learning_rate: float
    ) -> dict[str, float]:
        """One update from this rank's rows. ``counts``: of all ranks' rows.

        Returns the step's metrics, the same on every rank: means are sums over all tokens divided
        by their count. A gradient that is not finite changes nothing (``update_skipped`` = 1).
        """
        assert counts.num_tokens > 0, "a step without a trained token; leave it out"
        self._layout.check(rows, self._score, self._float32_gap)
        sums: dict[str, float] = {}
        maxima: dict[str, float] = {}
        for batch in self._in_stage.in_step(self._layout.laid_out(rows)):
            scores = self.engine.forward(batch)
            output = self._objective(objective, batch, scores, counts)
            self.engine.backward(output.loss)
            entropy = {"entropy": float(scores.entropy.detach().where(batch.mask, 0.0).sum())}
            for name, value in {**output.sums, **entropy}.items():
                sums[name] = sums.get(name, 0.0) + value
            for name, value in output.maxima.items():
                maxima[name] = _larger(maxima.get(name, value), value)
        norm = self.engine.step(learning_rate)
        totals = reduce(sums, dist.ReduceOp.SUM)
        return {
            **{name: total / counts.num_tokens for name, total in totals.items()},
            **reduce(maxima | self._in_stage.take_waits(), dist.ReduceOp.MAX),
            "grad_norm": norm,
            "update_skipped": float(not math.isfinite(norm)),
            "learning_rate": learning_rate,
            **_vision_rates(self.engine.learning_rates(learning_rate)),
            **self._in_stage.hit_rate(),
            **self._layout.figures(),
            **_gpu_memory(),
        }

    def prepare(self, rows: Sequence[Row]) -> None:
        """Let the clips of rows that come soon be made ready. Returns at once; safe to call while
        another thread trains."""
        if (batches := self._batches) is not None:
            batches.prepare(rows)

    def preflight(self, largest: LargestBatch, refers: bool = False) -> float:
        """Peak memory of this rank for such a batch, GB. ``refers``: the stage will ask for
        :meth:`ref_logprobs`, whose model counts too. Nothing of the stage changes, nor the random
        state, because a resumed run runs the preflight again.

        Raises UserError that says what to lower, on all ranks or (GPU) on the one without room.
        """
        before = random_state()
        if refers:
            self._to_reference()
        preflight = preflight_of(
            self._config, self._trial_step, lambda: self.engine.optimizer_bytes_to_come
        )
        peak_gb = preflight.run(largest)
        set_random_state(before)
        return peak_gb

    def _trial_step(self, largest: LargestBatch) -> None:
        self.engine.trial_step(self._in_stage.trial_batch(largest))

    def logprobs(self, rows: Sequence[Row]) -> list[list[Logprobs]]:
        """Logprob of every response token, per row and response of this rank's rows."""
        return self._per_response(rows, self._logprobs)

    def ref_logprobs(self, rows: Sequence[Row]) -> list[list[Logprobs]]:
        """Logprob of every response token under the model that the stage began with."""
        return self._per_response(rows, self._to_reference().logprobs)

    def _to_reference(self) -> AdapterOff | FrozenPolicy | FrozenEngine:
        """The reference model: with LoRA the policy with its adapter off, else a second copy of the
        weights, in shards under ZeRO-3."""
        if self._reference is None:
            config, engine = self._config, self.engine
            if config.lora is not None:
                self._reference = AdapterOff(engine.policy.vlm, engine.score)
            elif config.zero_stage == 3:
                self._reference = FrozenEngine(Policy.load(self._model_dir, "auto"), config)
            else:
                self._reference = FrozenPolicy.load(self._model_dir, config.dtype, engine.device)
        return self._reference

    def features(self, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
        """Hidden state at each row's last token, float32 [len(rows), H]. One response per row."""
        parts = [self.engine.features(batch).cpu() for batch in self._in_stage.in_step(rows)]
        features: npt.NDArray[np.float32] = torch.cat(parts)[: len(rows)].numpy()
        return features

    def segments(self, rows: Sequence[Row], spatial: int, steps: int) -> list[Segments]:
        """Segments ``[T, S, H]`` of the clip of each of this rank's rows: the frozen tower's
        features, a few temporal patches each, averaged into ``spatial**2`` places."""
        return self._in_stage.segments(rows, spatial, steps)

    def connect(self, transfer: TransferConfig, client: Any, address: str) -> None:
        """Connect to the rollout engines through ``client`` (vLLM's weight-sync protocol)."""
        from learner.weight_transfer import PolicySource, connect

        config = self._config
        dtype = getattr(torch, config.dtype)
        source = PolicySource(lambda: self._engine_weights, dtype, transfer.bucket_bytes)
        self._sender = connect(transfer, client, source, dist.get_rank(), address, config.timeout_s)

    @property
    def _engine_weights(self) -> EngineWeights:
        """Weights that the engines get: without the adapter, where adapters are sent on their
        own."""
        on_their_own = self._run_config.hands_off_adapters
        return EngineWeights(self.engine, "base" if on_their_own else "merged")

    def publish(self, recorder: DigestRecorder | None = None) -> dict[str, float]:
        """Send the present weights to the rollout engines, whole; an adapter goes on its own.
        Returns metrics (of rank 0). ``recorder``: records what is sent."""
        assert self._sender is not None, "connect() comes before publish()"
        self._sender.source.recorder = recorder
        start = time.perf_counter()
        self._sender.send_weights()
        return _transfer_figures(self._sender, time.perf_counter() - start)

    def tower(self) -> str | None:
        """Name of the frozen vision tower in the keys of the embedding cache; None if it trains, or
        nothing is cached."""
        return self._in_stage.tower

    def rest(self) -> None:
        """Give up memory that only updates need, while engines write, if the recipe says so; the
        next update takes it again."""
        if self._config.offload_while_generating:
            self.engine.offload_moments()

    def save(
        self, directory: str, tag: str, notes: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Save a checkpoint of all ranks, ``directory/tag``: whole or absent. All ranks call.

        ``notes``: texts of the caller's by file name, that belong to it.
        """
        config = self._config

        def write(folder: Path) -> None:
            self.engine.save(folder)
            checkpoint.write_random_state(folder)
            if dist.get_rank() == 0:
                for name, text in notes.items():
                    (folder / name).write_text(text)

        checkpoint.save(write, Path(directory), tag, config.zero_stage, config.dtype)

    def load(self, directory: str, tag: str) -> None:
        """Continue from a checkpoint of the same stage; :meth:`begin` comes first.

        Raises CheckpointDamaged or ConfigError on all ranks, before anything is changed.
        """

        def read(folder: Path) -> None:
            self.engine.load(folder)
            checkpoint.read_random_state(folder)

        checkpoint.load(read, Path(directory), tag)
        self._in_stage.weights_changed()

    def export(self, directory: str) -> None:
        """Write the weights as a Hugging Face directory, whole. All ranks call; rank 0 writes.

        With LoRA the additions are added in; beside the directory, ``adapter`` has them alone.
        """
        writes, folder = dist.get_rank() == 0, Path(directory)
        tensors = gather_weights(self.engine, "merged")
        if writes:
            write_model(self.engine.policy, tensors, self._model_dir, folder)
        if (adapter := self.adapter()) is not None and writes:
            adapter.write(folder.with_name(ADAPTER_FOLDER))
        dist.barrier()

    def adapter(self) -> AdapterFiles | None:
        """The adapter in peft's format; None in full training. All ranks call, rank 0's is
        whole."""
        if self._config.lora is None:
            return None
        config = adapter_config(self.engine.policy.vlm, self._config.lora, self._model_dir)
        return AdapterFiles.of(config, gather_weights(self.engine, "adapter"))

    def adapter_facts(self) -> AdapterFacts | None:
        """Size of the adapter, and the digest of the model that it adds to; None in full training.
        All ranks call."""
        return adapter_facts(self.engine) if self._config.lora is not None else None

    @property
    def engine(self) -> DeepSpeedEngine:
        """The stage's engine."""
        assert self._engine is not None, "begin() comes first"
        return self._engine

    @property
    def _in_stage(self) -> Batches:
        assert self._batches is not None, "begin() comes first"
        return self._batches

    def _objective(
        self, objective: Objective, batch: TrainBatch, scores: TokenScores, counts: StepCounts
    ) -> LossOutput:
        if objective == "supervised":
            return supervised_loss(scores.logp, batch.advantage, batch.mask, counts.num_tokens)
        inputs = LossInputs(
            logp=scores.logp,
            logp_old=batch.logp_old,
            logp_rollout=batch.logp_rollout,
            logp_ref=batch.logp_ref if self._loss.needs_reference else None,
            entropy=scores.entropy if self._loss.entropy_coeff else None,
            advantage=batch.advantage,
            mask=batch.mask,
            lengths=batch.lengths,
        )
        return grpo_loss(inputs, counts, self._loss)

    def _per_response(
        self, rows: Sequence[Row], logprobs: Callable[[TrainBatch], torch.Tensor]
    ) -> list[list[Logprobs]]:
        self._layout.check(rows, self._score, self._float32_gap)
        return _by_row(rows, self._scored(self._layout.laid_out(rows), logprobs))

    def _score(self, rows: Sequence[Row]) -> list[list[Logprobs]]:
        """Logprobs per row, response and token, of rows as they are laid out."""
        return _by_row(rows, self._scored(rows, self._logprobs))

    def _float32_gap(self, rows: Sequence[Row]) -> float:
        limit, text_model = self._config.max_tokens_per_batch, self.engine.policy.text_model
        return float32_gap(rows, limit, text_model, self.engine.device, self._in_stage.in_step)

    def _logprobs(self, batch: TrainBatch) -> torch.Tensor:
        return self.engine.score(batch).logp

    def _scored(
        self, rows: Sequence[Row], logprobs: Callable[[TrainBatch], torch.Tensor]
    ) -> list[Logprobs]:
        """Logprobs of every response, of rows in the layout of the run."""
        scores: list[Logprobs] = []
        for batch in self._in_stage.in_step(rows):
            values = logprobs(batch).float().cpu().split(batch.lengths)
            scores += [Logprobs.of_bytes(part.numpy().tobytes()) for part in values]
        return scores


def _larger(one: float, other: float) -> float:
    """The larger number; NaN if one is, which ``max`` passes over."""
    return other if math.isnan(other) or other > one else one


def _transfer_figures(sender: Any, seconds: float) -> dict[str, float]:
    """Figures of one weight update. vLLM's own trainer engines do not say where their time went."""
    metadata = sender.source.metadata()
    gigabytes = sum(math.prod(m.shape) * m.dtype.itemsize for m in metadata) / 1e9
    parts = getattr(sender, "seconds", {})
    return {
        "weights/gb": gigabytes,
        "weights/gb_per_s": gigabytes / seconds,
        **{f"weights/{name}_s": value for name, value in parts.items()},
    }


def _vision_rates(rates: dict[Part, float]) -> dict[str, float]:
    """Learning rates of merger and tower, where they train."""
    rates = {part: rate for part, rate in rates.items() if part is not Part.LANGUAGE_MODEL}
    return {f"learning_rate/{part}": rate for part, rate in rates.items()}


def _by_row(rows: Sequence[Row], scores: Sequence[Logprobs]) -> list[list[Logprobs]]:
    """Values of responses grouped by row, in the order of rows and responses."""
    parts = iter(scores)
    return [[next(parts) for _ in row.responses] for row in rows]


def _gpu_memory() -> dict[str, float]:
    """Peak memory of this rank's GPU since its start; empty without a GPU."""
    if not torch.cuda.is_available():
        return {}
    return {
        "perf/max_memory_allocated_gb": torch.cuda.max_memory_allocated() / 1e9,
        "perf/max_memory_reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
    }
