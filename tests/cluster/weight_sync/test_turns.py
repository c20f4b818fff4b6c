"""Who works when on GPUs that engines and learner share: recording engines and a recording learner
under the real GRPO stage and the real weight sync."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.actors.learner_actor import WeightSyncResult
from cluster.driver.progress import console
from cluster.stages.grpo.stage import train_grpo
from cluster.weight_sync.turns import Turns
from learner.shared_prefix.rows import Row
from rollout.engine import Sampling
from rollout.worker import Rollout
from tests.cluster.session_fakes import (
    FIRST_STEP,
    FakeEngines,
    FakeLearner,
    grpo_run,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
)
from wire.errors import WeightUpdateError
from wire.types import PolicyVersion, Sample

SHARED: dict[str, Any] = {
    "rollout": {"group_size": 2, "dtype": "float32", "num_gpus": 0.5, "sleep": True},
    "learner": {"dtype": "float32", "num_gpus": 0.5, "offload_while_generating": True},
}


class Engines(FakeEngines):
    """Answers only awake and in service; keeps what happens, of answers only that there are."""

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        self.calls: list[str] = []
        self.running = 0

    def note(self, call: str) -> None:
        if self.calls[-1:] != [call]:
            self.calls.append(call)

    async def sleep(self) -> None:
        assert self.running == 0, "a request runs"
        await super().sleep()
        self.note("sleep")

    def proven(self, name: str, version: PolicyVersion) -> None:
        super().proven(name, version)
        self.note("serve")

    async def answer(
        self, sample: Sample, sampling: Sampling, upcoming: str | None = None, ask: Any = "trace"
    ) -> Rollout:
        assert self.in_service, "asked while asleep"
        self.running += 1
        self.note("write" if sampling.n > 1 else "measure")
        rollout = await super().answer(sample, sampling, upcoming, ask)
        self.running -= 1
        return rollout


class Learner(FakeLearner):
    """Keeps what happens in the engines' list; a sending fails as ``failures`` say."""

    failures: tuple[str, ...] = ()

    def __init__(self, engines: Engines) -> None:
        super().__init__(engines)
        self._recorder = engines
        self._failures = list(self.failures)

    async def train_step(
        self, rows: Sequence[Row], objective: str, learning_rate: float
    ) -> dict[str, float]:
        self._recorder.note("train")
        return await super().train_step(rows, objective, learning_rate)

    async def rest(self) -> None:
        self._recorder.note("rest")

    async def publish(self, version: PolicyVersion, names: Sequence[str]) -> WeightSyncResult:
        self._recorder.note("publish")
        if self._failures and (failure := self._failures.pop(0)):
            return WeightSyncResult(failures=dict.fromkeys(names, failure), figures={})
        return await super().publish(version, names)


class FailsOnce(Learner):
    failures = ("", "", "the connection broke")  # the start weights, step 1, step 2


class FailsTwice(Learner):
    failures = ("", "", "the connection broke", "it broke again")


def write_unlike(weights: str, sample: Sample, index: int) -> str:
    return f"<think>{index}</think><answer>{sample.label if index else '?'}</answer>"


async def calls_of(
    path: Path, make_learner: type[Learner] = Learner, **changes: Any
) -> tuple[list[str], Engines]:
    """What happened in three steps, the first sending of the start weights left out."""
    config = make_config(**{**SHARED, **changes})
    run_dir = make_run_dir(path, config)
    samples, start = make_samples(), ("base", FIRST_STEP)
    with open_fakes(config, run_dir, samples, start, Engines, make_learner) as (
        session,
        engines,
        *_,
    ):
        assert isinstance(engines, Engines)
        engines.write = write_unlike
        try:
            await train_grpo(session, grpo_run(session))
        finally:
            run_dir.close()
    return engines.calls[engines.calls.index("serve") + 1 :], engines


STEP = ["write", "sleep", "train", "rest", "publish", "serve"]


async def test_engines_sleep_while_the_learner_trains_and_serve_when_they_have_its_weights(
    tmp_path: Path,
):
    calls, _ = await calls_of(tmp_path)
    assert calls == STEP * 3


async def test_several_updates_of_a_step_are_one_turn(tmp_path: Path):
    grpo = {"num_steps": 1, "groups_per_step": 2, "ppo_epochs": 2, "save_every": 1}
    calls, _ = await calls_of(tmp_path, grpo=grpo)
    assert calls == STEP


async def test_a_validation_ends_before_the_engines_sleep(tmp_path: Path):
    calls, engines = await calls_of(tmp_path, validate={"every": 1})
    assert calls.count("sleep") == calls.count("train") == 3
    first = calls[: calls.index("sleep")]
    assert set(first) == {"write", "measure"}
    assert engines.running == 0


async def test_an_update_that_fails_is_sent_again_before_the_engine_serves(tmp_path: Path):
    calls, _ = await calls_of(tmp_path, FailsOnce)
    assert calls[:6] == STEP
    assert calls[6:12] == STEP  # both sendings stand as one
    assert calls[12:] == STEP


async def test_an_engine_without_its_weights_serves_nothing(tmp_path: Path):
    with pytest.RaisesGroup(pytest.RaisesExc(WeightUpdateError, match="it broke again")):
        await calls_of(tmp_path, FailsTwice)  # whose engines write only while in service


async def test_nothing_sleeps_unless_the_recipe_says_so(tmp_path: Path):
    calls, _ = await calls_of(
        tmp_path, rollout={"group_size": 2, "dtype": "float32"}, learner={"dtype": "float32"}
    )
    assert set(calls) == {"write", "train", "publish", "serve"}


def test_on_a_cpu_it_is_said_once_that_nothing_is_freed():
    config = make_config(
        rollout={"sleep": True}, learner={"offload_while_generating": True, "dtype": "float32"}
    )
    engines: Any = object()
    with console.capture() as capture:
        Turns(config, engines, engines)
    text = " ".join(capture.get().split())
    assert text.count("nothing on a CPU") == 1
    assert "rollout.sleep and learner.offload_while_generating" in text
