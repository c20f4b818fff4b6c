"""The learner's ranks as Ray actors, called together."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import ray

from cluster.actors import placement
from cluster.actors.clip_homes import ClipHomes
from cluster.actors.engine_calls import EngineSet
from cluster.actors.engine_client import UpdateClient
from cluster.actors.learner_actor import CLIPS, LearnerActor, WeightSyncResult
from cluster.actors.learner_healing import Again, LearnerHealing, not_healed
from cluster.actors.placement import Seat
from cluster.actors.rank_calls import RankCalls
from cluster.config.recipe import RunConfig
from cluster.metrics.events import Events
from cluster.metrics.timeline import Timeline
from learner.config import GrpoLossConfig, LoraConfig, OptimConfig
from learner.export import AdapterFacts
from learner.shared_prefix.largest_batch import LargestBatch
from learner.shared_prefix.near_clips import move_near_clips
from learner.shared_prefix.rows import (
    Row,
    StepCounts,
    assign_to_ranks,
    split_rows,
    with_old_logprobs,
    with_ref_logprobs,
    without_tokens,
)
from learner.worker import Objective
from video.semantic_tokens.narrated_clips import Narration
from video.semantic_tokens.segment_file import Segments
from wire.errors import PlacementError
from wire.token_arrays import Logprobs
from wire.types import PolicyVersion

T = TypeVar("T")

RemoteLearnerActor: Any = ray.remote(LearnerActor)
_with_clips: Any = ray.remote(concurrency_groups={CLIPS: 1})  # type: ignore[call-overload]
RemoteLearnerActorWithClips: Any = _with_clips(LearnerActor)
"""Makes clips ready while it trains."""


class LearnerGroup:
    """Group of all learner ranks, called together. A rank that dies or hangs is healed inside the
    call (cluster/actors/learner_healing.py)."""

    def __init__(
        self,
        config: RunConfig,
        seats: Sequence[Seat],
        homes: ClipHomes | None = None,
        timeline: Timeline | None = None,
        *,
        events: Events | None = None,
    ) -> None:
        """``homes``: nodes that clips are preferred on; none: on one node; ``events``: where losses
        and heals are noted."""
        self._config, self._seats, self._homes = config, seats, homes
        learner = config.learner
        self._max_response_length = config.rollout.max_response_length
        self._max_tokens = learner.max_tokens_per_batch
        self._healing = LearnerHealing(self._renew, learner.max_restarts, events)
        self._actors = self._make_actors()
        near = None if homes is None else self._ranks_near
        around = self._healing.call
        self._ranks = RankCalls(
            self._actors, learner.timeout_s, self._max_tokens, near, timeline, around
        )
        self._address, self._moved = "", False

    def _make_actors(self) -> list[Any]:
        remote = RemoteLearnerActor if self._homes is None else RemoteLearnerActorWithClips
        learner = self._config.learner
        return [
            remote.options(**seat.options(learner.num_cpus, learner.num_gpus)).remote(
                self._config, rank
            )
            for rank, seat in enumerate(self._seats)
        ]

    async def _renew(self) -> None:
        """End all ranks, and start new ones, which meet; on other nodes, where one is gone. Raises
        PlacementError, DeadlineExceeded."""
        self._end()
        if not all(seat.is_on_live_node for seat in self._seats):
            await self._move()
        self._actors = self._make_actors()
        self._ranks.renew(self._actors)
        await self._meet()

    async def _move(self) -> None:
        """Take other seats, once there is room for all ranks."""
        if self._config.colocated:
            raise PlacementError(
                "a node with engines and learner ranks that share GPUs is gone, and neither can "
                "move without the other; --resume places all of them anew"
            )
        self._seats[0].release()  # of all ranks
        self._seats = (await placement.reserve(self._config, engines=False)).ranks
        self._moved = True

    async def start(self) -> None:
        """Let the ranks meet. Raises DeadlineExceeded, WorkerDied."""
        with not_healed():  # what fails at the start is not mended by another one
            await self._meet()

    async def _meet(self) -> None:
        timeout_s = self._config.cluster.start_timeout_s
        self._address, port = await self._ranks.first("open_rendezvous", timeout_s)
        await self._ranks.all("join", self._address, port, timeout_s=timeout_s)

    async def begin(
        self,
        model_dir: str,
        optim: OptimConfig,
        loss: GrpoLossConfig | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        """Start a stage from a model directory, with a fresh optimiser; ``loss``: its objective, if
        it trains by GRPO; ``lora``: of this stage alone, else as the recipe trains."""
        begin = partial(self._ranks.all, "begin", model_dir, optim, loss, lora)
        await self._healing.begin(begin)

    async def connect(self, client: UpdateClient) -> None:
        """Connect the ranks to the rollout engines for weight updates."""
        await self._healing.of_each_rank(
            "engines", lambda: self._ranks.all("connect", client, self._address)
        )

    async def update(self, do: Callable[[], Awaitable[T]], again: Again | None = None) -> T:
        """Calls of :meth:`train_step` and others that are one update of the weights together, and
        are done again as a whole if a rank is lost before a checkpoint has it. ``again``: what does
        them then, where ``do`` holds much in memory."""
        return await self._healing.update(do, again)

    async def publish(self, version: PolicyVersion, engines: EngineSet) -> WeightSyncResult:
        """Send the weights to these engines."""
        results = await self._ranks.all("publish", version, engines)
        return results[0]  # type: ignore[no-any-return]

    async def publish_adapter(self, version: PolicyVersion, engines: EngineSet) -> WeightSyncResult:
        """Load the adapter into these engines, beside the adapters that they have."""
        results = await self._ranks.all("publish_adapter", version, engines)
        return results[0]  # type: ignore[no-any-return]

    async def train_step(
        self, rows: Sequence[Row], objective: Objective, learning_rate: float
    ) -> dict[str, float]:
        """One update from all rows. Returns the metrics, per trained token of all ranks. Outside of
        :meth:`update` the rows stay in memory until the next checkpoint."""
        per_rank = self._deal(rows)
        counts = StepCounts.of(rows, self._max_response_length)
        step = partial(self._ranks.each, "train_step", per_rank, counts, objective, learning_rate)
        figures = await self._healing.update(step)
        return figures[0]  # type: ignore[no-any-return]

    def prepare_clip(self, video: str) -> None:
        """Let a clip be made ready at its home, by a rank there. Returns at once."""
        assert self._homes is not None, "on one node the engines' clips are the ranks' too"
        rank = self._homes.home_rank(video)
        self._actors[rank].prepare_clip.options(concurrency_group=CLIPS).remote(video)

    def prepare(self, rows: Sequence[Row]) -> None:
        """Let the clips of the next update be made ready, each by the rank that will train on it.
        On one node they are ready, from the engines. Returns at once."""
        if self._homes is None:
            return
        for actor, part in zip(self._actors, self._deal(rows), strict=True):
            asked = [without_tokens(row) for row in part]
            actor.prepare.options(concurrency_group=CLIPS).remote(asked)

    def _deal(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Rows of each rank: tokens in balance, and near their clips as far as that allows."""
        per_rank = assign_to_ranks(split_rows(rows, self._max_tokens), len(self._ranks))
        homes = self._homes
        if homes is None:
            return per_rank
        per_rank = move_near_clips(per_rank, self._ranks_near)
        for rank, part in enumerate(per_rank):
            for row in part:
                homes.note_rank(rank, row.video)
        return per_rank

    def _ranks_near(self, row: Row) -> Sequence[int]:
        assert self._homes is not None, "on one node all ranks are alike"
        return self._homes.ranks_near(row.video)

    async def preflight(self, largest: LargestBatch, refers: bool) -> float:
        """Peak memory of the largest batch, GB, on the rank that needs most. ``refers``: the stage
        uses a reference model. Raises UserError that says what to lower."""
        return float(max(await self._ranks.all("preflight", largest, refers)))

    async def logprobs(self, rows: Iterable[Row]) -> list[list[Logprobs]]:
        """Logprobs per row, response and token, in the order of ``rows``."""
        return await self._scored("logprobs", rows)

    async def with_old_logprobs(self, rows: Sequence[Row]) -> list[Row]:
        """Add the present policy's logprobs to rows, for a step of several updates."""
        return with_old_logprobs(rows, await self.logprobs(rows))

    async def with_ref_logprobs(self, rows: Sequence[Row]) -> list[Row]:
        """Add the logprobs of the model that the stage started from to rows."""
        return with_ref_logprobs(rows, await self._scored("ref_logprobs", rows))

    async def features(self, rows: Iterable[Row]) -> npt.NDArray[np.float32]:
        """Hidden states [len(rows), hidden], in the order of ``rows``."""
        return np.concatenate([block async for block in self.feature_blocks(rows)])

    async def feature_blocks(self, rows: Iterable[Row]) -> AsyncIterator[npt.NDArray[np.float32]]:
        """Blocks of :meth:`features`, for rows that need not be in memory all at once."""
        async for block in self._ranks.in_blocks("features", rows):
            yield np.stack(block)

    async def segment_blocks(
        self, rows: Iterable[Row], spatial: int, steps: int
    ) -> AsyncIterator[list[Segments]]:
        """Blocks of segments ``[T, S, H]`` of the rows' clips, in the order of ``rows``
        (learner/worker.py)."""
        async for block in self._ranks.in_blocks("segments", rows, spatial, steps):
            yield block

    async def use_tokens(self, narration: Narration) -> None:
        """Let all ranks know a tokenizer whose narratives are to be trained on."""
        await self._healing.of_each_rank(
            "tokens", partial(self._ranks.all, "use_tokens", narration)
        )

    async def _scored(self, verb: str, rows: Iterable[Row]) -> list[list[Logprobs]]:
        blocks = self._ranks.in_blocks(verb, rows)
        return [scores async for block in blocks for scores in block]

    async def tower(self) -> str | None:
        """Name of the frozen vision tower in the keys of the embedding cache; None without."""
        return await self._ranks.first("tower")  # type: ignore[no-any-return]

    async def rest(self) -> None:
        """Let the ranks give up memory that only updates need; the next update takes it again."""
        await self._ranks.all("rest")

    async def save(self, directory: str, tag: str, notes: dict[str, str]) -> None:
        """Save a checkpoint of all ranks; ``notes``: the caller's own files to save with it."""
        load = partial(self._ranks.all, "load", directory, tag)
        save = partial(self._ranks.all, "save", directory, tag, notes)
        await self._healing.save(tag, save, load)

    async def load(self, directory: str, tag: str) -> None:
        """Load a checkpoint, to continue from it."""
        await self._healing.load(tag, partial(self._ranks.all, "load", directory, tag))

    async def export(self, directory: str) -> None:
        """Write the weights as a Hugging Face directory."""
        await self._ranks.all("export", directory)

    async def adapter_facts(self) -> AdapterFacts | None:
        """Size of the adapter, and the digest of the model that it adds to; None in full
        training."""
        facts: AdapterFacts | None = (await self._ranks.all("adapter_facts"))[0]
        return facts

    def stop(self) -> None:
        """End all ranks, and give back seats that were taken meanwhile."""
        self._end()
        if self._moved:
            self._seats[0].release()

    def _end(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
