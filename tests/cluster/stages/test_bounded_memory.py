"""However many clips a stage measures, calibrates on or learns from, only some of their groups and
rows are in memory at a time; engines and learner are fakes."""

import gc
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from cluster.controls.arms import arm_run
from cluster.run import run_each
from cluster.stages import label_codes, trace_writer
from cluster.stages.evaluation import evaluate_policy
from learner.shared_prefix.rows import Row
from rollout.engine import Sampling
from rollout.worker import Rollout
from tests.cluster.session_fakes import (
    FakeEngines,
    FakeMemory,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
    run_one,
)
from tests.cluster.stages.chain_fakes import ChainLearner, two_of_three
from wire.types import Sample, TraceGroup

NUM, BLOCK, BATCH, IN_FLIGHT = 100, 16, 8, 4
MOST_GROUPS, MOST_ROWS = IN_FLIGHT + 4, 2 * BLOCK + 4


class Seen:
    """The most groups and rows that were in memory when somebody looked, beside those that other
    tests had left."""

    groups = rows = looks = 0
    left: ClassVar[tuple[int, int]] = (0, 0)

    @classmethod
    def begin(cls) -> None:
        gc.collect()
        cls.groups = cls.rows = cls.looks = 0
        cls.left = cls._count()

    @classmethod
    def look(cls) -> None:
        cls.looks += 1
        if cls.looks % 30 == 0:
            groups, rows = cls._count()
            cls.groups = max(cls.groups, groups - cls.left[0])
            cls.rows = max(cls.rows, rows - cls.left[1])

    @staticmethod
    def _count() -> tuple[int, int]:
        kinds = [type(one) for one in gc.get_objects()]
        return kinds.count(TraceGroup), kinds.count(Row)


class Engines(FakeEngines):
    async def answer(
        self, sample: Sample, sampling: Sampling, upcoming: str | None = None, ask: Any = "trace"
    ) -> Rollout:
        Seen.look()
        return await super().answer(sample, sampling, upcoming, ask)


class Learner(ChainLearner):
    """Keeps no row that it is given."""

    async def train_step(
        self, rows: Sequence[Row], objective: str, learning_rate: float
    ) -> dict[str, float]:
        Seen.look()
        return {"nll": 0.0}

    async def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        Seen.look()
        return [[[-1.0] * len(r.token_ids) for r in row.responses] for row in rows]

    async def feature_blocks(self, rows: Iterable[Row]) -> AsyncIterator[np.ndarray]:
        async for block in super().feature_blocks(rows):
            Seen.look()
            yield block


async def run(path: Path, patch: pytest.MonkeyPatch, stage: str) -> None:
    patch.setattr(label_codes, "_AT_ONCE", BLOCK)
    patch.setattr(trace_writer, "_GROUPS_PER_FILE", 32)
    config = make_config(
        rollout={"group_size": 2, "dtype": "float32", "max_concurrency": IN_FLIGHT // 2},
        calibrate={"num_traces": 2, "epochs": 1, "batch_size": BATCH, "methods": ["verdict"]}
        | ({"methods": ["head"]} if stage == "head" else {}),
        coldstart={"epochs": 1, "batch_size": BATCH},
        controls={"num_votes": 2},
    )
    run_dir = make_run_dir(path, config, "base", "coldstart", "grpo")
    samples = make_samples(train=NUM, cal=NUM, test=NUM)
    start = ("grpo", config.chain.last_step("grpo"))
    with open_fakes(config, run_dir, samples, start, Engines, Learner) as (session, engines, *_):
        engines.write = two_of_three
        Seen.begin()
        if stage in ("calibrated", "head"):
            await run_one(session, "calibrated")
        elif stage == "coldstart":
            await run_one(session, "coldstart")
        else:
            await evaluate_policy(session, "grpo", session.data.of(config.evaluate.split), 0.01)
        if stage in ("vote", "policy_probability"):
            memory: Any = FakeMemory()
            await run_each(session, [stage], arm_run, memory)
    run_dir.close()


@pytest.mark.parametrize(
    "stage",
    ["calibrated", "head", "coldstart", "evaluation", "vote", "policy_probability"],
)
async def test_no_stage_holds_all_its_groups_or_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
):
    monkeypatch.setattr("cluster.controls.policy_arms._ROWS_AT_ONCE", BLOCK)
    await run(tmp_path, monkeypatch, stage)
    assert Seen.looks >= 30 or stage == "coldstart"
    assert Seen.groups <= MOST_GROUPS
    assert Seen.rows <= MOST_ROWS
    if stage == "calibrated":
        files = list(tmp_path.rglob("attempt=*.parquet"))
        assert len(files) >= NUM // 32, "the archive's journal is bounded, too"
