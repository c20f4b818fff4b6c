"""Rollout pool and learner group: calls to Ray actors as plain methods. Callers see no Ray.

RolloutPool    sends a sample to the least busy worker in service
LearnerGroup   splits rows over ranks and calls all ranks together
"""

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.config import RunConfig
from cluster.engine_client import EngineClient
from cluster.hosts import LearnerActor, RolloutActor, WeightSyncResult
from cluster.waits import gather_or_raise, ignore_dead, responds, with_deadline
from learner.config import OptimConfig
from learner.largest_batch import LargestBatch
from learner.rows import (
    Row,
    StepCounts,
    assign_to_ranks,
    split_rows,
    with_old_logprobs,
    with_ref_logprobs,
)
from learner.worker import Objective
from rollout.engine import Sampling
from rollout.prompt import PromptKind
from rollout.worker import Rollout
from wire.errors import GenerationError, WorkerDied
from wire.types import Failure, PolicyVersion, Prompt, Sample

T = TypeVar("T")

log = logging.getLogger(__name__)


RemoteRolloutActor: Any = ray.remote(RolloutActor)
RemoteLearnerActor: Any = ray.remote(LearnerActor)


class RolloutPool:
    """Pool of rollout workers. Only workers in service answer; a failed weight update takes one
    out."""

    def __init__(self, config: RunConfig, group: PlacementGroup, cache_dir: str) -> None:
        self._config = config
        self._actors: dict[str, Any] = {
            f"rollout-{index}": RemoteRolloutActor.options(
                max_concurrency=1000, **_place(group, index)
            ).remote(config, f"rollout-{index}", cache_dir)
            for index in range(config.rollout.num_workers)
        }
        self.in_service = set(self._actors)
        """Names of the workers whose weights the parity probe has proven right."""
        self._serving = asyncio.Event()
        self._serving.set()
        self._lost: set[str] = set()
        self._busy = dict.fromkeys(self._actors, 0)
        self._slots = asyncio.Semaphore(config.rollout.max_concurrency * len(self._actors))

    @property
    def num_workers(self) -> int:
        """Number of workers, also those whose process has ended."""
        return len(self._actors)

    @property
    def names(self) -> list[str]:
        """Names of the workers that are not lost."""
        return [name for name in self._actors if name not in self._lost]

    def take_all_out_of_service(self) -> None:
        """Take every worker out of service; requests wait until one is put in service again."""
        self.in_service.clear()
        self._serving.clear()

    def put_in_service(self, name: str) -> None:
        """Let a worker answer again: its weights are proven right."""
        self.in_service.add(name)
        self._serving.set()

    def take_out_of_service(self, name: str) -> None:
        """Send a worker no new request, because its weights are not right, until it is put in
        service."""
        self.in_service.discard(name)
        if not self.in_service:
            self._serving.clear()

    async def serve_adapter(self, name: str, version: PolicyVersion) -> None:
        """Let a worker answer new requests with an adapter that it has loaded."""
        await with_deadline(
            self._actors[name].serve_adapter.remote(version),
            self._config.rollout.update_timeout_s,
            f"{name} to serve version {version}",
        )

    async def start(self, model_dir: str, version: PolicyVersion) -> None:
        """Start every engine. Raises DeadlineExceeded naming the worker."""
        await asyncio.gather(
            *[
                with_deadline(
                    actor.start.remote(model_dir, version),
                    self._config.cluster.start_timeout_s,
                    f"{name} to start its engine",
                )
                for name, actor in self._actors.items()
            ]
        )

    async def find_alive(self, names: Sequence[str]) -> list[str]:
        """Names of the workers whose engine still runs; the others are lost for this run."""
        calls = [responds(self._actors[name].is_alive.remote()) for name in names]
        alive = dict(zip(names, await asyncio.gather(*calls), strict=True))
        for name in [name for name in names if not alive[name]]:
            self._mark_lost(name)
        return [name for name in names if alive[name]]

    async def answer(
        self, sample: Sample, sampling: Sampling, upcoming: str | None = None
    ) -> Rollout:
        """Write traces with the least busy worker in service, or in a deterministic run with the
        worker of ``sampling.turn``; if that is lost meanwhile, with another. ``upcoming``: the clip
        of a sample that follows soon, prepared meanwhile. Raises GenerationError if no worker is
        left."""
        turn = sampling.turn if self._config.deterministic else None
        rollout: Rollout = await self._ask(
            lambda actor: actor.answer.remote(sample, sampling, upcoming), turn
        )
        return rollout

    async def prompt(self, sample: Sample, ask: PromptKind) -> Prompt | Failure:
        """The prompt for a trace, a label or a verdict; the clip is cached on the way."""
        found: Prompt | Failure = await self._ask(lambda actor: actor.prompt.remote(sample, ask))
        return found

    async def logprobs(
        self,
        name: str,
        video: str,
        prompt: Prompt,
        response: Sequence[int],
        adapter_of: PolicyVersion | None = None,
    ) -> list[float]:
        """Logprobs of a fixed response by one worker, in service or not: the parity probe."""
        return await with_deadline(
            self._actors[name].logprobs.remote(video, prompt, tuple(response), adapter_of),
            self._config.rollout.request_timeout_s,
            f"{name} to answer the parity probe",
        )

    async def cache_counts(self) -> dict[str, int]:
        """Clip cache hits and misses since the start, summed over the workers that are not lost."""
        timeout_s = self._config.rollout.request_timeout_s
        total = Counter[str]()
        for name in self.names:
            call = self._actors[name].cache_counts.remote()
            with suppress(WorkerDied):  # the next request to the worker reports it
                total += Counter(
                    await with_deadline(call, timeout_s, f"{name} to count its cache's hits")
                )
        return dict(total)

    def client(self) -> EngineClient:
        """Client through which the learner sends weights to the engines."""
        ranks = self._config.rollout.tensor_parallel_size
        # longer than the engine's own deadline, shorter than the learner's
        patience_s = self._config.rollout.update_timeout_s + 30
        return EngineClient(self._actors, ranks, patience_s)

    async def _ask(self, ask: Callable[[Any], Awaitable[T]], turn: int | None = None) -> T:
        async with self._slots:
            while True:
                await self._serving.wait()
                if not self.in_service:
                    raise GenerationError(
                        "no rollout worker is left in service "
                        f"(lost: {', '.join(sorted(self._lost))}); --resume goes on without loss"
                    )
                name = choose_worker(turn, list(self._actors), self.in_service, self._busy)
                self._busy[name] += 1
                try:
                    return await ask(self._actors[name])
                except (RayActorError, GenerationError) as error:
                    log.warning("%s is lost: %s", name, error)
                    self._mark_lost(name)
                finally:
                    self._busy[name] -= 1

    def _mark_lost(self, name: str) -> None:
        self._lost.add(name)
        self.in_service.discard(name)

    async def stop(self) -> None:
        """End all engines and their actors."""
        stops = [actor.stop.remote() for actor in self._actors.values()]
        await asyncio.gather(*[ignore_dead(stop) for stop in stops])
        for actor in self._actors.values():
            ray.kill(actor)


