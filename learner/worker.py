"""One learner rank: rows in, updated weights out. A plain class.

    join -> begin(model) -> train_step(rows) ... -> publish | save | export

Every rank gets the same calls in the same order.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from learner import checkpoint
from learner.batch import TrainBatch, make_batch, micro_batches
from learner.config import GrpoLossConfig, LearnerConfig, OptimConfig, TransferConfig
from learner.embedding_store import EmbeddingStore
from learner.embeddings import TOKENS_PER_CALL, EmbeddingCache, tower_hash
from learner.engine import DeepSpeedEngine, join_ranks
from learner.free_memory import free_bytes, free_gpu_bytes
from learner.largest_batch import LargestBatch
from learner.lora import AdapterOff, What, adapt, adapter_config
from learner.loss import LossInputs, LossOutput, grpo_loss, supervised_loss
from learner.parts import Part, freeze, frozen_parts
from learner.policy import Policy
from learner.preflight import Preflight
from learner.reference import FrozenPolicy, Reference
from learner.rows import Row, StepCounts, apart, silent, split
from learner.self_check import LayoutCheck, check_layouts
from learner.token_head import TokenScores
from video.cache import ClipStore
from video.positions import PositionRule
from video.processor import ProcessedClip
from wire.adapters import AdapterFiles
from wire.disk import naming_full_disk
from wire.errors import ParityError

T = TypeVar("T")

Objective = Literal["grpo", "supervised"]

ADAPTER_FOLDER = "adapter"
"""Beside an exported model, what LoRA added to the one that the stage began with."""

_BATCHES_PER_LOOK = 32  # micro-batches whose clips the tower looks at, and memory holds, at once
_KEPT = (".json", ".jinja", ".txt", ".model")  # configuration, tokenizer, processor


class LearnerWorker:
    """A rank of the learner. :meth:`join` comes first, then :meth:`begin` once per stage."""

    def __init__(
        self,
        config: LearnerConfig,
        loss: GrpoLossConfig,
        clips: ClipStore,
        embeddings: EmbeddingStore | None = None,
    ) -> None:
        """``embeddings``: where a frozen tower's are kept; none: it looks at every clip anew."""
        self._config = config
        self._loss = loss
        self._clips = clips
        self._embeddings = embeddings
        self._seen: EmbeddingCache | None = None
        self._engine: DeepSpeedEngine | None = None
        self._rule: PositionRule | None = None
        self._reference: Reference | None = None
        self._sender: Any = None
        self._layout: LayoutCheck | None = None

    def join(self, rank: int, address: str, port: int) -> None:
        """Meet the other ranks; once per process, further calls change nothing."""
        join_ranks(self._config, rank, address, port)

    def begin(self, model_dir: str, optim: OptimConfig) -> None:
        """Start a stage from a model directory, with a fresh optimiser."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        self._reference = None
        folder = Path(model_dir)
        self._rule = PositionRule.load(folder)
        self._model_dir = folder
        config, policy = self._config, Policy.load(folder, self._config.dtype)
        if config.lora is not None:
            adapt(policy.vlm, config.lora, frozen_parts(config))
        else:
            freeze(policy, frozen_parts(config))
        self._engine = DeepSpeedEngine(policy, self._config, optim)
        self._seen = self._open_embeddings()

    def train_step(
        self, rows: Sequence[Row], counts: StepCounts, objective: Objective, learning_rate: float
    ) -> dict[str, float]:
        """One update from this rank's rows. ``counts``: of all ranks' rows.

        Returns the step's metrics, the same on every rank: means are sums over all tokens divided
        by their count. A gradient that is not finite changes nothing (``update_skipped`` = 1).
        """
        assert counts.num_tokens > 0, "a step without a trained token; leave it out"
        self._check_layout(rows)
        sums: dict[str, float] = {}
        maxima: dict[str, float] = {}
        for batch in self._in_step(self._laid_out(rows)):
            scores = self.engine.forward(batch)
            output = self._objective(objective, batch, scores, counts)
            self.engine.backward(output.loss)
            entropy = {"entropy": float(scores.entropy.detach().where(batch.mask, 0.0).sum())}
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
            **self._hit_rate(),
            **self._layout_figures(),
            **_gpu_memory(),
        }

    def preflight(self, largest: LargestBatch) -> float:
        """GB that this rank takes at its peak for such a batch. Nothing of the stage changes.

        Raises UserError that says what to lower, on all ranks or (GPU) on the one without room.
        """
        gpu = self._config.num_gpus > 0
        trial = Preflight(
            self._config,
            self._rehearse,
            0 if gpu and self._config.offload != "none" else self.engine.optimizer_bytes_to_come,
            free=free_gpu_bytes if gpu else free_bytes,
            gather=_gather,
        )
        return trial.run(largest)

    def _rehearse(self, largest: LargestBatch) -> None:
        merge = self.rule.merge_size
        width = self.engine.policy.blank_clip((1, merge, merge)).values.shape[1]
        rows, clip_of = largest.rows(self.rule), largest.clips(self.rule, width)
        if not self._config.shared_prefix:
            rows = next(
                micro_batches([one for row in rows for one in apart(row)], largest.max_tokens)
            )
        if self._seen is None:
            batch = make_batch(rows, clip_of, self.rule)
        else:
            seen = self._seen.rehearsal(clip_of)
            seen.fill(rows)
            batch = make_batch(rows, seen.clip_of, self.rule, seen.seen_of)
        self.engine.rehearse(self.engine.to_device(batch))

    def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        """Logprob of every response token, per row and response of this rank's rows."""
        return self._per_response(rows, self._logprobs)

    def ref_logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        """The same of the model that the stage began with."""
        if self._reference is None:
            self._reference = self._open_reference()
        return self._per_response(rows, self._reference.logprobs)

    def _open_reference(self) -> AdapterOff | FrozenPolicy:
        """With LoRA the policy with its adapter off, else a second copy of the weights."""
        config, engine = self._config, self.engine
        if config.lora is not None:
            return AdapterOff(engine.policy.vlm, engine.score)
        return FrozenPolicy.load(self._model_dir, config.dtype, engine.device)

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

    def save(
        self, directory: str, tag: str, notes: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Checkpoint of all ranks, ``directory/tag``: whole or absent. All ranks call.

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
        self._seen = self._open_embeddings()  # the checkpoint may hold another tower

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
                found[name] = tensor.to("cpu", copy=True).contiguous()
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
    ) -> list[list[list[float]]]:
        self._check_layout(rows)
        return _by_row(rows, self._scored(self._laid_out(rows), logprobs))

    def _logprobs(self, batch: TrainBatch) -> torch.Tensor:
        return self.engine.score(batch).logp

    def _laid_out(self, rows: Sequence[Row]) -> list[Row]:
        """Rows that fit a micro-batch where they can: groups behind one prompt, or repeated."""
        if not self._shares_prefix:
            rows = [one for row in rows for one in apart(row)]
        return split(rows, self._config.max_tokens_per_batch)

    @property
    def _shares_prefix(self) -> bool:
        return self._config.shared_prefix and (self._layout is None or self._layout.holds)

    def _check_layout(self, rows: Sequence[Row]) -> None:
        """With the first batch of a run; what is found holds from then on. All ranks call."""
        if self._config.shared_prefix and self._layout is None:
            self._layout = check_layouts(
                rows,
                lambda few: _by_row(few, self._scored(few, self._logprobs)),
                self._config.dtype,
                lambda gap: _reduce({"gap": gap}, dist.ReduceOp.MAX)["gap"],
            )

    def _layout_figures(self) -> dict[str, float]:
        gap = {"shared_prefix/self_check": self._layout.gap} if self._layout else {}
        return {"shared_prefix/used": float(self._shares_prefix), **gap}

    def _scored(
        self, rows: Sequence[Row], logprobs: Callable[[TrainBatch], torch.Tensor]
    ) -> list[list[float]]:
        """Logprobs of every response, of rows as they are laid out."""
        found: list[list[float]] = []
        for batch in self._in_step(rows):
            found += [part.tolist() for part in logprobs(batch).split(batch.lengths)]
        return found

    def _in_step(self, rows: Sequence[Row]) -> Iterator[TrainBatch]:
        """This rank's micro-batches, one by one, with fillers up to the busiest rank's number."""
        mine = list(micro_batches(rows, self._config.max_tokens_per_batch))
        most = _most(len(mine))
        mine += [[silent(rows[0])]] * (most - len(mine))
        for start in range(0, most, _BATCHES_PER_LOOK):
            parts = mine[start : start + _BATCHES_PER_LOOK]
            if self._seen is not None:
                self._seen.fill([row for part in parts for row in part])
            for part in parts:
                yield self.engine.to_device(self._batch(part))

    def _batch(self, rows: Sequence[Row]) -> TrainBatch:
        if self._seen is None:
            return make_batch(rows, self._clip, self.rule)
        return make_batch(rows, self._seen.clip_of, self.rule, self._seen.seen_of)

    def _open_embeddings(self) -> EmbeddingCache | None:
        """Under the tower's present weights; none where they are trained. All ranks call."""
        policy, merge = self.engine.policy, self.rule.merge_size
        if self._embeddings is None or policy.trains_tower:
            return None
        device = "cuda" if self._config.num_gpus else "cpu"
        # one clip per call in a deterministic run: its bits depend on what is beside it
        alone = torch.are_deterministic_algorithms_enabled()
        about = (policy.tower_config, "alone") if alone else policy.tower_config
        tower = tower_hash(self.engine.tower_parameters(), about, device)
        _same_on_all_ranks(tower)
        return EmbeddingCache(
            self._embeddings,
            tower,
            self.rule,
            look=self.engine.look,
            blank=policy.blank_clip((1, merge, merge)),
            clip_of=self._clip,
            most=_most,
            tokens_per_call=0 if alone else TOKENS_PER_CALL,
        )

    def _hit_rate(self) -> dict[str, float]:
        """Of all ranks since the last update; nothing without clips or without a cache."""
        if self._seen is None:
            return {}
        counts = _reduce(self._seen.take_counts(), dist.ReduceOp.SUM)
        if not counts["wanted"]:
            return {}
        return {"cache/embedding_hit_rate": 1 - counts["looked_at"] / counts["wanted"]}

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


def _by_row(rows: Sequence[Row], found: Sequence[list[float]]) -> list[list[list[float]]]:
    """Values of responses, in the order of rows and responses, per row."""
    parts = iter(found)
    return [[next(parts) for _ in row.responses] for row in rows]


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


def _most(number: int) -> int:
    """The largest of all ranks' numbers."""
    return int(_reduce({"n": float(number)}, dist.ReduceOp.MAX)["n"])


def _gather(value: T) -> list[T]:
    """Every rank's value, on every rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def _same_on_all_ranks(tower: str) -> None:
    """Raises ParityError on all ranks unless they hold the same tower."""
    found = _gather(tower)
    if len(set(found)) > 1:
        raise ParityError(
            f"the learner's ranks hold different vision towers (hashes {', '.join(found)}); "
            "give all nodes the same model directory"
        )
