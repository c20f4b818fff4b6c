"""The learner's ranks as Ray actors, called together."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from cluster.actors.deadlines import gather_or_raise, with_deadline
from cluster.actors.engine_client import EngineClient
from cluster.actors.learner_actor import WeightSyncResult
from cluster.actors.placement import Seat
from cluster.actors.rollout_pool import RemoteLearnerActor
from cluster.config.recipe import RunConfig
from learner.config import GrpoLossConfig, OptimConfig
from learner.shared_prefix.largest_batch import LargestBatch
from learner.shared_prefix.rows import (
    Row,
    StepCounts,
    assign_to_ranks,
    split_rows,
    with_old_logprobs,
    with_ref_logprobs,
)
from learner.worker import Objective
from wire.types import PolicyVersion


class LearnerGroup:
    """Group of all learner ranks, called together."""

    def __init__(self, config: RunConfig, seats: Sequence[Seat], cache_dir: str) -> None:
        learner = config.learner
        self._timeout_s = config.learner.timeout_s
        self._max_response_length = config.rollout.max_response_length
        self._max_tokens = config.learner.max_tokens_per_batch
        self._ranks: list[Any] = [
            RemoteLearnerActor.options(**seat.options(learner.num_cpus, learner.num_gpus)).remote(
                config, rank, cache_dir
            )
            for rank, seat in enumerate(seats)
        ]
        self._address = ""

    async def start(self) -> None:
        """Let the ranks meet."""
        self._address, port = await self._first("open_rendezvous")
        await self._all("join", self._address, port)

    async def begin(
        self, model_dir: str, optim: OptimConfig, loss: GrpoLossConfig | None = None
    ) -> None:
        """Start a stage from a model directory, with a fresh optimiser; ``loss``: its objective, if
        it trains by GRPO."""
        await self._all("begin", model_dir, optim, loss)

    async def connect(self, client: EngineClient, num_engine_ranks: int) -> None:
        """Connect the ranks to the rollout engines for weight updates."""
        await self._all("connect", client, self._address, num_engine_ranks)

    async def publish(self, version: PolicyVersion, names: Sequence[str]) -> WeightSyncResult:
        """Send the weights to the named workers."""
        results = await self._all("publish", version, list(names))
        return results[0]  # type: ignore[no-any-return]

    async def publish_adapter(
        self, version: PolicyVersion, names: Sequence[str]
    ) -> WeightSyncResult:
        """Load the adapter into the named workers, beside the adapters that they have."""
        results = await self._all("publish_adapter", version, list(names))
        return results[0]  # type: ignore[no-any-return]

    async def train_step(
        self, rows: Sequence[Row], objective: Objective, learning_rate: float
    ) -> dict[str, float]:
        """One update from all rows. Returns the metrics, per trained token of all ranks."""
        per_rank = assign_to_ranks(split_rows(rows, self._max_tokens), len(self._ranks))
        counts = StepCounts.of(rows, self._max_response_length)
        figures = await self._each("train_step", per_rank, counts, objective, learning_rate)
        return figures[0]  # type: ignore[no-any-return]

    async def preflight(self, largest: LargestBatch, refers: bool) -> float:
        """Peak memory of the largest batch, GB, on the rank that needs most. ``refers``: the stage
        uses a reference model. Raises UserError that says what to lower."""
        return float(max(await self._all("preflight", largest, refers)))

    async def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        """Logprobs per row, response and token, in the order of ``rows``."""
        return [values for part in await self._blocks("logprobs", rows) for values in part]

    async def with_old_logprobs(self, rows: Sequence[Row]) -> list[Row]:
        """Add the present policy's logprobs to rows, for a step of several updates."""
        return with_old_logprobs(rows, await self.logprobs(rows))

    async def with_ref_logprobs(self, rows: Sequence[Row]) -> list[Row]:
        """Add the logprobs of the model that the stage started from to rows."""
        blocks = await self._blocks("ref_logprobs", rows)
        return with_ref_logprobs(rows, [values for block in blocks for values in block])

    async def features(self, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
        """Hidden states [len(rows), hidden], in the order of ``rows``."""
        return np.concatenate([part for part in await self._blocks("features", rows) if len(part)])

    async def save(self, directory: str, tag: str, notes: dict[str, str]) -> None:
        """Save a checkpoint of all ranks; ``notes``: the caller's own files to save with it."""
        await self._all("save", directory, tag, notes)

    async def load(self, directory: str, tag: str) -> None:
        """Load a checkpoint, to continue from it."""
        await self._all("load", directory, tag)

    async def export(self, directory: str) -> None:
        """Write the weights as a Hugging Face directory."""
        await self._all("export", directory)

    def stop(self) -> None:
        """End all ranks."""
        for rank in self._ranks:
            ray.kill(rank)

    async def _blocks(self, verb: str, rows: Sequence[Row]) -> list[Any]:
        """Call a method with consecutive blocks of rows, one per rank. A rank without rows
        computes one row whose result is thrown away."""
        count = len(self._ranks)
        edges = [len(rows) * rank // count for rank in range(count + 1)]
        blocks = [list(rows[a:b]) for a, b in itertools.pairwise(edges)]
        values = await self._each(verb, [block or [rows[0]] for block in blocks])
        return [part[: len(block)] for part, block in zip(values, blocks, strict=True)]

    async def _each(self, verb: str, hands: Sequence[Any], *rest: Any) -> list[Any]:
        calls = [
            getattr(rank, verb).remote(hand, *rest)
            for rank, hand in zip(self._ranks, hands, strict=True)
        ]
        return await self._gather(verb, calls)

    async def _all(self, verb: str, *values: Any) -> list[Any]:
        calls = [getattr(rank, verb).remote(*values) for rank in self._ranks]
        return await self._gather(verb, calls)

    async def _first(self, verb: str) -> Any:
        return (await self._gather(verb, [getattr(self._ranks[0], verb).remote()]))[0]

    async def _gather(self, verb: str, calls: list[Any]) -> list[Any]:
        return await gather_or_raise(
            [
                with_deadline(call, self._timeout_s, f"learner rank {rank} to {verb}")
                for rank, call in enumerate(calls)
            ]
        )
