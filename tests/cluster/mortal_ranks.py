"""Learner ranks that live in this process and can be killed, under the real LearnerGroup. (No test
file.)

A rank's weights are a hash of those before and of every trace and advantage that it was given.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from cluster.actors import learner_group
from cluster.actors.learner_actor import WeightSyncResult
from cluster.actors.learner_group import LearnerGroup
from cluster.config.recipe import RunConfig
from cluster.metrics.events import Events
from learner.shared_prefix.rows import Row
from tests.cluster.session_fakes import FakeEngines, write_model
from wire.types import PolicyVersion, stable_hash

NUM_RANKS = 2


class Deaths:
    """Kills at chosen calls, counted over both ranks; and what the ranks lived through."""

    def __init__(self, *at: int, hang: bool = False) -> None:
        """``at``: numbers of calls at which the rank that is called ends; ``hang``: it answers
        nothing instead."""
        self.at, self.hang = set(at), hang
        self.calls: list[str] = []
        """Verbs, in their order."""
        self.num_born = self.num_killed = 0

    def strike(self, verb: str) -> bool:
        self.calls.append(verb)
        return len(self.calls) - 1 in self.at


class MortalRank:
    """A LearnerActor in this process."""

    def __init__(self, deaths: Deaths, engines: FakeEngines, rank: int) -> None:
        self.deaths, self.engines, self.rank = deaths, engines, rank
        self.weights = ""
        self.peers: list[MortalRank] = []
        self.dead = False
        deaths.num_born += 1

    async def open_rendezvous(self) -> tuple[str, int]:
        return "here", 1

    async def join(self, address: str, port: int) -> None: ...

    async def connect(self, client: object, address: str) -> None:
        assert self.weights, "begin() comes first"

    async def begin(self, model_dir: str, *_: object) -> None:
        folder = Path(model_dir)
        self.weights = folder.parent.name if folder.name == "model" else folder.name

    async def train_step(
        self, rows: Sequence[Row], counts: object, objective: str, rate: float
    ) -> dict[str, float]:
        about = [(r.token_ids, r.advantage, r.rollout_logprobs) for w in rows for r in w.responses]
        after = stable_hash(self.weights, about, rate)[:16]
        self.weights = after
        return {"policy_loss": 0.5, "nll": 0.25}

    async def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        return [[[-1.0] * len(r.token_ids) for r in row.responses] for row in rows]

    async def publish(self, version: PolicyVersion, engines: object) -> WeightSyncResult:
        if self.rank == 0:
            self.engines.load(version, self.weights)
        return WeightSyncResult(failures={}, figures={})

    async def save(self, directory: str, tag: str, notes: dict[str, str]) -> None:
        """As a real one: whole only when all ranks have written, by rank 0."""
        folder = Path(directory) / tag
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"weights-{self.rank}").write_text(self.weights)
        while len(list(folder.glob("weights-*"))) < NUM_RANKS:
            if any(peer.dead for peer in self.peers):
                raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")
            await asyncio.sleep(0)
        for name, text in {**notes, "manifest.json": "{}"}.items():
            (folder / name).write_text(text)

    async def load(self, directory: str, tag: str) -> None:
        self.weights = (Path(directory) / tag / f"weights-{self.rank}").read_text()

    async def export(self, directory: str) -> None:
        if self.rank == 0:
            write_model(Path(directory), self.weights)

    async def preflight(self, largest: object, refers: bool) -> float:
        return 1.0

    async def tower(self) -> None: ...

    async def rest(self) -> None: ...

    async def adapter_facts(self) -> None: ...


class MortalActor:
    """A rank as Ray gives it: its calls raise ActorDiedError once it is dead."""

    def __init__(self, rank: MortalRank) -> None:
        self.mortal = rank

    def __getattr__(self, verb: str) -> Any:
        return _Method(self.mortal, verb)


class _Method:
    def __init__(self, rank: MortalRank, verb: str) -> None:
        self._rank, self._verb = rank, verb

    def remote(self, *values: Any) -> "asyncio.Future[Any]":
        return asyncio.ensure_future(self._call(values))

    async def _call(self, values: Sequence[Any]) -> Any:
        rank, deaths = self._rank, self._rank.deaths
        if rank.dead:
            raise ActorDiedError
        struck = deaths.strike(self._verb)
        if struck:
            deaths.num_killed += 1
            if deaths.hang:
                await asyncio.sleep(3600)
            rank.dead = True
            raise ActorDiedError
        return await getattr(rank, self._verb)(*values)


def mortal_learner(
    config: RunConfig, patch: pytest.MonkeyPatch, deaths: Deaths, events: Events | None = None
) -> Callable[[FakeEngines], LearnerGroup]:
    """Makes the real LearnerGroup of two such ranks. The recipe's number of ranks has to be two."""
    assert config.learner.num_ranks == NUM_RANKS
    engines: list[FakeEngines] = []
    born: list[MortalRank] = []

    class Remote:
        def options(self, **_: Any) -> "Remote":
            return self

        def remote(self, config: RunConfig, rank: int) -> MortalActor:
            if rank == 0:
                born.clear()
            born.append(MortalRank(deaths, engines[0], rank))
            born[-1].peers = born
            return MortalActor(born[-1])

    def kill(actor: MortalActor) -> None:
        actor.mortal.dead = True

    class Seat:
        node, is_on_live_node = "here", True

        def release(self) -> None: ...

        def options(self, *_: float) -> dict[str, Any]:
            return {}

    patch.setattr(learner_group, "RemoteLearnerActor", Remote())
    patch.setattr(learner_group.ray, "kill", kill)

    def make(of: FakeEngines) -> LearnerGroup:
        engines.append(of)
        seats: Any = [Seat(), Seat()]
        return LearnerGroup(config, seats, events=events)

    return make


def weights_of(learner: LearnerGroup) -> list[str]:
    """Weights of both ranks."""
    return [actor.mortal.weights for actor in learner._actors]
