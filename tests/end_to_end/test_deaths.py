"""A process that is killed in the middle of a weight update, after the first bucket was loaded."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.actors.bucket_client import BucketClient
from cluster.actors.engine_calls import EngineSet
from cluster.actors.rollout_pool import RolloutPool
from rollout.engine import Sampling
from tests.real_workers import make_config, open_workers
from wire.errors import WorkerDied
from wire.types import PolicyVersion

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(590)]

DEADLINE_S = 60.0


class KillingClient(BucketClient):
    """Kills the process whose id is in a file once the engines have loaded a bucket."""

    def __init__(self, update_timeout_s: float, victim: Path) -> None:
        super().__init__(update_timeout_s)
        self._victim = victim

    def update_weights(self, update_info: Any) -> None:
        super().update_weights(update_info)
        assert update_info["num_buckets"] > 3
        if update_info["header"]["index"] == 0 and self._victim.exists():
            self.await_sent()
            process = int(self._victim.read_text())
            self._victim.unlink()
            os.kill(process, signal.SIGKILL)


class Spoilt:
    """An engine's actor that gets other bytes than were sent."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.update_weights = self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # it is being unpickled
            raise AttributeError(name)
        return getattr(self._actor, name)

    def remote(self, told: dict[str, Any], after: Any) -> Any:
        header = {**told["header"], "fingerprint": 0}
        return self._actor.update_weights.remote({**told, "header": header}, after)


class SpoilingClient(BucketClient):
    """Spoils what one engine is told."""

    def __init__(self, update_timeout_s: float, victim: str) -> None:
        super().__init__(update_timeout_s)
        self._victim = victim

    def open(self, version: PolicyVersion, engines: EngineSet) -> None:
        actors = {n: Spoilt(a) if n == self._victim else a for n, a in engines.actors.items()}
        super().open(version, replace(engines, actors=actors))


