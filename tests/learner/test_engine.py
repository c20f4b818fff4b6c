"""Every ZeRO stage, with and without offload, trains alike: unequal ranks, text among the clips,
parts at rates of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from learner.config import OptimConfig
from learner.model.trained_parts import Part, part_of
from learner.shared_prefix.rows import Response, Row, StepCounts
from tests.learner.builders import make_prompt, make_response, make_row, text_row
from tests.learner.rank_actors import SGD, Ranks
from tests.tiny_models import write_tiny_model
from wire.types import Prompt

pytestmark = pytest.mark.ray

NUM_STEPS = 20
OPTIM = OptimConfig(
    learning_rate=1e-4,
    merger_learning_rate=2e-4,
    vision_learning_rate=5e-5,
    weight_decay=0.1,
    decay="cosine",
    min_lr_frac=0.1,
    warmup_steps=3,
)
RATES = [OPTIM.learning_rate_at(step, NUM_STEPS) for step in range(NUM_STEPS)]
TRAINS_ALL = {"freeze_vision_tower": False, "max_tokens_per_batch": 30}
SMALL_BUCKET = 50_000  # a tiny model fills dozens: their borders must be the same on all ranks


@pytest.fixture(scope="module")
def pair(ray_session: None) -> Iterator[Ranks]:
    ranks = Ranks(2)
    ranks.all("reduce_in_buckets_of", SMALL_BUCKET)
    yield ranks
    ranks.stop()


def taught(row: Row) -> Row:
    """Weight 1 on every response, so that the loss goes down."""
    return replace(row, responses=tuple(replace(r, advantage=1.0) for r in row.responses))


def clip_rows(model_type: str, count: int) -> list[Row]:
    sizes = [(3, 5), (2,), (7, 1), (4,)][:count]
    return [taught(make_row(i, n, model_type=model_type)) for i, n in enumerate(sizes)]


def losses(
    ranks: Ranks, hands: Sequence[list[Row]], rates: Sequence[float]
) -> tuple[list[float], list[dict[str, float]]]:
    """Mean loss of each step, the same on all ranks, and rank 0's metrics."""
    counts = StepCounts.of([row for hand in hands for row in hand])
    found = ranks.each("train", [(hand,) for hand in hands], counts, "supervised", rates)
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-6)
    return [metrics["nll"] for metrics in found[0]], found[0]


def test_a_rank_of_text_alone_keeps_zero_3_in_step_and_the_tower_learns(
    pair: Ranks, model_dir: Path
):
    """Would wait for its peer until the deadline, or add up gradients of different weights."""
    hands = [clip_rows("qwen2_5_vl", 2), [taught(text_row(seed)) for seed in range(3)]]
    found = {}
    for stage in (0, 3):
        pair.start(model_dir, OPTIM, zero_stage=stage, **TRAINS_ALL)
        before = pair.all("weights")[0]
        found[stage], metrics = losses(pair, hands, RATES[:3])
        after = pair.all("weights")[0]
        assert any(".visual." in n and not np.array_equal(before[n], after[n]) for n in before)
        assert metrics[-1]["learning_rate/merger"] == pytest.approx(2 * RATES[2])
    assert found[3] == pytest.approx(found[0], rel=1e-5)


