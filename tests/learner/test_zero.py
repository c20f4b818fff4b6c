"""The same batch gives the same gradient over any ranks, ZeRO stages and splits."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learner.config import GrpoLossConfig, OptimConfig
from learner.model.policy import Policy
from learner.model.trained_parts import Part, freeze
from learner.objective.loss import LossInputs, grpo_loss, supervised_loss
from learner.shared_prefix.batch import make_batch
from learner.shared_prefix.rows import Row, as_filler, with_ref_logprobs
from tests.learner.builders import RandomClips, make_row
from tests.learner.rank_actors import COUNTS, LENGTHS, ROWS, SGD, UNEVEN, Ranks
from tests.tiny_models import write_tiny_model
from video.positions import PositionRule
from wire.weights import split_by_size

pytestmark = pytest.mark.ray

NUM_TOKENS = COUNTS.num_tokens
ADAMW = OptimConfig(learning_rate=1e-3)
STAGES = [0, 1, 2, 3]
FILLER = (ROWS, [as_filler(ROWS[1])])


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


@pytest.fixture(scope="module")
def true_gradient(model_dir: Path) -> dict[str, dict[str, np.ndarray]]:
    return autograds(model_dir, ROWS, freeze_vision_tower=True)


def autograds(
    model_dir: Path, rows: Sequence[Row], *, freeze_vision_tower: bool
) -> dict[str, dict[str, np.ndarray]]:
    """By autograd over the whole batch at once, without DeepSpeed; per objective."""
    policy = Policy.load(model_dir, "float32")
    freeze(policy, [Part.MERGER, Part.VISION_TOWER] if freeze_vision_tower else [])
    clips, rule = RandomClips(), PositionRule.load(model_dir)
    batch = make_batch(rows, lambda row: clips.load(row.prompt.clip_key, "", ""), rule)
    found = {}
    for objective in ("grpo", "supervised"):
        policy.zero_grad()
        logp = policy(batch).logp
        if objective == "supervised":
            output = supervised_loss(logp, batch.advantage, batch.mask, NUM_TOKENS)
        else:
            inputs = LossInputs(
                logp=logp,
                logp_old=logp.detach(),
                logp_rollout=batch.logp_rollout,
                advantage=batch.advantage,
                mask=batch.mask,
                lengths=batch.lengths,
            )
            output = grpo_loss(inputs, COUNTS, GrpoLossConfig())
        output.loss.backward()
        found[objective] = {
            name: np.zeros(tuple(p.shape), np.float32) if p.grad is None else p.grad.numpy().copy()
            for name, p in policy.vlm.named_parameters()
        }
    return found


def norm(tensors: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(t.astype(np.float64) ** 2) for t in tensors.values())))


def difference(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Norm of the difference over the norm."""
    assert found.keys() == expected.keys()
    return norm({name: found[name] - expected[name] for name in found}) / norm(expected)


def gradient_of(ranks: Ranks, split: Sequence[list[Row]], objective: str) -> tuple[Any, Any]:
    """Gradient (from rank 0) and metrics (equal on all ranks)."""
    found = ranks.each("gradient", [(hand,) for hand in split], COUNTS, objective, 4.0)
    for _, metrics in found[1:]:
        assert metrics == pytest.approx(found[0][1], rel=1e-6)
    return found[0]


