"""A run and a reward function that fails: masked, archived and counted while it is rare, the end of
the run with the place in the user's code when it is not. Engines and learner are fakes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.stages.grpo.stage import train_grpo
from tests.cluster.session_fakes import (
    FIRST_STEP,
    grpo_run,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
)
from wire.archive.archive import read_groups
from wire.errors import TooManyFailures
from wire.types import Failure, Purpose, Sample

SOURCE = """
def mine(solution_str, ground_truth):
    rubric = {"right": 1.0}
    return rubric["wrong" if "fails" in solution_str else "right"] + len(solution_str) % 2
"""


async def train(path: Path, num_failing: int) -> dict[str, float]:
    """Two steps of groups with so many traces that the function fails on; the last figures."""

    def write(weights: str, sample: Sample, index: int) -> str:
        thought = "fails" if index < num_failing else "x" * index
        return f"<think>{thought}</think><answer>{sample.label}</answer>"

    (path / "mine.py").write_text(SOURCE)
    terms = [{"function": "accuracy"}, {"function": f"{path}/mine.py:mine"}]
    grpo = {"num_steps": 2, "groups_per_step": 2, "groups_per_update": 2}
    reward = {"terms": terms, "max_failure_frac": 0.25}
    config = make_config(grpo=grpo, reward=reward, rollout={"group_size": 4, "dtype": "float32"})
    run_dir, samples = make_run_dir(path, config), make_samples()
    with open_fakes(config, run_dir, samples, ("base", FIRST_STEP)) as opened:
        session, engines, _, metrics = opened
        engines.write = write
        try:
            await train_grpo(session, grpo_run(session))
        finally:
            await session.scorer.close()
            run_dir.close()
    return metrics.values[-1]


def failures(path: Path) -> Iterator[tuple[str, Failure]]:
    for group in read_groups(path / "run/archive", Purpose.TRAIN):
        for trace in group.traces:
            if isinstance(trace.outcome, Failure):
                yield group.sample.id, trace.outcome


def leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


async def test_rare_failures_are_told_counted_and_archived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    figures = await train(tmp_path, num_failing=1)
    assert figures["reward/failed_frac"] == figures["reward/mine/failed_frac"] == 0.25
    assert figures["reward/accuracy/mean"] == 1.0
    assert figures["reward/mean"] > 1.0, "no failure is a zero"
    found = list(failures(tmp_path))
    assert found
    for _, failure in found:
        assert failure.culprit == "mine"
        assert "KeyError('wrong') at" in failure.reason
    told = [record for record in caplog.records if "reward mine failed" in record.getMessage()]
    assert len(told) == 1
    assert 'return rubric["wrong"' in told[0].getMessage()


async def test_too_many_end_the_run_with_the_first_traceback_and_its_sample(tmp_path: Path):
    with pytest.raises(BaseException) as caught:  # noqa: PT011  perhaps in a group of the loops'
        await train(tmp_path, num_failing=2)
    (error,) = [e for e in leaves(caught.value) if isinstance(e, TooManyFailures)]
    assert "scoring failed for 4 of 8 traces" in str(error)
    assert "mine (4x): KeyError('wrong')" in str(error)
    samples = {sample_id for sample_id, _ in failures(tmp_path)}
    assert any(f"mine on sample {sample_id}:" in str(error) for sample_id in samples)
    assert 'mine.py", line 4, in mine' in str(error)
