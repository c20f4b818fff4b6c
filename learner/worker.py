"""One learner rank: rows in, updated weights out. A plain class.

    join -> begin(model) -> train_step(rows) ... -> publish | save | export

Every rank gets the same calls in the same order.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from learner import checkpoint
from learner.batch import TrainBatch, make_batch, micro_batches
from learner.config import GrpoLossConfig, LearnerConfig, OptimConfig, TransferConfig
from learner.engine import DeepSpeedEngine, join_ranks
from learner.lora import AdapterOff, What, adapt, adapter_config
from learner.loss import LossOutput, grpo_loss, supervised_loss
from learner.parts import Part, freeze, frozen_parts
from learner.policy import Policy
from learner.rows import Row, StepCounts, silent
from learner.token_head import TokenScores
from video.cache import ClipStore
from video.positions import PositionRule
from video.processor import ProcessedClip
from wire.adapters import AdapterFiles
from wire.disk import naming_full_disk

Objective = Literal["grpo", "supervised"]

ADAPTER_FOLDER = "adapter"
"""Beside an exported model, what LoRA added to the one that the stage began with."""

_KEPT = (".json", ".jinja", ".txt", ".model")  # configuration, tokenizer, processor


class LearnerWorker:
    """A rank of the learner. :meth:`join` comes first, then :meth:`begin` once per stage."""

    def __init__(self, config: LearnerConfig, loss: GrpoLossConfig, clips: ClipStore) -> None:
        self._config = config
        self._loss = loss
        self._clips = clips
        self._engine: DeepSpeedEngine | None = None
        self._rule: PositionRule | None = None
        self._sender: Any = None

    def join(self, rank: int, address: str, port: int) -> None:
        """Meet the other ranks; once per process, further calls change nothing."""
        join_ranks(self._config, rank, address, port)

    def begin(self, model_dir: str, optim: OptimConfig) -> None:
        """Start a stage from a model directory, with a fresh optimiser."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        folder = Path(model_dir)
        self._rule = PositionRule.load(folder)
        self._model_dir = folder
        config, policy = self._config, Policy.load(folder, self._config.dtype)
        if config.lora is not None:
            adapt(policy.vlm, config.lora, frozen_parts(config))
        else:
            freeze(policy, frozen_parts(config))
        self._engine = DeepSpeedEngine(policy, self._config, optim)

    def train_step(
        self, rows: Sequence[Row], counts: StepCounts, objective: Objective, learning_rate: float
    ) -> dict[str, float]:
        """One update from this rank's rows. ``counts``: of all ranks' rows.

        Returns the step's metrics, the same on every rank: means are sums over all tokens divided
        by their count. A gradient that is not finite changes nothing (``update_skipped`` = 1).
        """
        assert counts.num_tokens > 0, "a step without a trained token; leave it out"
        sums: dict[str, float] = {}
        maxima: dict[str, float] = {}
        for batch in self._in_step(rows):
            scores = self.engine.forward(batch)
            output = self._objective(objective, batch, scores, counts)
            self.engine.backward(output.loss)
            entropy = {"entropy": float(scores.entropy.where(batch.mask, 0.0).sum())}
            for name, value in {**output.sums, **entropy}.items():
                sums[name] = sums.get(name, 0.0) + value
            for name, value in output.maxima.items():
                maxima[name] = max(maxima.get(name, value), value)
        norm = self.engine.step(learning_rate)
        totals = _reduce(sums, dist.ReduceOp.SUM)
        return {
            **{name: total / counts.num_tokens for name, total in totals.items()},
            **_reduce(maxima, dist.ReduceOp.MAX),
            "grad_norm": norm,
            "update_skipped": float(not math.isfinite(norm)),
            "learning_rate": learning_rate,
            **_vision_rates(self.engine.learning_rates(learning_rate)),
            **_gpu_memory(),
        }

    def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        """Logprob of every response token, per row and response of this rank's rows."""
        return self._per_response(rows, lambda batch: self.engine.score(batch).logp)

    def ref_logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        """As :meth:`logprobs`, of the model that the stage began with: the adapter is off."""
        assert self._config.lora is not None, "full training keeps no reference in its weights"
        reference = AdapterOff(self.engine.policy.vlm, self.engine.score)
        return self._per_response(rows, reference.logprobs)

    def features(self, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
        """Hidden state at each row's last token, float32 [len(rows), H]. One response per row."""
        parts = [self.engine.features(batch).cpu() for batch in self._in_step(rows)]
        found: npt.NDArray[np.float32] = torch.cat(parts)[: len(rows)].numpy()
        return found

    def connect(
        self, transfer: TransferConfig, client: Any, address: str, num_engine_ranks: int
    ) -> None:
        """Meet the rollout engines through ``client`` (vLLM's weight-sync protocol)."""
        from learner.transfer import PolicySource, connect

        config = self._config
        dtype = getattr(torch, config.dtype)
        source = PolicySource(lambda: self._outgoing, dtype, transfer.bucket_bytes)
        rank = dist.get_rank()
        self._sender = connect(
            transfer, client, source, rank, address, num_engine_ranks, config.timeout_s
        )

    @property
    def _outgoing(self) -> "_Outgoing":
        """Where adapters go on their own, engines get the model without."""
        return _Outgoing(self.engine, "base" if self._config.hands_off_adapters else "merged")

    def publish(self) -> dict[str, float]:
        """Send the present weights to the rollout engines, whole; an adapter goes on its own.
        Returns metrics (of rank 0)."""
        assert self._sender is not None, "connect() comes before publish()"
        start = time.perf_counter()
        self._sender.send_weights()
        return _transfer_figures(self._sender, time.perf_counter() - start)

    def save(self, directory: str, tag: str) -> None:
        """Checkpoint of all ranks, ``directory/tag``: whole or absent. All ranks call."""
        config = self._config
        checkpoint.save(self.engine.save, Path(directory), tag, config.zero_stage, config.dtype)

    def load(self, directory: str, tag: str) -> None:
        """Continue from a checkpoint of the same stage; :meth:`begin` comes first.

        Raises ConfigError or UserError on all ranks: another kind of learner, or damaged files.
        """
        config = self._config
        checkpoint.load(self.engine.load, Path(directory), tag, config.zero_stage, config.dtype)

    def export(self, directory: str) -> None:
        """Write the weights as a Hugging Face directory, whole. All ranks call; rank 0 writes.

        With LoRA the additions are added in; beside the directory, ``adapter`` has them alone.
        """
        writes, folder = dist.get_rank() == 0, Path(directory)
        tensors = self._gathered("merged")
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
        return AdapterFiles.of(config, self._gathered("adapter"))

    def _gathered(self, what: What) -> dict[str, torch.Tensor]:
        """Empty on other ranks than 0: those only take part in gathering."""
        writes = dist.get_rank() == 0
        found = {}
        for name, tensor in self.engine.full_parameters(what=what):
            if writes:
                found[name] = tensor.cpu().contiguous()
        return found

    @property
    def rule(self) -> PositionRule:
        """The model's position rule."""
        assert self._rule is not None, "begin() comes first"
        return self._rule

    @property
    def engine(self) -> DeepSpeedEngine:
        """The stage's engine."""
        assert self._engine is not None, "begin() comes first"
        return self._engine

    def _objective(
        self, objective: Objective, batch: TrainBatch, scores: TokenScores, counts: StepCounts
    ) -> LossOutput:
        if objective == "supervised":
            return supervised_loss(scores.logp, batch.advantage, batch.mask, counts.num_tokens)
        own, old = scores.logp.detach(), batch.logp_old
        return grpo_loss(
            logp_new=scores.logp,
            logp_old=torch.where(old.isnan(), own, old),
            logp_rollout=batch.logp_rollout,
            advantage=batch.advantage,
            mask=batch.mask,
            num_tokens=counts.num_tokens,
            config=self._loss,
        )

    def _per_response(
        self, rows: Sequence[Row], logprobs: Callable[[TrainBatch], torch.Tensor]
    ) -> list[list[list[float]]]:
        found: list[list[float]] = []
        for batch in self._in_step(rows):
            found += [part.tolist() for part in logprobs(batch).split(batch.lengths)]
        parts = iter(found)
        return [[next(parts) for _ in row.responses] for row in rows]

    def _in_step(self, rows: Sequence[Row]) -> Iterator[TrainBatch]:
        """This rank's micro-batches, one by one, with fillers up to the busiest rank's number."""
        mine = list(micro_batches(rows, self._config.max_tokens_per_batch))
        most = int(_reduce({"n": float(len(mine))}, dist.ReduceOp.MAX)["n"])
        for part in mine + [[silent(rows[0])]] * (most - len(mine)):
            yield self.engine.to_device(make_batch(part, self._clip, self.rule))

    def _clip(self, row: Row) -> ProcessedClip:
        return self._clips.load(row.prompt.clip_key, row.video, row.prompt.fingerprint)


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """The engine's weights of one kind, as learner/transfer.py asks for them."""

    engine: DeepSpeedEngine
    what: What

    def weight_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return self.engine.weight_shapes(self.what)

    def full_parameters(self, bucket_bytes: int) -> Iterator[tuple[str, torch.Tensor]]:
        return self.engine.full_parameters(bucket_bytes, self.what)


def write_model(
    policy: Policy, tensors: dict[str, torch.Tensor], source: Path, directory: Path
) -> None:
    """A Hugging Face directory with these weights and the tokenizer and processor of ``source``."""
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix in _KEPT and not file.name.endswith(".index.json"):
            shutil.copy2(file, partial)
    with naming_full_disk(partial):
        policy.vlm.save_pretrained(partial, state_dict=tensors)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def _transfer_figures(sender: Any, seconds: float) -> dict[str, float]:
    """Of one update. vLLM's own trainer engines do not say where their time went."""
    metadata = sender.source.metadata()
    gigabytes = sum(math.prod(m.shape) * m.dtype.itemsize for m in metadata) / 1e9
    parts = getattr(sender, "seconds", {})
    return {
        "weights/gb": gigabytes,
        "weights/gb_per_s": gigabytes / seconds,
        **{f"weights/{name}_s": value for name, value in parts.items()},
    }


def _vision_rates(rates: dict[Part, float]) -> dict[str, float]:
    """Of merger and tower, where they train."""
    rates = {part: rate for part, rate in rates.items() if part is not Part.LANGUAGE_MODEL}
    return {f"learning_rate/{part}": rate for part, rate in rates.items()}


def _gpu_memory() -> dict[str, float]:
    """Peaks of this rank's GPU since its start; nothing without one."""
    if not torch.cuda.is_available():
        return {}
    return {
        "perf/max_memory_allocated_gb": torch.cuda.max_memory_allocated() / 1e9,
        "perf/max_memory_reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
    }


def _reduce(values: dict[str, float], op: Any) -> dict[str, float]:
    """Combine numbers over ranks. Every rank passes the same names."""
    if dist.get_world_size() == 1 or not values:
        return values
    names = sorted(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=op)
    return dict(zip(names, tensor.tolist(), strict=True))
