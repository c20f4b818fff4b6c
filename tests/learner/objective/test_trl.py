"""Our objectives beside TRL's own methods, called on a stand-in that holds just what they read.

Importing TRL takes half a minute, so all of this is slow.
"""

from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from learner.config import GrpoLossConfig
from learner.objective.advantage import group_advantages
from learner.objective.correction import rollout_correction
from learner.objective.credit import with_advantages
from learner.objective.loss import LossInputs, grpo_loss
from learner.shared_prefix.rows import StepCounts, grpo_rows, with_old_logprobs, with_ref_logprobs
from tests.groups import make_trace
from tests.learner.builders import make_group

pytestmark = pytest.mark.slow

LENGTHS = (4, 1, 3, 6, 2, 5)
LONGEST = 8
SHAPE = (len(LENGTHS), max(LENGTHS))
MASK = torch.tensor([[place < length for place in range(SHAPE[1])] for length in LENGTHS])


def draw(seed: int, spread: float, center: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return center + spread * torch.randn(SHAPE, generator=generator, dtype=torch.float64)


OLD = draw(0, 0.3, -2.0)
LOGP = OLD + draw(1, 0.4)
ROLLOUT = OLD + draw(2, 0.4)
REF = OLD + draw(3, 0.5)
ENTROPY = draw(4, 0.1, 1.5)
ADVANTAGE = torch.tensor([1.2, -0.7, 0.4, -1.5, 0.0, 0.9], dtype=torch.float64)


class Accelerator:
    """One process."""

    device = torch.device("cpu")
    num_processes, process_index, sync_gradients = 1, 0, True

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def reduce(self, values: torch.Tensor, reduction: str) -> torch.Tensor:
        return values


def trainer(**settings: Any) -> Any:
    """What TRL's methods read of a trainer; the model is a pair of tables."""
    args = SimpleNamespace(
        delta=settings.pop("delta", None),
        use_bias_correction_kl=False,
        steps_per_generation=1,
        gradient_accumulation_steps=1,
        per_device_train_batch_size=len(LENGTHS),
        gradient_checkpointing_kwargs=None,
    )
    logs: dict[str, Any] = defaultdict(list)
    logs["rewards"] = defaultdict(list)
    values: dict[str, Any] = {
        "args": args,
        "accelerator": Accelerator(),
        "model": SimpleNamespace(training=True, is_gradient_checkpointing=False),
        "loss_type": "dapo",
        "importance_sampling_level": "token",
        "epsilon_low": 0.2,
        "epsilon_high": 0.28,
        "beta": 0.0,
        "ref_model": "reference",
        "num_iterations": 1,
        "current_gradient_accumulation_steps": 1,
        "max_completion_length": LONGEST,
        "use_vllm": True,
        "vllm_importance_sampling_correction": True,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "aux_loss_enabled": False,
        "_entropy_bonus_enabled": False,
        "use_adaptive_entropy": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_logs": logs,
        "_pending_extra_logs": {},
        "_pending_metrics": {},
        "environment_factories": None,
        "environments": None,
        "tools": None,
        "pad_to_multiple_of": None,
        "mask_truncated_completions": False,
        "_tokenizer": SimpleNamespace(pad_token_id=0),
        "multi_objective_aggregation": "sum_then_normalize",
        "scale_rewards": "group",
        "reward_func_names": ["reward"],
        "reward_weights": torch.ones(1),
        "reward_clip_range": None,
        "normalize_advantages": False,
    }
    return SimpleNamespace(**values | settings)


def theirs(
    logp: torch.Tensor, entropy: torch.Tensor, weight: torch.Tensor, **settings: Any
) -> torch.Tensor:
    from trl.trainer.grpo_trainer import GRPOTrainer

    stand_in = trainer(**settings)
    stand_in._get_per_token_logps_and_entropies = lambda *_, **__: (logp, entropy, None)
    inputs = {
        "prompt_ids": torch.ones(len(LENGTHS), 1),
        "prompt_mask": torch.ones(len(LENGTHS), 1),
        "completion_ids": torch.ones(SHAPE),
        "completion_mask": MASK.long(),
        "advantages": ADVANTAGE,
        "old_per_token_logps": OLD,
        "ref_per_token_logps": REF,
        "importance_sampling_ratio": weight,
        "num_items_in_batch": MASK.sum(),
    }
    return GRPOTrainer._compute_loss(stand_in, stand_in.model, inputs)


def flat(table: torch.Tensor) -> torch.Tensor:
    return table[MASK]


def ours(logp: torch.Tensor, entropy: torch.Tensor, config: GrpoLossConfig) -> torch.Tensor:
    inputs = LossInputs(
        logp=flat(logp),
        entropy=flat(entropy),
        logp_old=flat(OLD),
        logp_rollout=flat(ROLLOUT),
        logp_ref=flat(REF),
        advantage=flat(ADVANTAGE[:, None].expand(SHAPE)),
        mask=torch.ones(int(MASK.sum()), dtype=torch.bool),
        lengths=LENGTHS,
    )
    return grpo_loss(inputs, StepCounts(int(MASK.sum()), len(LENGTHS), LONGEST), config).loss


GSPO = {"loss_mode": "gspo", "clip_ratio_low": 0.1, "clip_ratio_high": 0.15}
GSPO_TRL = {"importance_sampling_level": "sequence", "epsilon_low": 0.1, "epsilon_high": 0.15}
LOSSES = {
    "dapo, dual clip": ({}, {"delta": 3.0}),
    "grpo, dual clip": (
        {"loss_agg_mode": "seq-mean-token-mean"},
        {"delta": 3, "loss_type": "grpo"},
    ),
    "bnpo": ({"clip_ratio_c": 1e9}, {"loss_type": "bnpo"}),
    "dr_grpo": (
        {"loss_agg_mode": "seq-mean-token-sum-norm", "clip_ratio_c": 1e9},
        {"loss_type": "dr_grpo"},
    ),
    "kl": ({"kl_loss_coef": 0.3}, {"delta": 3.0, "beta": 0.3}),
    "entropy": (
        {"entropy_coeff": 0.2},
        {"delta": 3.0, "_entropy_bonus_enabled": True, "entropy_coef": 0.2},
    ),
    "gspo": (
        {**GSPO, "loss_agg_mode": "seq-mean-token-mean", "rollout_is": "sequence"},
        {**GSPO_TRL, "loss_type": "grpo"},
    ),
    "luspo": (
        {**GSPO, "loss_agg_mode": "seq-mean-token-sum", "rollout_is": "sequence"},
        {**GSPO_TRL, "loss_type": "luspo"},
    ),
    "cispo": (
        {"loss_mode": "cispo", "clip_ratio_low": 1.0},
        {"loss_type": "cispo", "epsilon_high": 1.28},
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients_are_trls(name: str):
    config, settings = LOSSES[name]
    config = GrpoLossConfig(**config)
    logp, entropy = LOGP.clone().requires_grad_(), ENTROPY.clone().requires_grad_()
    weight = torch.zeros(SHAPE, dtype=torch.float64)
    correction = rollout_correction(flat(OLD - ROLLOUT), LENGTHS, config)
    weight[MASK] = correction.weight
    if config.rollout_is == "sequence":
        weight = weight[:, :1]
    found = ours(logp, entropy, config)
    expected = theirs(logp, entropy, weight, **dict(settings))
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    pairs = [
        torch.autograd.grad(loss, (logp, entropy), allow_unused=True, materialize_grads=True)
        for loss in (found, expected)
    ]
    for one, other in zip(*pairs, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
        assert name != "entropy" or one.abs().sum() > 0


def scored(kind: str, rewards: Sequence[float | None], size: int, **settings: Any) -> dict:
    """What TRL makes of completions with these rewards, in groups of ``size``."""
    import trl.trainer.grpo_trainer as grpo
    import trl.trainer.rloo_trainer as rloo

    stand_in = trainer(num_generations=size, **settings)
    ids = [[5] * length for length in LENGTHS]
    logps = [row[:n].tolist() for row, n in zip(ROLLOUT, LENGTHS, strict=True)]
    per_function = [[float("nan") if reward is None else reward] for reward in rewards]
    stand_in._calculate_rewards = lambda *_: torch.tensor(per_function, dtype=torch.float64)
    stand_in._get_per_token_logps_and_entropies = lambda model, *_, **__: (
        REF if model == "reference" else OLD,
        None,
        None,
    )
    inputs = [{"prompt": "p"}] * len(LENGTHS)
    if kind == "grpo":
        generated = ([[1]] * len(LENGTHS), ids, None, ["c"] * len(LENGTHS), logps, {}, None, None)
        stand_in._generate = lambda _: generated
        return grpo.GRPOTrainer._generate_and_score_completions(stand_in, inputs)
    stand_in._generate = lambda _: ([[1]] * len(LENGTHS), ids, ["c"] * len(LENGTHS))
    return rloo.RLOOTrainer._generate_and_score_completions(stand_in, inputs)


TOKEN = {"vllm_importance_sampling_mode": "token_truncate"}
BOUNDS = {"vllm_importance_sampling_clip_min": None, "vllm_importance_sampling_clip_max": 2.0}
REWARDS = (1.0, 0.0, 2.0, 0.5, None, 0.25)


@pytest.mark.parametrize(
    ("kind", "settings", "own"),
    [
        ("grpo", {"scale_rewards": "group"}, {}),
        ("grpo", {"scale_rewards": "none"}, {"by_std": False}),
        ("rloo", {}, {"estimator": "rloo"}),
    ],
)
@pytest.mark.parametrize("rewards", [REWARDS, (1.0, 1.0, 1.0, None, 3.0, None), (2.0, 0.0) * 3])
def test_advantages_are_trls(kind: str, settings: dict, own: dict, rewards: Sequence):
    """Groups of three; TRL adds 1e-4 to the deviation. A single survivor gets 0 from both."""
    found = [*group_advantages(rewards[:3], 1e-4, **own)]
    found += group_advantages(rewards[3:], 1e-4, **own)
    expected = scored(kind, rewards, 3, **settings, **TOKEN, **BOUNDS)["advantages"]
    assert found == pytest.approx(expected.tolist(), abs=1e-6)


def test_kl_in_the_reward_is_that_of_trls_rloo():
    groups = [
        make_group(*(make_trace(1.0 * i, (5,) * n) for i, n in enumerate(LENGTHS[at : at + 3])))
        for at in (0, 3)
    ]

    def nested(table: torch.Tensor) -> list[list[list[float]]]:
        rows = [row[:n].tolist() for row, n in zip(table, LENGTHS, strict=True)]
        return [rows[:3], rows[3:]]

    rows = with_ref_logprobs(with_old_logprobs(grpo_rows(groups), nested(OLD)), nested(REF))
    config = GrpoLossConfig(adv_estimator="rloo", kl_coef=0.1)
    found = [r.advantage for row in with_advantages(rows, config) for r in row.responses]
    expected = scored("rloo", (0.0, 1.0, 2.0) * 2, 3, beta=0.1)["advantages"]
    assert found == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "low", "high", "own"),
    [
        ("token_truncate", None, 1.5, {"rollout_is_threshold": 1.5}),
        ("token_mask", 0.7, 1.5, {"rollout_is_threshold": (0.7, 1.5)}),
        ("sequence_truncate", None, 1.5, {"rollout_is": "sequence", "rollout_is_threshold": 1.5}),
        (
            "sequence_mask",
            0.5,
            1.5,
            {"rollout_is": "sequence", "rollout_is_threshold": (0.5, 1.5)},
        ),
    ],
)
def test_importance_weights_are_trls(mode: str, low: float | None, high: float, own: dict):
    found = scored(
        "grpo",
        REWARDS,
        3,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=high,
    )
    expected = found["importance_sampling_ratio"].expand(SHAPE)[MASK]
    weight = rollout_correction(flat(OLD - ROLLOUT), LENGTHS, GrpoLossConfig(**own)).weight
    assert len(set(weight.tolist())) > 2
    assert torch.allclose(weight, expected.double(), atol=1e-6)