@pytest.fixture(scope="module")
def setting(place: Any, ray_session: None) -> Callable[..., Any]:
    """``setting(num_workers=2)``: the recipe of that many engines, in buckets of a megabyte."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # tests are no package

    def make(**rollout: Any) -> Any:
        manifest = place.root.parent / "data" / "manifest.jsonl"
        return make_config(
            place.model,
            manifest,
            [label.name for label in place.labels.labels],
            transfer={"kind": "object_store", "bucket_mb": 1.0},
            rollout={**rollout, "num_cpus": 0.25, "update_timeout_s": DEADLINE_S},
            learner={"num_cpus": 0.25, "num_ranks": 2, "timeout_s": 4 * DEADLINE_S},
        )

    return make


async def pid_of(actor: Any) -> int:
    return int(await actor.__ray_call__.remote(lambda self: os.getpid()))


async def pid_of_engine(actor: Any) -> int:
    below = psutil.Process(await pid_of(actor)).children()  # decoders, too
    (engine,) = [process for process in below if "VLLM::" in " ".join(process.cmdline())]
    return engine.pid


@pytest.mark.parametrize(
    ("victim_of", "cause"), [(pid_of, "actor_died"), (pid_of_engine, "engine_died")]
)
async def test_an_engine_that_dies_starts_anew_with_the_newest_weights_while_the_other_goes_on(
    setting: Callable[..., Any],
    place: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    victim_of: Callable[[Any], Awaitable[int]],
    cause: str,
):
    """Its actor, or the engine's process alone; groups that it was writing are written again. It
    serves again before there is another update, by the host copy."""
    victim, sampling = tmp_path / "victim", Sampling(n=8, temperature=1.0, max_tokens=64, seed=1)
    async with open_workers(setting(num_workers=2), place.cache) as workers:
        pool = workers.rollouts
        async with workers.learner(KillingClient, victim, num_ranks=1) as (_, sync):
            writing = [
                asyncio.create_task(pool.answer(sample, sampling)) for sample in workers.samples[:6]
            ]
            await asyncio.sleep(0.3)  # so that each engine has some
            actor = pool._fleet.actors["rollout-1"]
            killed = await pid_of(actor), await pid_of_engine(actor)
            victim.write_text(str(await victim_of(actor)))
            start = time.monotonic()
            report = await sync.publish(PolicyVersion(attempt=0, step=1))
            took = time.monotonic() - start
            said = [r.getMessage() for r in caplog.records if "did not come" in r.getMessage()]
            print(f"{took:.1f} s; {said}")  # noqa: T201
            assert not victim.exists(), "the kill happened"
            assert took < DEADLINE_S
            assert report.num_out_of_service == 1
            assert pool.in_service == {"rollout-0"}
            assert said[0].startswith("rollout-1 did not come to version 0.1: update_weights: ")
            assert any(word in said[0] for word in ("died", "dead", "process ended"))
            groups = await asyncio.wait_for(asyncio.gather(*writing), DEADLINE_S)
            assert [len(group.completions) for group in groups] == [8] * 6
            await until_in_service(pool, {"rollout-0", "rollout-1"})
            print(f"served again after {time.monotonic() - start:.1f} s")  # noqa: T201
            assert workers.events.states("rollout-1")[-4:] == [
                ("dead", cause),
                ("restarting", "restart"),
                ("stale", "started"),
                ("healthy", "weights_proven"),
            ]
            actor = pool._fleet.actors["rollout-1"]
            assert not {await pid_of(actor), await pid_of_engine(actor)} & set(killed)
            assert not any(psutil.pid_exists(process) for process in killed)
            asked = [pool.answer(sample, sampling) for sample in workers.samples[:6]]
            versions = {group.policy_version.step for group in await asyncio.gather(*asked)}
            assert versions == {1}, "both have the newest weights"
            report = await sync.publish(PolicyVersion(attempt=0, step=2))
            assert report.max_logprob_diff < 1e-4
            assert report.num_out_of_service == 0
            assert sum((await pool.cache_counts()).values()) > 0


async def until_in_service(pool: RolloutPool, names: set[str]) -> None:
    async with asyncio.timeout(5 * DEADLINE_S):
        while pool.in_service != names:
            await asyncio.sleep(0.1)


async def test_what_an_engine_holds_is_written_by_another_once_its_update_failed_twice(
    setting: Callable[..., Any], place: Any
):
    """Its engine is paused: before, its groups waited for rollout.request_timeout_s, 600 s."""
    sampling = Sampling(n=8, temperature=1.0, max_tokens=64, seed=1)
    async with open_workers(setting(num_workers=2), place.cache) as workers:
        pool = workers.rollouts
        async with workers.learner(SpoilingClient, "rollout-1", num_ranks=1) as (_, sync):
            writing = [
                asyncio.create_task(pool.answer(sample, sampling)) for sample in workers.samples[:6]
            ]
            await asyncio.sleep(0.3)  # so that each engine has some
            assert (await sync.publish(PolicyVersion(attempt=0, step=1))).num_out_of_service == 1
            assert pool.in_service == {"rollout-0"}
            assert pool.names == ["rollout-0", "rollout-1"], "it is alive"
            groups = await asyncio.wait_for(asyncio.gather(*writing), DEADLINE_S)
            assert [len(group.completions) for group in groups] == [8] * 6
        async with workers.learner(num_ranks=1) as (_, sync):
            assert (await sync.publish(PolicyVersion(attempt=0, step=2))).num_out_of_service == 0
            assert len((await pool.answer(workers.samples[0], sampling)).completions) == 8


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_learner_rank_that_dies_is_named_and_its_peer_ends(
    setting: Callable[..., Any], place: Any, tmp_path: Path, rank: int
):
    """The peer waits in a gather; the engine holds half an update, and is sent everything by the
    learner that comes after."""
    victim = tmp_path / "victim"
    async with open_workers(setting(num_workers=1), place.cache) as workers:
        async with workers.learner(KillingClient, victim, zero_stage=3) as (learner, sync):
            await sync.publish(PolicyVersion(attempt=0, step=1))
            victim.write_text(str(await pid_of(learner._ranks._actors[rank])))
            start = time.monotonic()
            with pytest.raises(WorkerDied, match=f"learner rank {rank} to publish: its process"):
                await sync.publish(PolicyVersion(attempt=0, step=2))
            assert not victim.exists(), "the kill happened"
            assert not workers.rollouts.in_service
            # the peer is out of its collective: it answers the next call
            assert await asyncio.wait_for(pid_of(learner._ranks._actors[1 - rank]), DEADLINE_S) > 0
            print("TOOK", time.monotonic() - start)  # noqa: T201
            assert time.monotonic() - start < DEADLINE_S
        async with workers.learner(num_ranks=1) as (_, sync):
            report = await sync.publish(PolicyVersion(attempt=0, step=3))
            assert report.max_logprob_diff < 1e-4
            assert workers.rollouts.in_service == {"rollout-0"}