def test_each_part_moves_as_far_as_its_own_rate_in_one_training_after_another(
    pair: Ranks, model_dir: Path
):
    """Stages I and II of RB-FT in one learner, each with rates of its own: plain gradient descent
    from the same weights moves a part in proportion to its rate."""
    plain = OptimConfig(kind="sgd", learning_rate=1e-2, weight_decay=0.0, grad_clip=0.0)
    stages = [
        plain.model_copy(update={"merger_learning_rate": 1e-1, "vision_learning_rate": 2e-2}),
        plain.model_copy(update={"learning_rate": 1e-1, "vision_learning_rate": 2e-2}),
    ]
    hands = [clip_rows("qwen2_5_vl", 2), clip_rows("qwen2_5_vl", 2)]
    moved = []
    for optim in [plain, *stages]:
        pair.start(model_dir, optim, zero_stage=2, **TRAINS_ALL)
        before = pair.all("weights")[0]
        losses(pair, hands, [optim.learning_rate])
        after = pair.all("weights")[0]
        far = dict.fromkeys(Part, 0.0)
        for name, old in before.items():
            far[part_of(name)] += float(np.abs(after[name] - old).sum())
        moved.append(far)
    alike, *others = moved
    assert all(distance > 0 for distance in alike.values())
    for far, rates in zip(others, [(1, 10, 2), (10, 10, 2)], strict=True):
        times = dict(zip((Part.LANGUAGE_MODEL, Part.MERGER, Part.VISION_TOWER), rates, strict=True))
        for part, rate in times.items():
            assert far[part] == pytest.approx(rate * alike[part], rel=0.02), part


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl"])
def test_all_stages_and_offloads_give_the_same_loss_over_20_steps(
    pair: Ranks, tmp_path: Path, model_type: str
):
    """Also the gradient's norm, with activations recomputed in some."""
    folder = write_tiny_model(tmp_path, model_type)
    texts = [taught(text_row(seed, (2, 3))) for seed in range(2)]
    clips = clip_rows(model_type, 4)
    hands = [[texts[0], *clips[:3]], [clips[3], texts[1]]]
    settings = [
        {"zero_stage": 0},
        {"zero_stage": 1, "gradient_checkpointing": True},
        {"zero_stage": 2},
        {"zero_stage": 3},
        {"zero_stage": 3, "gradient_checkpointing": True},
        {"zero_stage": 0, "offload_while_generating": True},
        {"zero_stage": 1, "offload_while_generating": True},
        {"zero_stage": 3, "offload_while_generating": True},
        {"zero_stage": 1, "offload": "optimizer"},
        {"zero_stage": 2, "offload": "optimizer"},
        {"zero_stage": 3, "offload": "optimizer_and_parameters"},
    ]
    expected: list[float] = []
    for setting in settings:
        pair.start(folder, OPTIM, **TRAINS_ALL, **setting)
        found, _ = losses(pair, hands, RATES)
        expected = expected or found
        worst = max(abs(a - b) / b for a, b in zip(found, expected, strict=True))
        print(f"{model_type} {setting}: {worst:.1e}")  # noqa: T201
        assert found == pytest.approx(expected, rel=1e-5), setting
    assert expected[-1] < 0.9 * expected[0]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_each_part_moves_at_its_own_rate_and_a_frozen_one_not_at_all(
    pair: Ranks, model_dir: Path, stage: int
):
    """The first update of AdamW is the rate times the gradient's sign."""
    hands = [clip_rows("qwen2_5_vl", 3), clip_rows("qwen2_5_vl", 1)]
    optim = OPTIM.model_copy(update={"weight_decay": 0.0, "decay_norms": False})
    pair.start(model_dir, optim, zero_stage=stage, **TRAINS_ALL)
    assert moved(pair, hands) == pytest.approx(
        {Part.LANGUAGE_MODEL: 1e-2, Part.MERGER: 2e-2, Part.VISION_TOWER: 5e-3}, rel=1e-2
    )
    pair.start(model_dir, optim, zero_stage=stage, freeze_merger=False, freeze_language_model=True)
    found = moved(pair, hands)
    assert found.pop(Part.MERGER) == pytest.approx(2e-2, rel=1e-2)
    assert set(found.values()) == {0.0}


def moved(ranks: Ranks, hands: Sequence[list[Row]]) -> dict[Part, float]:
    """Median distance of a matrix's weights over one step at 0.01, per part."""
    before = ranks.all("weights")[0]
    losses(ranks, hands, [1e-2])
    after = ranks.all("weights")[0]
    steps: dict[Part, list[np.ndarray]] = {}
    for name, weight in before.items():
        if weight.ndim == 2 and "embed" not in name:
            steps.setdefault(part_of(name), []).append(np.abs(after[name] - weight).ravel())
    return {part: float(np.median(np.concatenate(found))) for part, found in steps.items()}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bfloat16_gradients_too_small_to_add_one_by_one_add_up(
    pair: Ranks, model_dir: Path, stage: int
):
    """100 micro-batches of a 1,000th each: a sum kept in bfloat16 would stay at the first."""
    prompt, response = make_prompt(0), make_response(0, 3, advantage=1.0)
    counts = StepCounts(3, 1)

    def norm(hands: Sequence[list[Row]]) -> float:
        hand = [(rows,) for rows in hands]
        return pair.each("train", hand, counts, "supervised", [0.0])[0][0]["grad_norm"]

    def row(weight: float) -> Row:
        return row_of(prompt, replace(response, advantage=weight))

    config = {"dtype": "bfloat16", "max_tokens_per_batch": 10}
    pair.start(model_dir, SGD, zero_stage=stage, **config)
    one = norm([[row(1.0)], [row(0.0)]])
    many = norm([[row(1.0)] + [row(1 / 1024)] * 100, [row(0.0)]])
    assert many / one == pytest.approx(1 + 100 / 1024, rel=0.01)
    poisoned = pair.each("poisoned_step", [([row(1.0)],), ([row(1.0)],)], counts)
    assert poisoned == [(True, 1.0)] * 2


def row_of(prompt: Prompt, response: Response) -> Row:
    return Row(prompt=prompt, video="0.mp4", responses=(response,))