def test_one_rank_has_autograds_gradient(solo: Ranks, model_dir: Path, true_gradient: dict):
    for max_tokens, objective in ((10_000, "grpo"), (40, "supervised")):
        solo.start(model_dir, SGD, zero_stage=0, max_tokens_per_batch=max_tokens)
        gradient, metrics = gradient_of(solo, [ROWS], objective)
        expected = true_gradient[objective]
        assert difference(gradient, expected) < 1e-5
        assert metrics["grad_norm"] == pytest.approx(norm(expected), rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_with_unequal_rows_have_the_same_gradient(
    pair: Ranks, model_dir: Path, true_gradient: dict, stage: int
):
    pair.start(model_dir, SGD, zero_stage=stage, max_tokens_per_batch=40)
    gradient, metrics = gradient_of(pair, UNEVEN, "grpo")
    expected = true_gradient["grpo"]
    found = difference(gradient, expected)
    print(f"ZeRO {stage}, grpo, 5 rows and 1: {found:.2e}")  # noqa: T201
    assert found < 1e-5
    assert metrics["grad_norm"] == pytest.approx(norm(expected), rel=1e-5)
    assert all(not gradient[name].any() for name in gradient if ".visual." in name)
    # the same stage goes on: NaN and infinity change nothing
    poisoned = pair.each("poisoned_step", [(hand,) for hand in UNEVEN], COUNTS)
    assert poisoned == [(True, 1.0)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_kl_to_the_reference_and_entropy_have_autograds_gradient(
    pair: Ranks, model_dir: Path, stage: int
):
    """The reference stays what the stage started from while the policy moves away."""
    loss = GrpoLossConfig(
        kl_loss_coef=0.7, kl_loss_type="k2", entropy_coeff=0.3, loss_agg_mode="seq-mean-token-mean"
    )
    pair.start(model_dir, SGD, zero_stage=stage, max_tokens_per_batch=40, loss=loss)
    hands = [(hand,) for hand in UNEVEN]
    at_start = pair.each("call", [("logprobs", hand) for hand in UNEVEN])
    pair.each("train", hands, COUNTS, "supervised", (0.5,))
    reference = pair.each("call", [("ref_logprobs", hand) for hand in UNEVEN])
    now = pair.each("call", [("logprobs", hand) for hand in UNEVEN])
    for theirs, then, moved in zip(reference, at_start, now, strict=True):
        assert flat(theirs) == pytest.approx(flat(then), abs=1e-5)
        assert flat(moved) != pytest.approx(flat(then), abs=1e-3)
    rows = [with_ref_logprobs(hand, own) for hand, own in zip(UNEVEN, reference, strict=True)]
    weights = pair.all("weights")[0]
    gradient, metrics = gradient_of(pair, rows, "grpo")
    policy = Policy.load(model_dir, "float32")
    freeze(policy, [Part.MERGER, Part.VISION_TOWER])
    policy.vlm.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()}, strict=False)
    clips, rule = RandomClips(), PositionRule.load(model_dir)
    every = [row for hand in rows for row in hand]
    batch = make_batch(every, lambda row: clips.load(row.prompt.clip_key, "", ""), rule)
    scores = policy(batch)
    inputs = LossInputs(
        logp=scores.logp,
        entropy=scores.entropy,
        logp_old=batch.logp_old,
        logp_rollout=batch.logp_rollout,
        logp_ref=batch.logp_ref,
        advantage=batch.advantage,
        mask=batch.mask,
        lengths=batch.lengths,
    )
    grpo_loss(inputs, COUNTS, loss).loss.backward()
    expected = {
        name: np.zeros(tuple(p.shape), np.float32) if p.grad is None else p.grad.numpy()
        for name, p in policy.vlm.named_parameters()
    }
    assert difference(gradient, expected) < 2e-5
    assert metrics["kl_ref"] > 0


def flat(logprobs: list[list[list[float]]]) -> list[float]:
    return [value for row in logprobs for response in row for value in response]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "shared", "max_tokens"), [(3, True, 20), (0, False, 40)])
def test_split_groups_and_repeated_prompts_have_the_same_gradient(
    pair: Ranks, model_dir: Path, true_gradient: dict, stage: int, shared: bool, max_tokens: int
):
    config = {"shared_prefix": shared, "max_tokens_per_batch": max_tokens}
    pair.start(model_dir, SGD, zero_stage=stage, **config)
    gradient, metrics = gradient_of(pair, UNEVEN, "grpo")
    assert difference(gradient, true_gradient["grpo"]) < 1e-5
    assert metrics["shared_prefix/used"] == shared
    assert ("shared_prefix/self_check" in metrics) == shared
    assert metrics.get("shared_prefix/self_check", 0.0) < 1e-5


@pytest.mark.slow
def test_a_shared_prefix_that_is_wrong_on_one_rank_is_left_by_all(
    ray_session: None, model_dir: Path, true_gradient: dict
):
    ranks = Ranks(2)  # of its own, because one of them is broken
    try:
        ranks.start(model_dir, SGD, zero_stage=3)
        ranks.one(1, "blind_responses")
        rows = (ROWS[:3], ROWS[3:])
        gradient, metrics = gradient_of(ranks, rows, "grpo")
        assert metrics["shared_prefix/used"] == 0
        assert metrics["shared_prefix/self_check"] > 1e-3
        assert difference(gradient, true_gradient["grpo"]) < 1e-5
    finally:
        ranks.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "checkpointing"), [(0, True), (1, True), (2, True), (3, False), (3, True)]
)
def test_qwen3_and_its_tower_have_autograds_gradient(
    pair: Ranks, tmp_path: Path, stage: int, checkpointing: bool
):
    """Features of the tower enter layers of the text, whose forward pass runs twice then."""
    model_dir = write_tiny_model(tmp_path, "qwen3_vl")
    rows = [make_row(seed, sizes, model_type="qwen3_vl") for seed, sizes in enumerate(LENGTHS)]
    expected = autograds(model_dir, rows, freeze_vision_tower=False)["grpo"]
    config = {"freeze_vision_tower": False, "gradient_checkpointing": checkpointing}
    pair.start(model_dir, SGD, zero_stage=stage, max_tokens_per_batch=80, **config)
    gradient, _ = gradient_of(pair, (rows[:5], rows[5:]), "grpo")
    assert difference(gradient, expected) < 1e-5


