"""What a checkpoint brings back: every bit to the same ranks, the same training to any others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learner.config import OptimConfig
from tests.learner.rank_actors import COUNTS, ROWS, UNEVEN, Ranks
from wire.errors import CheckpointDamaged, ConfigError

pytestmark = pytest.mark.ray

ADAMW = OptimConfig(learning_rate=1e-3)
TAG = "step-000002"
NOTES = {"loop.json": "{}"}


def figures(step: dict[str, float]) -> dict[str, float]:
    """Without what an attempt measures of its own first batch."""
    return {name: value for name, value in step.items() if "self_check" not in name}


@pytest.fixture(scope="module")
def solo(ray_session: None) -> Iterator[Ranks]:
    ranks = Ranks(1)
    yield ranks
    ranks.stop()


@pytest.fixture(scope="module")
def pair(ray_session: None) -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.stop()


def start(ranks: Ranks, model_dir: Path, stage: int, **config: Any) -> None:
    ranks.start(model_dir, ADAMW, zero_stage=stage, max_tokens_per_batch=10_000, **config)


def steps(ranks: Ranks, count: int) -> list[dict[str, float]]:
    """Metrics of this many updates."""
    split = UNEVEN if ranks.num_ranks == 2 else (ROWS,)
    found = ranks.each("train", [(h,) for h in split], COUNTS, "supervised", [1e-3] * count)[0]
    # without what is of a process's first batch
    return [{name: v for name, v in row.items() if "self_check" not in name} for row in found]


def weights(ranks: Ranks) -> dict[str, np.ndarray]:
    return ranks.all("weights")[0]


def gap(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(found[name] - expected[name]).max()) for name in expected)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (0, "bfloat16"), (2, "float32"),
                                              (2, "bfloat16"), (3, "float32")])  # fmt: skip
def test_the_same_ranks_go_on_as_if_nothing_had_happened(
    pair: Ranks, model_dir: Path, tmp_path: Path, stage: int, dtype: str
):
    start(pair, model_dir, stage, dtype=dtype)
    steps(pair, 2)
    pair.all("call", "save", str(tmp_path), TAG, NOTES)
    draws = pair.all("draw")
    expected = steps(pair, 2), weights(pair)
    start(pair, model_dir, stage, dtype=dtype)
    pair.all("call", "load", str(tmp_path), TAG)
    assert pair.all("draw") == draws
    found = steps(pair, 2), weights(pair)
    assert [figures(step) for step in found[0]] == [figures(step) for step in expected[0]]
    assert gap(found[1], expected[1]) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == [TAG]
    assert {p.suffix for p in (tmp_path / TAG).iterdir()} == {".safetensors", ".json"}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_an_update_that_is_left_out_changes_no_byte_of_weights_and_optimiser(
    pair: Ranks, model_dir: Path, tmp_path: Path, stage: int, dtype: str
):
    start(pair, model_dir, stage, dtype=dtype)
    steps(pair, 2)
    tags = ("step-000002", "step-000003")
    pair.all("call", "save", str(tmp_path), tags[0], NOTES)
    assert pair.each("poisoned_step", [(hand,) for hand in UNEVEN], COUNTS) == [(True, 1.0)] * 2
    pair.all("call", "save", str(tmp_path), tags[1], NOTES)
    before, after = (
        {file.name: file.read_bytes() for file in (tmp_path / tag).glob("rank-*.safetensors")}
        for tag in tags
    )
    assert before
    assert after == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [((1, 0), (2, 2)), ((1, 2), (2, 3)), ((1, 3), (2, 0)),
     ((2, 0), (1, 3)), ((2, 2), (1, 2)), ((2, 3), (1, 0)), ((2, 1), (2, 3))],
)  # fmt: skip
def test_other_ranks_and_another_zero_stage_go_on_with_the_same_training(
    solo: Ranks,
    pair: Ranks,
    model_dir: Path,
    tmp_path: Path,
    before: tuple[int, int],
    after: tuple[int, int],
):
    """(ranks, ZeRO stage) of who writes and who reads."""
    pool = {1: solo, 2: pair}
    writer, reader = pool[before[0]], pool[after[0]]
    start(writer, model_dir, before[1])
    steps(writer, 2)
    saved = weights(writer)
    writer.all("call", "save", str(tmp_path), TAG, NOTES)
    expected = steps(writer, 2), weights(writer)
    start(reader, model_dir, after[1])
    reader.all("call", "load", str(tmp_path), TAG)
    assert gap(weights(reader), saved) == 0
    found = steps(reader, 2), weights(reader)
    for mine, theirs in zip(found[0], expected[0], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)  # stages round a norm differently, by 4e-6
    worst = gap(found[1], expected[1])
    print(f"{before} -> {after}: weights differ by {worst:.1e}")  # noqa: T201
    assert worst < 5e-6  # a two-hundredth of one update; up to 1.5e-6 were seen


def test_a_damaged_checkpoint_is_refused_by_all_ranks_and_changes_nothing(
    pair: Ranks, model_dir: Path, tmp_path: Path
):
    start(pair, model_dir, 0)
    steps(pair, 1)
    pair.all("call", "save", str(tmp_path), TAG, NOTES)
    state = tmp_path / TAG / "rank-00001-000.safetensors"
    raw = bytearray(state.read_bytes())
    raw[len(raw) // 2] ^= 1
    state.write_bytes(raw)
    steps(pair, 1)
    before = weights(pair)
    with pytest.raises(CheckpointDamaged, match=f"{state.name} has other bytes"):
        pair.all("call", "load", str(tmp_path), TAG)
    assert gap(weights(pair), before) == 0


def test_a_checkpoint_of_other_parameters_is_refused(solo: Ranks, model_dir: Path, tmp_path: Path):
    start(solo, model_dir, 0)
    steps(solo, 1)
    solo.all("call", "save", str(tmp_path), TAG, NOTES)
    start(solo, model_dir, 0, freeze_vision_tower=False)
    with pytest.raises(ConfigError, match=r"other trained parameters, .*visual"):
        solo.all("call", "load", str(tmp_path), TAG)
