"""Serving on real engines: answers, kills of the engine and of its process, a promotion under load.

The demo's base model, read as ``policy``: one vLLM engine a classifier.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from calibrate.decision import Evidence
from calibrate.service.config import ServiceConfig
from calibrate.service.protocols import ClipToClassify
from calibrate.service.serving.restarts import RestartPolicy
from calibrate.service.serving.serving import Answered, Serving
from calibrate.service.state import audit, registry
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database
from calibrate.service.state.registry import Registry
from cluster.classify.machine import Machine
from cluster.serving.backend import ProcessBackend
from cluster.serving.machine import ServingMachine

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, and the classifiers first and second, whose weights are the same."""
    from calibrate.calibration import Calibration
    from calibrate.calibrator import Calibrator
    from calibrate.classifier import publish_classifier
    from calibrate.description import AnswerSettings
    from cluster.config.recipe import read_recipe
    from cluster.demo.clips import make_demo_data
    from cluster.demo.make_model import make_demo_model
    from cluster.inputs.classifier_settings import describe
    from tests.calibrate.classifiers import make_provenance
    from wire.types import PolicyVersion

    folder = tmp_path_factory.mktemp("serving")
    make_demo_data(folder / "data", train=40, traces=1, val=1, cal=1, test=20)
    make_demo_model(folder / "model")
    settings = [f"model={folder / 'model'}", f"data.manifest={folder / 'data/manifest.jsonl'}"]
    config = read_recipe(ROOT / "recipes/demo.toml", settings)
    for name, temperature in (("first", 1.0), ("second", 2.0)):
        publish_classifier(
            folder / name,
            describe(
                config,
                {},
                name=name,
                sources=("policy",),
                policy=PolicyVersion(attempt=0, step=0),
                answers=AnswerSettings(),
            ),
            calibration=Calibration(
                calibrator=Calibrator(
                    label_names=config.label_set.names, weights={"policy": 1 / temperature}
                )
            ),
            provenance=make_provenance(),
            policy_dir=folder / "model",
        )
    return folder


@asynccontextmanager
async def opened(place: Path, state: Path, **settings: Any) -> AsyncIterator[Serving]:
    database = Database.open(state / "service.sqlite", [audit.SCHEMA, registry.SCHEMA])
    kept = Registry(database, Audit(database), state / "classifiers")
    for name in ("first", "second"):
        kept.register(place / name, source=name, by="test")
    kept.promote(1, by="test", expected_champion=None, reason="")
    machine = ServingMachine(machine=Machine(cache_dir=place / "cache"))
    serving = Serving(
        kept,
        ProcessBackend(machine, state / "logs"),
        ServiceConfig(state=state, **settings),
        restarts=RestartPolicy(first_pause_s=0.1),
    )
    try:
        await serving.start()
        yield serving
    finally:
        await serving.close()
        database.close()


def clips_of(place: Path) -> list[ClipToClassify]:
    paths = sorted((place / "data/clips/test").rglob("*.mp4"))
    return [ClipToClassify(id=path.name, path=path) for path in paths]


def processes() -> tuple[int, int]:
    """Process of the worker that runs, and that of the engine below it."""
    for worker in psutil.Process().children():
        if "cluster.serving.worker" not in " ".join(worker.cmdline()):
            continue
        for engine in worker.children():
            if "EngineCore" in engine.name() or "EngineCore" in " ".join(engine.cmdline()):
                return worker.pid, engine.pid
    raise AssertionError("no engine runs")


def running() -> set[int]:
    """Processes that run, of all of them."""
    return {
        one.pid
        for one in psutil.process_iter(["status"])
        if one.info["status"] != psutil.STATUS_ZOMBIE
    }


@pytest.mark.slow
async def test_answers_survive_kills_of_the_engine_and_of_its_process(
    place: Path, tmp_path: Path
) -> None:
    clips = clips_of(place)
    async with opened(place, tmp_path, request_timeout_s=200.0, drain_timeout_s=300.0) as serving:
        before = await asyncio.gather(*[serving.classify(clip) for clip in clips])
        for killed in ("engine", "worker"):
            worker, engine = processes()
            asked = [asyncio.create_task(serving.classify(clip)) for clip in clips * 8]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            assert not all(task.done() for task in asked)
            os.kill(engine if killed == "engine" else worker, signal.SIGKILL)
            answers = await asyncio.gather(*asked)
            assert [shown(one) for one in answers] == [shown(one) for one in before] * 8
            assert not {worker, engine} & running()
        status = serving.status()["loaded"][0]
        assert (status["restarts"], status["state"]) == (2, "ready")
        left = processes()
    assert not set(left) & running()


@pytest.mark.slow
async def test_a_promotion_under_load_fails_no_clip(place: Path, tmp_path: Path) -> None:
    clips = clips_of(place)
    async with opened(
        place, tmp_path, max_loaded=1, request_timeout_s=200.0, drain_timeout_s=300.0
    ) as serving:
        await serving.classify(clips[0])
        answers: list[Answered] = []
        going = True

        async def client(number: int) -> None:
            while going:
                answers.append(await serving.classify(clips[number], view="blank"))

        clients = [asyncio.create_task(client(number)) for number in range(6)]
        await asyncio.sleep(0.5)
        promotion = await serving.promote(2, by="test", expected_champion=1)
        after = await serving.classify(clips[7])
        going = False
        await asyncio.gather(*clients)
    assert promotion.champion == after.classifier.version == 2
    assert {one.classifier.version for one in answers} == {1, 2}
    assert all(isinstance(one.control, Evidence) for one in answers)


def shown(answered: Answered) -> tuple[Any, ...]:
    """What is the same however a clip's request was batched with others."""
    evidence = answered.evidence
    rounded = str([round(value, 4) for value in evidence.logprobs["policy"]])  # NaN is NaN
    return (answered.classifier.version, evidence.trace, evidence.frames, rounded)