@pytest.mark.parametrize("stage", STAGES)
def test_a_filler_counts_nothing_and_clipping_is_by_the_true_norm(
    pair: Ranks, model_dir: Path, true_gradient: dict, stage: int
):
    expected = true_gradient["supervised"]
    limit = norm(expected) / 3
    clipped = OptimConfig(kind="sgd", grad_clip=limit)
    pair.start(model_dir, clipped, zero_stage=stage, max_tokens_per_batch=60)
    gradient, metrics = gradient_of(pair, FILLER, "supervised")
    assert metrics["grad_norm"] == pytest.approx(3 * limit, rel=1e-5)
    found = difference(gradient, {name: value / 3 for name, value in expected.items()})
    print(f"ZeRO {stage}, supervised, clipped, rank 1 a filler: {found:.2e}")  # noqa: T201
    assert found < 2e-5  # DeepSpeed adds 1e-6 to the norm it divides by


@pytest.mark.parametrize("stage", [2, 3])
def test_weights_come_whole_by_buckets_one_collective_call_each(
    pair: Ranks, model_dir: Path, stage: int
):
    pair.start(model_dir, SGD, zero_stage=stage)
    expected = pair.train(0.1)
    limit = 300_000
    sizes = [array.nbytes for array in expected.values()]
    buckets = [len(part) for part in split_by_size(sizes, lambda size: size, limit)]
    assert len(sizes) > 3 * len(buckets) > 6
    for weights, gathers in pair.all("weights_by_bucket", limit):
        assert list(weights) == list(expected)
        assert all(np.array_equal(weights[name], expected[name]) for name in expected)
        assert gathers == (buckets if stage == 3 else [])


@pytest.mark.parametrize(("stage", "dtype"), [(0, "bfloat16"), (3, "float32")])
def test_an_export_opens_in_transformers_with_equal_weights(
    pair: Ranks, model_dir: Path, tmp_path: Path, stage: int, dtype: str
):
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    pair.start(model_dir, ADAMW, zero_stage=stage, dtype=dtype)
    expected = pair.train(1e-2)
    pair.all("call", "export", str(tmp_path / "exported"))
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path / "exported", dtype="auto", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype == getattr(torch, dtype)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    found = dict(model.named_parameters())
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[n].detach().float().numpy(), expected[n]) for n in expected)
    AutoProcessor.from_pretrained(tmp_path / "exported", local_files_only=True)


def test_bfloat16_keeps_updates_too_small_for_its_weights(solo: Ranks, model_dir: Path):
    solo.start(model_dir, OptimConfig(weight_decay=0), zero_stage=0, dtype="bfloat16")
    start = solo.all("weights")[0]

    def moved(weights: dict[str, np.ndarray]) -> float:
        text = [name for name in weights if "language_model" in name]
        return float(np.mean([np.mean(weights[name] != start[name]) for name in text]))

    once = moved(solo.train(1e-4, split=[ROWS]))
    assert 0 < moved(solo.train(*[1e-4] * 5, split=[ROWS])) / once > 1.5


@pytest.mark.parametrize(("stage", "dtype"), [(0, "bfloat16"), (1, "float32"), (3, "float32")])
def test_the_first_adamw_update_is_plain_adamws(
    solo: Ranks, model_dir: Path, stage: int, dtype: str
):
    solo.start(model_dir, OptimConfig(weight_decay=0), zero_stage=stage, dtype=dtype)
    before = solo.all("weights")[0]
    after = solo.train(0.125, split=[ROWS])
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    steps = np.abs(after[name] - before[name])
    assert np.median(steps) == pytest.approx(0.125, rel=1e-2)  # the rate times the gradient's sign


@pytest.mark.parametrize("stage", STAGES)
def test_a_new_stage_frees_the_last_and_adds_no_process_group(
    pair: Ranks, model_dir: Path, stage: int
):
    pair.start(model_dir, SGD, zero_stage=stage)
    pair.train(0.1)
    pair.all("begin_again", model_dir)
    for num_bytes, num_groups in pair.all("begin_again", model_dir):
        assert num_bytes < 10_000  # of 5 million; ZeRO-3 keeps the rotary buffers
        assert num_groups == 0


@pytest.fixture(scope="module")
def deep_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, in float32, whose largest parameter is a twentieth of it."""
    folder = tmp_path_factory.mktemp("deep")
    return write_tiny_model(folder, "qwen2_5_vl", num_hidden_layers=12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rank_never_holds_more_of_the_model_than_its_shards_and_one_parameter(
    solo: Ranks, pair: Ranks, deep_dir: Path, dtype: str
):
    """Each would hold the whole model, on host and device, before the first shard is cut."""
    for ranks in (solo, pair):
        ranks.start(deep_dir, SGD, zero_stage=3, dtype=dtype)
        most = max(ranks.all("peak_of_begin", deep_dir))
        # a parameter is held twice, as file and as training have it, while it is broadcast and cut
        assert 1 / ranks.num_ranks <= most < 1 / ranks.num_ranks + 0.3
