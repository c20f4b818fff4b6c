"""Rollout pool: calls to the rollout workers' Ray actors as plain methods. Callers see no Ray.

A sample goes to a worker on a node that has its clip, if that is at most one group busier than the
least busy of all, else to this one (in a deterministic run, to the worker whose turn it is). The
learner's ranks are in learner_group.py.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any, TypeVar

import ray

from cluster.actors.bucket_client import BucketClient
from cluster.actors.clip_homes import ClipHomes
from cluster.actors.deadlines import (
    DIED,
    Withdrawn,
    answer_unless,
    ignore_dead,
    responds,
    with_deadline,
)
from cluster.actors.engine_calls import EngineSet
from cluster.actors.engine_client import EngineClient, GroupEngineClient, UpdateClient
from cluster.actors.placement import Seat
from cluster.actors.rollout_actor import RolloutActor
from cluster.config.recipe import RunConfig
from rollout.engine import Sampling, WeightDigests
from rollout.prompt import PromptKind
from rollout.worker import Rollout
from video.semantic_tokens.narrated_clips import Narration
from wire.errors import DeadlineExceeded, GenerationError, WeightUpdateError, WorkerDied
from wire.types import Failure, PolicyVersion, Prompt, Sample

T = TypeVar("T")

_DETOUR = 1  # requests that a worker near the clip may have more than the least busy one

log = logging.getLogger(__name__)


RemoteRolloutActor: Any = ray.remote(RolloutActor)


class RolloutPool:
    """Pool of rollout workers. Only workers in service answer; a failed weight update takes one
    out."""

    def __init__(
        self,
        config: RunConfig,
        seats: Sequence[Seat],
        homes: ClipHomes | None = None,
        prepare: Callable[[str], None] | None = None,
    ) -> None:
        """``homes``: nodes that clips are preferred on; ``prepare``: makes a clip ready at its
        home. None: on one node."""
        self._homes, self._prepare = homes, prepare
        rollout = config.rollout
        self._config = config
        self._actors: dict[str, Any] = {
            f"rollout-{index}": RemoteRolloutActor.options(
                max_concurrency=1000, **seat.options(rollout.num_cpus, rollout.num_gpus)
            ).remote(config, f"rollout-{index}")
            for index, seat in enumerate(seats)
        }
        self.in_service = set(self._actors)
        """Names of the workers whose weights the parity probe has proven right."""
        self._serving = asyncio.Event()
        self._serving.set()
        self._lost: set[str] = set()
        self._epoch = 0
        self._withdrawn = {name: asyncio.Event() for name in self._actors}
        self._busy = dict.fromkeys(self._actors, 0)
        self._slots = asyncio.Semaphore(rollout.max_concurrency * len(self._actors))

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

    def withdraw_requests(self, name: str) -> None:
        """Take back what a worker has not answered and give it to others: its last update failed,
        so its engine is paused and stays so until an update succeeds."""
        self._withdrawn[name].set()

    def put_in_service(self, name: str) -> None:
        """Let a worker answer again: its weights are proven right."""
        self._withdrawn[name].clear()
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

    async def share_embeddings(self, tower: str) -> None:
        """Let engines share embeddings of clips with the learner, whose name for its vision tower
        this is."""
        calls = [self._actors[name].share_embeddings.remote(tower) for name in self.names]
        await asyncio.gather(*[ignore_dead(call) for call in calls])

    async def use_tokens(self, narration: Narration) -> None:
        """Let all workers know a tokenizer whose narratives are to be shown."""
        calls = [self._actors[name].use_tokens.remote(narration) for name in self.names]
        await asyncio.gather(*[ignore_dead(call) for call in calls])

    async def sleep(self) -> None:
        """Put every engine to sleep, out of service until new weights have woken it and are proven
        right. One that cannot sleep is warned of: its memory is not free."""
        self.take_all_out_of_service()
        await asyncio.gather(*[self._sleep(name) for name in self.names])

    async def _sleep(self, name: str) -> None:
        call, timeout_s = self._actors[name].sleep.remote(), self._config.rollout.update_timeout_s
        try:
            await with_deadline(call, timeout_s + 30, f"{name} to sleep")
        except WorkerDied as error:
            log.warning("%s is lost: %s", name, error)
            self._mark_lost(name)
        except (WeightUpdateError, DeadlineExceeded) as error:
            log.warning("%s does not sleep: %s", name, error)

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
        self,
        sample: Sample,
        sampling: Sampling,
        upcoming: str | None = None,
        ask: PromptKind = "trace",
    ) -> Rollout:
        """Answer the prompt that ``ask`` says with a worker in service (:func:`choose_worker`), or
        in a deterministic run with the worker of ``sampling.turn``; if that is lost meanwhile, with
        another. ``upcoming``: the clip of a sample that follows soon, prepared meanwhile: by that
        worker, or on several nodes at the clip's home. Raises GenerationError if no worker is
        left."""
        turn = sampling.turn if self._config.deterministic else None
        if upcoming is not None and self._prepare is not None:
            self._prepare(upcoming)
            upcoming = None
        rollout: Rollout = await self._ask(
            sample.video, lambda actor: actor.answer.remote(sample, sampling, upcoming, ask), turn
        )
        return rollout

    async def prompt(self, sample: Sample, ask: PromptKind) -> Prompt | Failure:
        """The prompt for a trace, a label or a verdict; the clip is cached on the way."""
        prompt: Prompt | Failure = await self._ask(
            sample.video, lambda actor: actor.prompt.remote(sample, ask)
        )
        return prompt

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

    async def weight_digests(self, name: str) -> list[WeightDigests]:
        """Digests of one worker's weights after an update, of each of its GPUs."""
        return await with_deadline(
            self._actors[name].weight_digests.remote(),
            self._config.rollout.update_timeout_s + 30,
            f"{name} to compute digests of its weights",
        )

    async def cache_counts(self) -> dict[str, int]:
        """Clip cache hits and misses, and clips decoded by each decoder, since the start, summed
        over the workers that are not lost."""
        timeout_s = self._config.rollout.request_timeout_s
        total = Counter[str]()
        for name in self.names:
            call = self._actors[name].cache_counts.remote()
            with suppress(WorkerDied):  # the next request to the worker reports it
                total += Counter(
                    await with_deadline(call, timeout_s, f"{name} to count its cache's hits")
                )
        return dict(total)

    def client(self) -> UpdateClient:
        """Client through which the learner sends weights to the engines."""
        timeout_s = self._config.rollout.begin_timeout_s  # of its longest step
        match self._config.transfer.kind:
            case "nccl":
                return GroupEngineClient(timeout_s)
            case "ipc":
                return EngineClient(timeout_s)
            case "object_store":
                return BucketClient(timeout_s)

    def engines(self, names: Sequence[str]) -> EngineSet:
        """The named workers' engines as the learner sends to them, together."""
        return EngineSet(
            epoch=self._epoch,
            actors={name: self._actors[name] for name in names},
            ranks_per_engine=self._config.rollout.tensor_parallel_size,
        )

    async def _ask(
        self, video: str, ask: Callable[[Any], Awaitable[T]], turn: int | None = None
    ) -> T:
        async with self._slots:
            while True:
                await self._serving.wait()
                if not self.in_service:
                    raise GenerationError(
                        "no rollout worker is left in service "
                        f"(lost: {', '.join(sorted(self._lost))}); --resume goes on without loss"
                    )
                near = self._near(video) if turn is None else set()
                name = choose_worker(turn, list(self._actors), self.in_service, self._busy, near)
                if self._homes is not None:
                    self._homes.note_worker(list(self._actors).index(name), video)
                self._busy[name] += 1
                try:
                    return await answer_unless(self._withdrawn[name], ask(self._actors[name]))
                except Withdrawn:
                    log.warning("%s keeps old weights; its request goes to another engine", name)
                except (*DIED, GenerationError) as error:
                    log.warning("%s is lost: %s", name, error)
                    self._mark_lost(name)
                finally:
                    self._busy[name] -= 1

    def _near(self, video: str) -> set[str]:
        """Names of the workers on nodes that have a clip."""
        names = list(self._actors)
        return {names[index] for index in self._homes.workers_near(video)} if self._homes else set()

    def _mark_lost(self, name: str) -> None:
        if name not in self._lost:
            self._epoch += 1
        self._lost.add(name)
        self.in_service.discard(name)

    async def stop(self) -> None:
        """End all engines and their actors."""
        stops = [actor.stop.remote() for actor in self._actors.values()]
        await asyncio.gather(*[ignore_dead(stop) for stop in stops])
        for actor in self._actors.values():
            ray.kill(actor)


def choose_worker(
    turn: int | None,
    names: Sequence[str],
    in_service: Set[str],
    busy: Mapping[str, int],
    near: Set[str] = frozenset(),
) -> str:
    """The worker for a request: number ``turn`` modulo the workers if in service (deterministic
    runs), else the least busy one in service; of those ``near`` the clip, if that has at most one
    request more in work than the least busy of all."""
    if turn is None:
        least = min(sorted(in_service), key=lambda name: busy[name])
        nearest = min(sorted(in_service & near), key=lambda name: busy[name], default=least)
        return nearest if busy[nearest] <= busy[least] + _DETOUR else least
    own = names[turn % len(names)]
    return own if own in in_service else sorted(in_service)[turn % len(in_service)]
