"""Runs chains of stages on the session's fakes, killed where a test says so. (No test file.)

Weights keep their name, the history of their updates, through export and load:
``base-model+17+402``, a number by what an update learned from.
"""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.config.recipe import RunConfig
from cluster.run import run_each
from cluster.run_dir import RunDir
from cluster.stages.stage_functions import stage_run
from cluster.summary import summarise_run
from learner.config import GrpoLossConfig, LoraConfig, OptimConfig
from learner.shared_prefix.rows import Row
from tests.cluster.session_fakes import (
    NAMES,
    FakeEngines,
    FakeLearner,
    FakeMemory,
    FakeMetrics,
    Write,
    make_samples,
    open_fakes,
)
from wire.archive.archive import read_groups
from wire.types import PolicyVersion, Sample, TraceGroup, stable_seed
from wire.whole_file import write_json

BASE_WEIGHTS = "base-model"
CHAIN: list[dict[str, Any]] = [
    {"name": "labels", "kind": "sft", "data": "labels"},
    {"name": "own", "kind": "sft", "data": "own", "epochs": 2, "from": "base"},
    {"name": "g1", "kind": "grpo"},
    {"name": "g2", "kind": "grpo", "num_steps": 3, "clips": {"splits": ["cal"]}},
    {"name": "verdict", "kind": "calibrate", "from": "g1"},
    {"name": "unseen", "kind": "evaluate", "view": "blank"},
    {"name": "asked", "kind": "evaluate", "answer": "label", "from": "labels", "split": "val"},
]
CALIBRATE = {"num_traces": 2, "epochs": 2, "batch_size": 4, "methods": ["verdict", "head"]}


class Killed(BaseException):
    """The end of an attempt."""


class ChainLearner(FakeLearner):
    """A FakeLearner with features for a head, that is killed after so many updates."""

    updates_left = 10**9

    async def begin(
        self,
        model_dir: str,
        optim: OptimConfig,
        loss: GrpoLossConfig | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        await super().begin(model_dir, optim, loss, lora)
        self.weights = weights_in(Path(model_dir))

    async def export(self, directory: str) -> None:
        await super().export(directory)
        (Path(directory) / "weights").write_text(self.weights)

    async def train_step(
        self, rows: Sequence[Row], objective: str, learning_rate: float
    ) -> dict[str, float]:
        if not self.updates_left:
            raise Killed
        self.updates_left -= 1
        figures = await super().train_step(rows, objective, learning_rate)
        self.weights += str(stable_seed(*sorted(_text(row) for row in rows)) % 10_000)
        return figures

    async def feature_blocks(self, rows: Iterable[Row]) -> AsyncIterator[np.ndarray]:
        for row in rows:
            length, prompt = len(row.responses[0].token_ids), 1 + sum(row.prompt.token_ids) % 7
            yield np.array([[length, prompt]], dtype=float)


def _text(row: Row) -> str:
    return f"{row.video} {[response.token_ids for response in row.responses]}"


def weights_in(model_dir: Path) -> str:
    """Name of the weights in a folder."""
    file = model_dir / "weights"
    return file.read_text() if file.exists() else BASE_WEIGHTS


def two_of_three(weights: str, sample: Sample, index: int) -> str:
    """Mostly the true label."""
    draw = stable_seed(weights, sample.id, index)
    label = sample.label if draw % 3 else NAMES[draw % 5]
    return f"<think>up {index}</think><answer>{label}</answer>"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What an attempt did."""

    engines: FakeEngines
    learner: FakeLearner
    metrics: FakeMetrics
    summary: dict[str, Any]
    """Empty after a kill."""


async def run_chain(
    run_dir: RunDir,
    config: RunConfig,
    updates: int | None = None,
    samples: Sequence[Sample] = (),
    write: Write = two_of_three,
    make_learner: type[ChainLearner] = ChainLearner,
) -> Attempt:
    """Run the unfinished stages in a new attempt, killed at the update after so many."""
    todo = [name for name in config.chain.names if run_dir.result(name) is None]
    start = stage_run(config, run_dir, todo[0]).start
    first = (weights_in(start.model_dir), start.step)
    clips = list(samples) or make_samples()
    summary: dict[str, Any] = {}
    with open_fakes(config, run_dir, clips, first, make_learner=make_learner) as fakes:
        session, engines, learner, metrics = fakes
        assert isinstance(learner, ChainLearner)
        engines.write = write
        learner.updates_left = 10**9 if updates is None else updates
        memory: Any = FakeMemory()
        run_dir.adopt(session.attempt)
        try:
            await run_each(session, todo, stage_run, memory)
            summary = summarise_run(config, run_dir)
            write_json(run_dir.summary, summary)
        except* Killed:
            assert updates is not None
    return Attempt(engines=engines, learner=learner, metrics=metrics, summary=summary)


def groups_of(run_dir: RunDir, name: str) -> list[TraceGroup]:
    """Archived groups of a stage."""
    groups = read_groups(run_dir.archive)
    return [group for group in groups if group.group_id.startswith(f"{name}/")]


def names_of_versions(*attempts: Attempt) -> dict[PolicyVersion, set[str]]:
    """Version -> names of the weights that engines held as it."""
    named: dict[PolicyVersion, set[str]] = {}
    for attempt in attempts:
        for version, weights in attempt.engines.held:
            named.setdefault(version, set()).add(weights)
    return named


def result(run_dir: RunDir, stage: str) -> dict[str, Any]:
    """What a stage left."""
    found = run_dir.result(stage)
    assert found is not None, f"{stage} has not finished"
    return json.loads(json.dumps(found))
