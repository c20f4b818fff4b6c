"""Rollout pool: calls to the rollout workers' Ray actors as plain methods. Callers see no Ray.

    answer -> Dispatcher -> a worker in service          RayFleet <- Supervisor: probes, restarts,
              (cluster/pool/dispatch.py)                             joins, leaves, each second
    weight sync -> Membership: whose weights are proven, and may serve

A sample goes to a worker on a node that has its clip, if that is at most one group busier than the
least busy of all, else to this one (in a deterministic run, to the worker whose turn it is). The
rules are in cluster/pool, which knows no Ray. The learner's ranks are in learner_group.py.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from cluster.actors.bucket_client import BucketClient
from cluster.actors.clip_homes import ClipHomes
from cluster.actors.deadlines import with_deadline
from cluster.actors.engine_calls import EngineSet
from cluster.actors.engine_client import EngineClient, GroupEngineClient, UpdateClient
from cluster.actors.host_copy import AdapterCopy, HostCopy
from cluster.actors.placement import Seat
from cluster.actors.ray_fleet import RayFleet, Weights
from cluster.config.recipe import RunConfig
from cluster.metrics.events import Events, NoEvents
from cluster.metrics.timeline import Timeline
from cluster.pool.clock import LoopClock
from cluster.pool.desired_workers import DesiredWorkers
from cluster.pool.dispatch import Dispatcher
from cluster.pool.fleet_view import fleet_view
from cluster.pool.membership import Membership
from cluster.pool.settings import PoolSettings
from cluster.pool.supervisor import Supervisor
from cluster.pool.worker_health import Cause, Change, WorkerLost
from cluster.pool.worker_view import FleetView, write_fleet
from rollout.engine import Sampling, WeightDigests
from rollout.prompt import PromptKind
from rollout.worker import Rollout
from video.semantic_tokens.narrated_clips import Narration
from wire.errors import DeadlineExceeded, GenerationError, WeightUpdateError, WorkerDied
from wire.types import Failure, FailureKind, PolicyVersion, Prompt, Sample

T = TypeVar("T")

_LOOK_S = 0.5
_COUNTS_S = 30.0  # figures are not worth a longer wait

log = logging.getLogger(__name__)


class RolloutPool:
    """Pool of rollout workers. Only workers in service answer; one that dies is started anew and
    gets the newest weights, while the others go on."""

    def __init__(
        self,
        config: RunConfig,
        seats: Sequence[Seat],
        homes: ClipHomes | None = None,
        prepare: Callable[[str], None] | None = None,
        *,
        events: Events | None = None,
        timeline: Timeline | None = None,
        run_dir: Path | None = None,
        admit: Callable[[Seat], Awaitable[None]] | None = None,
    ) -> None:
        """``homes``: nodes that clips are preferred on; ``prepare``: makes a clip ready at its
        home. None: on one node. ``run_dir``: where the number of workers is asked for, and shown;
        ``admit``: see RayFleet."""
        self._config, self._homes, self._prepare = config, homes, prepare
        self._run_dir, events = run_dir, events or NoEvents()
        self._clock, settings = LoopClock(), PoolSettings.of(config)
        self._settings = settings
        self._fleet = RayFleet(config, seats, admit)
        self._members = Membership(settings.health, self._clock)
        self._dispatcher = Dispatcher(self._members, settings, self._clock, events, timeline)
        asked = DesiredWorkers(run_dir).read if run_dir else lambda: None
        self._supervisor = Supervisor(
            *(self._members, self._dispatcher, self._fleet, settings, self._clock, events),
            asked=asked,
            show=self._show,
        )
        self._watch: asyncio.Task[None] | None = None
        self._weights: Weights | None = None
        self._counts: dict[tuple[str, int], Counter[str]] = {}
        self._changed = asyncio.Event()
        self._members.listen(self._note_change)

    # who there is

    @property
    def num_workers(self) -> int:
        """Number of workers that are wanted: also those whose process has ended."""
        return len(self._members.staying)

    @property
    def names(self) -> list[str]:
        """Names of the workers that an update is sent to: all whose engine runs."""
        return self._members.updatable

    @property
    def in_service(self) -> set[str]:
        """Names of the workers whose weights the parity probe has proven right, and that answer."""
        return set(self._members.serving)

    @property
    def view(self) -> FleetView:
        """The fleet as commands and reports show it."""
        return fleet_view(
            *(self._members, self._dispatcher, self._clock, self._settings),
            desired=self._supervisor.desired,
            attempt=self._fleet.version.attempt,
        )

    def _show(self) -> None:
        if self._run_dir is not None:
            with suppress(OSError):  # a full disk is reported where results are written
                write_fleet(self._run_dir, self.view)

    def _note_change(self, change: Change) -> None:
        self._changed.set()
        place = self._members[change.name].place
        if self._homes is not None and place is not None:
            self._homes.place_worker(change.name, place.node)

    # start and end

    async def start(self, model_dir: str, version: PolicyVersion) -> None:
        """Start the engines, and look after them from then on. Raises DeadlineExceeded naming the
        worker."""
        self._fleet.model_dir, self._fleet.version = model_dir, version
        self._members.trust(version)
        await self._supervisor.start()
        self._show()
        self._watch = asyncio.create_task(self._supervisor.run(), name="supervisor of rollouts")
        self._watch.add_done_callback(_note_error)

    async def stop(self) -> None:
        """End all engines and their actors."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        await self._supervisor.stop()
        await self._fleet.end()

    # requests

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

        def call(actor: Any) -> Awaitable[Rollout]:
            rollout: Awaitable[Rollout] = actor.answer.remote(sample, sampling, upcoming, ask)
            return rollout

        return await self._ask(sample, call, turn=turn, failure_of=_failure_of)

    async def prompt(self, sample: Sample, ask: PromptKind) -> Prompt | Failure:
        """The prompt for a trace, a label or a verdict; the clip is cached on the way."""

        def call(actor: Any) -> Awaitable[Prompt | Failure]:
            prompt: Awaitable[Prompt | Failure] = actor.prompt.remote(sample, ask)
            return prompt

        return await self._ask(sample, call, by_engine=False)

    async def _ask(
        self,
        sample: Sample,
        call: Callable[[Any], Awaitable[T]],
        *,
        turn: int | None = None,
        failure_of: Callable[[T], str | None] = lambda answer: None,
        by_engine: bool = True,
    ) -> T:
        homes = self._homes

        async def ask(name: str) -> T:
            if homes is not None:
                homes.note_worker(name, sample.video)
            try:
                return await self._fleet.answer(name, call(self._fleet.actors[name]))
            except GenerationError as error:  # a worker raises it where its engine is gone
                raise WorkerLost(str(error), Cause.ENGINE_DIED) from error

        def near() -> set[str]:
            return homes.workers_near(sample.video) if homes and turn is None else set()

        return await self._dispatcher.ask(
            ask,
            sample.id,
            turn=turn,
            near=near,
            failure_of=failure_of,
            by_engine=by_engine,
        )

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
            self._actor(name).logprobs.remote(video, prompt, tuple(response), adapter_of),
            self._config.rollout.request_timeout_s,
            f"{name} to answer the parity probe",
        )

    async def cache_counts(self) -> dict[str, int]:
        """Clip cache hits and misses, and clips decoded by each decoder, since the start, summed
        over all workers that there were; of one that does not answer, as it last did."""
        await asyncio.gather(*[self._count(name) for name in self._members.running])
        total = Counter[str]()
        for counts in self._counts.values():
            total += counts
        return dict(total)

    async def _count(self, name: str) -> None:
        with suppress(WorkerDied, DeadlineExceeded, KeyError):  # its next probe reports it
            start = name, self._members[name].restarts  # a new process counts from 0
            call = self._actor(name).cache_counts.remote()
            what = f"{name} to count its cache's hits"
            self._counts[start] = Counter(await with_deadline(call, _COUNTS_S, what))

    async def use_tower(self, tower: str | None) -> None:
        """Let all workers know the learner's name of the frozen vision tower that the next weights
        bring; None: it is trained."""
        await self._fleet.tell("use_tower", tower)

    async def use_tokens(self, narration: Narration) -> None:
        """Let all workers know a tokenizer whose narratives are to be shown."""
        await self._fleet.tell("use_tokens", narration)

    # weights

    def use_weights_of(self, weights: Weights) -> None:
        """Bring joiners to the newest weights by ``weights``, once an update has brought any."""
        self._weights = weights

    @contextmanager
    def updating(self, version: PolicyVersion, *, others_serve: bool = False) -> Iterator[None]:
        """Update of weights during the block: only engines that are proven to have ``version``
        serve. ``others_serve``: until then engines serve with what they have."""
        self._fleet.weights = self._weights
        with self._members.updating(version, others_serve=others_serve):
            yield

    def proven(self, name: str, version: PolicyVersion) -> None:
        """Let a worker answer: its weights are proven right."""
        self._members.proven(name, version)

    def withhold(self, names: Sequence[str]) -> None:
        """Send these workers no new request until they are proven: their weights are replaced."""
        for name in names:
            self._members[name].outdated()

    def update_failed(self, name: str) -> None:
        """Take a worker out of service and give to others what it has not answered: its engine is
        paused until an update succeeds."""
        self._members.update_failed(name)

    async def some_running(self) -> None:
        """Wait until an engine runs that an update could be sent to. Raises GenerationError if none
        will, DeadlineExceeded."""
        limit_s = self._config.cluster.start_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                while not self.names:
                    if self._watch is not None and self._watch.done():
                        await self._watch  # raises why no worker comes back
                    self._changed.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), _LOOK_S)
        except TimeoutError as error:
            states = ", ".join(f"{worker.name} {worker.state}" for worker in self._members.workers)
            raise DeadlineExceeded(
                f"waited {limit_s:.0f} s for any rollout worker to start again: {states}"
            ) from error

    async def serve_adapter(self, name: str, version: PolicyVersion) -> None:
        """Let a worker answer new requests with an adapter that it has loaded."""
        await with_deadline(
            self._actor(name).serve_adapter.remote(version),
            self._config.rollout.update_timeout_s,
            f"{name} to serve version {version}",
        )

    async def load(self, name: str, copy: HostCopy | AdapterCopy) -> None:
        """Load a host copy into one worker. Raises WeightUpdateError, DeadlineExceeded,
        WorkerDied."""
        timeout_s = self._config.rollout.update_timeout_s + 30  # longer than the engine's own
        await copy.load_into(name, self._actor(name), timeout_s)

    async def weight_digests(self, name: str) -> list[WeightDigests]:
        """Digests of one worker's weights after an update, of each of its GPUs."""
        return await with_deadline(
            self._actor(name).weight_digests.remote(),
            self._config.rollout.update_timeout_s + 30,
            f"{name} to compute digests of its weights",
        )

    async def sleep(self) -> None:
        """Put every engine to sleep, out of service until new weights have woken it and are proven
        right. One that cannot sleep is warned of: its memory is not free."""
        self._members.suspend_all()
        await asyncio.gather(*[self._sleep(name) for name in self.names])

    async def _sleep(self, name: str) -> None:
        timeout_s = self._config.rollout.update_timeout_s
        try:
            call = self._actor(name).sleep.remote()
            await with_deadline(call, timeout_s + 30, f"{name} to sleep")
        except WorkerDied as error:
            log.warning("%s is lost: %s", name, error)
            if name in self._members:  # else it has left meanwhile
                self._members[name].died(self._fleet.cause_of_death(name))
        except (WeightUpdateError, DeadlineExceeded) as error:
            log.warning("%s does not sleep: %s", name, error)

    async def find_alive(self, names: Sequence[str]) -> list[str]:
        """Names of the workers whose engine still runs; the others are dead, and start anew."""
        causes = await asyncio.gather(*[self._fleet.death_of(name) for name in names])
        for name, cause in zip(names, causes, strict=True):
            if cause is not None and name in self._members:
                self._members[name].died(cause)
        running = set(self._members.running)
        return [name for name in names if name in running]

    def client(self) -> UpdateClient:
        """Client through which the learner sends weights to the engines."""
        rollout = self._config.rollout
        timeout_s = max(rollout.begin_timeout_s, rollout.update_timeout_s)  # of its longest step
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
            epoch=self._members.epoch,
            actors={name: self._actor(name) for name in names},
            ranks_per_engine=self._config.rollout.tensor_parallel_size,
        )

    def _actor(self, name: str) -> Any:
        if name not in self._fleet.actors:
            raise WorkerLost(f"{name} has ended")
        return self._fleet.actors[name]


def _failure_of(rollout: Rollout) -> str | None:
    """Why an answer is a failure of the engine: a bad clip or prompt is none."""
    failed = [one for one in rollout.failures if one.kind is FailureKind.GENERATION]
    return failed[0].reason if failed else None


def _note_error(watch: asyncio.Task[None]) -> None:
    if not watch.cancelled() and (error := watch.exception()) is not None:
        log.error("the rollout workers are looked after no more: %s", error)
