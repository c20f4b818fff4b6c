from pathlib import Path
from typing import Any

import pytest

from cluster.run_dir import RunDir
from learner.shared_prefix.largest_batch import LargestBatch
from tests.cluster.session_fakes import FakeLearner, make_config, make_samples, open_fakes, run_one
from tests.cluster.stages.chain_fakes import ChainLearner, Killed

EPOCHS, UPDATES = 3, 12  # 8 clips in batches of 2


class TryingLearner(ChainLearner):
    """Keeps the batches that it was to try."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.tried: list[LargestBatch] = []

    async def preflight(self, largest: LargestBatch, refers: bool) -> float:
        self.tried.append(largest)
        return 1.0


async def attempt(path: Path, *, updates: int, resume: bool) -> tuple[FakeLearner, int]:
    """Train the cold start, killed at the update after so many. Returns the learner, and the
    number of batches that were tried before."""
    config = make_config()
    run_dir = RunDir.open(path / "run", config, resume=resume, overwrite=False)
    with open_fakes(
        config, run_dir, make_samples(), ("base-model", 0), make_learner=TryingLearner
    ) as (session, _, learner, _):
        assert isinstance(learner, TryingLearner)
        learner.updates_left = updates
        try:
            await run_one(session, "coldstart")
        except Killed:
            pass
        finally:
            run_dir.close()
        return learner, len(learner.tried)


@pytest.mark.parametrize("done", [4, 8])
async def test_the_largest_batch_is_tried_again_on_resume_while_updates_are_left(
    tmp_path: Path, done: int
):
    """More updates than epochs are done by then."""
    assert done > EPOCHS
    assert (await attempt(tmp_path, updates=done, resume=False))[1] == 1
    learner, tried = await attempt(tmp_path, updates=UPDATES, resume=True)
    assert len(learner.steps) == UPDATES - done
    assert tried == 1


async def test_nothing_is_tried_where_nothing_is_left_to_train(tmp_path: Path):
    await attempt(tmp_path, updates=UPDATES, resume=False)
    learner, tried = await attempt(tmp_path, updates=UPDATES, resume=True)
    assert (learner.steps, tried) == ([], 0)
