from pathlib import Path
from typing import Any

import pytest

from cluster.run_dir import RunDir
from learner.config import LoraConfig
from learner.export import AdapterFacts
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


LORA = LoraConfig(rank=4)


class AdaptedLearner(ChainLearner):
    """Says an adapter's facts where it trains one; ``digests``: of the base, call by call."""

    digests = ("same", "same")

    async def adapter_facts(self) -> AdapterFacts | None:  # type: ignore[override]
        if self.loras[-1] is None:
            return None
        self.asked = getattr(self, "asked", 0) + 1
        digest = self.digests[self.asked - 1]
        return AdapterFacts(num_trained=10, num_frozen=990, base_digest=digest)


class SpoiledLearner(AdaptedLearner):
    digests = ("before", "after")


async def adapted(path: Path, make_learner: type[ChainLearner], **coldstart: Any) -> dict[str, Any]:
    values = {"epochs": 1, "batch_size": 4, **coldstart}
    config = make_config(coldstart=values)
    run_dir = RunDir.open(path / "run", config, resume=False, overwrite=False)
    with open_fakes(
        config, run_dir, make_samples(), ("base-model", 0), make_learner=make_learner
    ) as (session, _, _, _):
        done = await run_one(session, "coldstart")
        run_dir.close()
        return done


async def test_a_stage_that_trains_an_adapter_says_its_share_and_that_the_base_stayed(
    tmp_path: Path,
):
    done = await adapted(tmp_path, AdaptedLearner, lora=LORA.model_dump())
    assert done["lora"] == {
        "num_trained": 10,
        "num_frozen": 990,
        "trained_frac": 0.01,
        "base_digest_before": "same",
        "base_digest_after": "same",
    }


async def test_full_training_says_nothing_of_an_adapter(tmp_path: Path):
    assert "lora" not in await adapted(tmp_path, AdaptedLearner)


async def test_an_adapter_whose_base_has_changed_ends_the_run(tmp_path: Path):
    with pytest.raises(RuntimeError, match="changed the model itself"):
        await adapted(tmp_path, SpoiledLearner, lora=LORA.model_dump())
