"""One learner rank: rows in, updated weights out. A plain class; every rank gets the same calls in the same order.

    begin(model) -> train_step(rows) ... -> publish | save | export
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from learner.batch import TrainBatch, make_batch, micro_batches
from learner.config import GrpoLossConfig, LearnerConfig, OptimConfig, TransferConfig
from learner.engine import DeepSpeedEngine
from learner.loss import LossOutput, grpo_loss, supervised_loss
from learner.policy import Policy, TokenScores
from learner.rows import Row, silent
from video.cache import ClipStore
from video.positions import PositionRule
from video.processor import ProcessedClip

Objective = Literal["grpo", "supervised"]

log = logging.getLogger(__name__)


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
        """Meet the other ranks."""
        torch.set_num_threads(self._config.num_threads)
        os.environ.update(
            RANK=str(rank),
            WORLD_SIZE=str(self._config.num_ranks),
            LOCAL_RANK="0",  # Ray shows an actor only its own GPU
            MASTER_ADDR=address,
            MASTER_PORT=str(port),
        )
        if not self._config.num_gpus:
            os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed

        deepspeed.init_distributed(
            dist_backend="nccl" if self._config.num_gpus else "gloo",
            init_method=f"tcp://{address}:{port}",
            rank=rank,
            world_size=self._config.num_ranks,
            auto_mpi_discovery=False,
            verbose=False,
        )

    def begin(self, model_dir: str, optim: OptimConfig) -> None:
        """Start a stage from a model directory, with a fresh optimiser."""
        if self._engine is not None:
            self._engine.close()
        folder = Path(model_dir)
        self._rule = PositionRule.load(folder)
        self._model_dir = folder
        policy = Policy.load(folder, self._config.dtype, self._config.freeze_vision_tower)
        self._engine = DeepSpeedEngine(policy, self._config, optim)

    def train_step(
        self, rows: Sequence[Row], num_tokens: int, objective: Objective, learning_rate: float
    ) -> dict[str, float]:
        """One update from this rank's rows. ``num_tokens`` is the trained tokens of all ranks' rows together.

        Returns the step's metrics, the same on every rank: sums over all tokens divided by ``num_tokens``.
        """
        engine = self.engine
        sums: dict[str, float] = {}
        maxima: dict[str, float] = {}
        for batch in self._in_step(rows):
            scores = engine.forward(batch)
            output = self._objective(objective, batch, scores, num_tokens)
            engine.backward(output.loss)
            entropy = {"entropy": float((scores.entropy * batch.mask).sum())}
            for name, value in {**output.sums, **entropy}.items():
                sums[name] = sums.get(name, 0.0) + value
            for name, value in output.maxima.items():
                maxima[name] = max(maxima.get(name, value), value)
        grad_norm = engine.step(learning_rate)
        means = {name: value / num_tokens for name, value in _reduce(sums, dist.ReduceOp.SUM).items()}
        worst = _reduce(maxima, dist.ReduceOp.MAX)
        return {**means, **worst, "grad_norm": grad_norm, "learning_rate": learning_rate}

    def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        """Logprob of every response token, per row and response of this rank's rows."""
        found: list[list[float]] = []
        for batch in self._in_step(rows):
            logp = self.engine.score(batch).logp
            found += [part.tolist() for part in logp.split(batch.lengths)]
        parts = iter(found)
        return [[next(parts) for _ in row.responses] for row in rows]

    def features(self, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
        """Hidden state at each row's last token, float32 [len(rows), hidden]. One response per row."""
        parts = [self.engine.features(batch).cpu().numpy() for batch in self._in_step(rows)]
        return np.concatenate(parts)[: len(rows)]

    def with_old_logprobs(self, rows: Sequence[Row]) -> list[Row]:
        """Rows that carry the present policy's logprobs, for a step of several updates."""
        return [
            replace(
                row,
                responses=tuple(
                    replace(response, old_logprobs=tuple(values))
                    for response, values in zip(row.responses, found, strict=True)
                ),
            )
            for row, found in zip(rows, self.logprobs(rows), strict=True)
        ]

    def connect(
        self, transfer: TransferConfig, client: Any, address: str, num_engine_ranks: int
    ) -> None:
        """Meet the rollout engines through ``client`` (vLLM's weight-sync protocol)."""
        from learner.transfer import PolicySource, connect

        dtype = getattr(torch, self._config.dtype)
        source = PolicySource(lambda: self.engine.full_parameters(), dtype)
        self._sender = connect(
            transfer, client, source, dist.get_rank(), address, num_engine_ranks
        )

    def publish(self) -> None:
        """Send the present weights to the rollout engines, whole."""
        assert self._sender is not None, "connect() comes before publish()"
        self._sender.send_weights()

    def save(self, directory: str, tag: str) -> None:
        """Checkpoint of all ranks under ``directory/tag``."""
        self.engine.save(Path(directory), tag)

    def load(self, directory: str, tag: str) -> None:
        """Continue from a checkpoint of the same stage."""
        self.engine.load(Path(directory), tag)

    def export(self, directory: str) -> None:
        """Write the weights as a Hugging Face directory; it appears whole, by rename. All ranks call; rank 0 writes."""
        tensors = {name: t.cpu().contiguous() for name, t in self.engine.full_parameters()}
        if dist.get_rank() == 0:
            write_model(self.engine.policy, tensors, self._model_dir, Path(directory))
        dist.barrier()

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
        self, objective: Objective, batch: TrainBatch, scores: TokenScores, num_tokens: int
    ) -> LossOutput:
        device = scores.logp.device
        mask, advantage = batch.mask.to(device), batch.advantage.to(device)
        if objective == "supervised":
            return supervised_loss(scores.logp, advantage, mask, num_tokens)
        own, old = scores.logp.detach(), batch.logp_old.to(device)
        return grpo_loss(
            logp_new=scores.logp,
            logp_old=torch.where(old.isnan(), own, old),
            logp_rollout=batch.logp_rollout.to(device),
            advantage=advantage,
            mask=mask,
            num_tokens=num_tokens,
            config=self._loss,
        )

    def _in_step(self, rows: Sequence[Row]) -> Iterator[TrainBatch]:
        """This rank's micro-batches, one at a time, filled up to the number that the busiest rank has."""
        mine = list(micro_batches(rows, self._config.max_tokens_per_batch))
        most = int(_reduce({"n": float(len(mine))}, dist.ReduceOp.MAX)["n"])
        for part in mine + [[silent(rows[0])]] * (most - len(mine)):
            yield make_batch(part, self._clip, self.rule)

    def _clip(self, row: Row) -> ProcessedClip:
        return self._clips.load(row.prompt.clip_key, row.video, row.prompt.fingerprint)


def write_model(
    policy: Policy, tensors: dict[str, torch.Tensor], source: Path, directory: Path
) -> None:
    """A Hugging Face directory with these weights and everything else of ``source``."""
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix not in (".safetensors", ".md") and file.is_file() and "index" not in file.name:
            shutil.copy2(file, partial)
    policy.vlm.save_pretrained(partial, state_dict=tensors)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def _reduce(values: dict[str, float], op: Any) -> dict[str, float]:
    """Combine numbers over ranks. Every rank passes the same names."""
    if dist.get_world_size() == 1 or not values:
        return values
    names = sorted(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=op)
    return dict(zip(names, tensor.tolist(), strict=True))
