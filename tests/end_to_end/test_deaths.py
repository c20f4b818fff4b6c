"""A process that is killed in the middle of a weight update, after the first bucket was loaded."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.engine_client import EngineClient
from rollout.engine import Sampling
from tests.real_workers import make_config, open_workers
from wire.errors import WorkerDied
from wire.types import PolicyVersion

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(590)]

DEADLINE_S = 60.0


class KillingClient(EngineClient):
    """Kills the process whose id is in a file once the engines have loaded a bucket."""

    def __init__(self, workers: Any, ranks: int, timeout_s: float, victim: Path) -> None:
        super().__init__(workers, ranks, timeout_s)
        self._victim = victim

    def update_weights(self, update_info: Any) -> None:
        super().update_weights(update_info)
        assert update_info["num_buckets"] > 3
        if update_info["header"]["index"] == 0 and self._victim.exists():
            process = int(self._victim.read_text())
            self._victim.unlink()
            os.kill(process, signal.SIGKILL)


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


async def test_an_engine_that_dies_leaves_and_the_others_go_on(
    setting: Callable[..., Any], place: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    victim, step = tmp_path / "victim", 0
    async with open_workers(setting(num_workers=3), place.cache) as workers:
        pool = workers.rollouts
        async with workers.learner(KillingClient, victim, num_ranks=1) as (_, handoff):

            async def publish() -> Any:
                nonlocal step
                step += 1
                return await handoff.publish(PolicyVersion(attempt=0, step=step))

            assert (await publish()).num_out_of_service == 0
            actor = await pid_of(pool._actors["rollout-1"])
            (engine, *_) = psutil.Process(await pid_of(pool._actors["rollout-2"])).children()
            for pid, name, left in ((engine.pid, "rollout-2", 2), (actor, "rollout-1", 1)):
                sampling = Sampling(n=8, temperature=1.0, max_tokens=64, seed=step)
                writing = [
                    asyncio.create_task(pool.answer(sample, sampling))
                    for sample in workers.samples[:9]
                ]
                await asyncio.sleep(0.3)  # so that each engine has some
                victim.write_text(str(pid))
                caplog.clear()
                start = time.monotonic()
                report = await publish()
                assert not victim.exists(), "the kill happened"
                assert time.monotonic() - start < DEADLINE_S
                assert report.num_out_of_service == 3 - left
                assert len(pool.in_service) == left
                assert name not in pool.in_service
                said = [r.getMessage() for r in caplog.records if name in r.getMessage()]
                print("SAID", time.monotonic() - start, said)  # noqa: T201
                assert any("did not come to version" in line for line in said)
                groups = await asyncio.wait_for(asyncio.gather(*writing), DEADLINE_S)
                assert [len(group.completions) for group in groups] == [8] * 9
            report = await publish()
            assert report.max_logprob_diff < 1e-4
            assert pool.names == ["rollout-0"]
            assert (await pool.cache_counts())["clip_hits"] > 0


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_learner_rank_that_dies_is_named_and_its_peer_ends(
    setting: Callable[..., Any], place: Any, tmp_path: Path, rank: int
):
    """The peer waits in a gather; the engine holds half an update, and is sent everything by the
    learner that comes after."""
    victim = tmp_path / "victim"
    async with open_workers(setting(num_workers=1), place.cache) as workers:
        async with workers.learner(KillingClient, victim, zero_stage=3) as (learner, handoff):
            await handoff.publish(PolicyVersion(attempt=0, step=1))
            victim.write_text(str(await pid_of(learner._ranks[rank])))
            start = time.monotonic()
            with pytest.raises(WorkerDied, match=f"learner rank {rank} to publish: its process"):
                await handoff.publish(PolicyVersion(attempt=0, step=2))
            assert not victim.exists(), "the kill happened"
            assert not workers.rollouts.in_service
            # the peer is out of its collective: it answers the next call
            assert await asyncio.wait_for(pid_of(learner._ranks[1 - rank]), DEADLINE_S) > 0
            print("TOOK", time.monotonic() - start)  # noqa: T201
            assert time.monotonic() - start < DEADLINE_S
        async with workers.learner(num_ranks=1) as (_, handoff):
            report = await handoff.publish(PolicyVersion(attempt=0, step=3))
            assert report.max_logprob_diff < 1e-4
            assert workers.rollouts.in_service == {"rollout-0"}
