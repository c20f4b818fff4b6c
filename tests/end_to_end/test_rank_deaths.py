"""A learner rank that is killed or stopped in its work: real processes, real DeepSpeed, two ranks.
They start anew, and end with the weights, the optimiser and the generators of ranks that nobody
killed, bit for bit."""

import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.demo.make_model import make_demo_model
from learner.config import OptimConfig
from tests.end_to_end.mortal_learner import FOLDER
from tests.learner.builders import make_row
from tests.real_workers import make_config

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(590)]

ROWS = [make_row(seed, lengths) for seed, lengths in enumerate([(3, 5), (2,), (7, 1), (4,)])]
STEPS, SAVED = 4, 2
TIMEOUT_S = {3: 200.0, 2: 45.0}  # the second is waited for


class Notes:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def note(self, kind: str, subject: str, **fields: Any) -> None:
        self.events.append((kind, subject, fields))


@pytest.fixture(scope="module")
def setting(
    tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> Iterator[SimpleNamespace]:
    import ray

    from cluster.actors import learner_group
    from tests.end_to_end import mortal_learner

    ray.cloudpickle.register_pickle_by_value(mortal_learner)  # tests are no package
    ray.cloudpickle.register_pickle_by_value(sys.modules["tests.learner.builders"])
    folder = tmp_path_factory.mktemp("deaths")
    model = make_demo_model(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        environment = {"env_vars": {FOLDER: str(folder)}}
        remote = ray.remote(runtime_env=environment)(mortal_learner.MortalLearner)
        patch.setattr(learner_group, "RemoteLearnerActor", remote)
        yield SimpleNamespace(folder=folder, model=model)


@asynccontextmanager
async def two_ranks(
    setting: SimpleNamespace, zero_stage: int
) -> AsyncIterator[tuple[Any, list[tuple[str, str, dict[str, Any]]]]]:
    """A learner that is up, and the events that it notes."""
    from cluster.actors import placement
    from cluster.actors.learner_group import LearnerGroup

    config = make_config(
        setting.model,
        Path("unused"),
        ["a", "b"],
        deterministic=True,
        learner={"num_ranks": 2, "zero_stage": zero_stage, "timeout_s": TIMEOUT_S[zero_stage]},
    )
    seats = await placement.reserve(config, engines=False)
    notes = Notes()
    learner = LearnerGroup(config, seats.ranks, events=notes)
    try:
        await learner.start()
        yield learner, notes.events
    finally:
        learner.stop()
        seats.release()


async def trained(
    setting: SimpleNamespace, learner: Any, step: int = 0, rank: int = 0, how: str = ""
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Train some updates with a checkpoint in the middle and one at the end; a rank ends ``how`` in
    an update. Returns the figures, and the hashes of the last checkpoint's files."""
    folder, figures = setting.folder / "checkpoints", []
    await learner.begin(str(setting.model), OptimConfig(learning_rate=1e-3))
    for number in range(1, STEPS + 1):
        if number == step:
            (setting.folder / f"arm-{rank}").write_text(how)
        update = await learner.train_step(ROWS, "supervised", 1e-3)
        figures.append({k: v for k, v in update.items() if "self_check" not in k})
        if number % SAVED == 0:
            await learner.save(str(folder), f"step-{number:06d}", {})
    manifest = json.loads((folder / f"step-{STEPS:06d}" / "manifest.json").read_text())
    shutil.rmtree(folder)
    assert not list(setting.folder.glob("arm-*")), "the fault happened"
    return figures, manifest


DEATHS = {
    3: [
        (4, 1, "forward:SIGKILL", "died", "step-000002", 1),
        (2, 0, "reduce:SIGKILL", "died", "start", 1),
    ],
    2: [
        (4, 1, "save:SIGKILL", "died", "step-000002", 2),
        (3, 1, "forward:SIGSTOP", "deadline", "step-000002", 0),
    ],
}


@pytest.mark.parametrize("zero_stage", DEATHS)
async def test_a_learner_whose_rank_is_killed_ends_as_one_that_nobody_killed(
    setting: SimpleNamespace, zero_stage: int
):
    async with two_ranks(setting, zero_stage) as (learner, events):
        whole = await trained(setting, learner)
        assert events == []
        for step, rank, how, cause, source, replayed in DEATHS[zero_stage]:
            begun = time.monotonic()
            healed = await trained(setting, learner, step, rank, how)
            print(how, f"{time.monotonic() - begun:.1f} s", events)  # noqa: T201
            assert healed == whole, "weights, moments and generators of both ranks"
            (died, about, fields), (kind, _, heal) = events
            assert (died, kind) == ("learner_died", "learner_healed")
            assert fields["cause"] == cause
            assert cause == "deadline" or about == f"rank-{rank}", "who died is named"
            assert (heal["from_checkpoint"], heal["replayed_steps"]) == (source, replayed)
            events.clear()