class LearnerGroup:
    """Group of all learner ranks, called together."""

    def __init__(self, config: RunConfig, group: PlacementGroup, cache_dir: str) -> None:
        first = config.rollout.num_workers
        self._timeout_s = config.learner.timeout_s
        self._max_response_length = config.rollout.max_response_length
        self._max_tokens = config.learner.max_tokens_per_batch
        self._ranks: list[Any] = [
            RemoteLearnerActor.options(**_place(group, first + rank)).remote(
                config, rank, cache_dir
            )
            for rank in range(config.learner.num_ranks)
        ]
        self._address = ""

    async def start(self) -> None:
        """Let the ranks meet."""
        self._address, port = await self._first("open_rendezvous")
        await self._all("join", self._address, port)

    async def begin(self, model_dir: str, optim: OptimConfig) -> None:
        """Start a stage from a model directory, with a fresh optimiser."""
        await self._all("begin", model_dir, optim)

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
        found = await self._each("train_step", per_rank, counts, objective, learning_rate)
        return found[0]  # type: ignore[no-any-return]

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


def choose_worker(
    turn: int | None, names: Sequence[str], in_service: Set[str], busy: Mapping[str, int]
) -> str:
    """The worker for a request: number ``turn`` modulo the workers if in service (deterministic
    runs), else the least busy one in service."""
    if turn is None:
        return min(sorted(in_service), key=lambda name: busy[name])
    own = names[turn % len(names)]
    return own if own in in_service else sorted(in_service)[turn % len(in_service)]


def _place(group: PlacementGroup, index: int) -> dict[str, Any]:
    """Actor options that take the whole of one bundle."""
    bundle = group.bundle_specs[index]
    return {
        "num_cpus": bundle.get("CPU", 0),
        "num_gpus": bundle.get("GPU", 0),
        "scheduling_strategy": PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=index
        ),
    }
