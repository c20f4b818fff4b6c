"""The objectives against the published formulas, each written down naively: token by token, in
plain Python, over a whole batch of responses. Nothing of ours is in the formulas."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from learner.config import GrpoLossConfig
from learner.objective.advantage import group_advantages
from learner.objective.loss import LossInputs, LossOutput, grpo_loss
from learner.shared_prefix.rows import StepCounts

LONGEST = 7  # tokens that a response may have
MODES = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


@dataclass(frozen=True)
class Token:
    new: float
    old: float
    rollout: float
    ref: float
    entropy: float


@dataclass(frozen=True)
class Answer:
    advantage: float
    tokens: tuple[Token, ...]


logprob = st.floats(-3, -0.01).map(lambda x: round(x, 4))
near = st.floats(-1.2, 1.2).map(lambda x: round(x, 4))
token = st.builds(
    lambda new, a, b, c, h: Token(new, new + a, new + b, new + c, h),
    logprob,
    near,
    near,
    near,
    st.floats(0, 3).map(lambda x: round(x, 4)),
)
answer = st.builds(
    Answer,
    st.floats(-2, 2).map(lambda x: round(x, 3)),
    st.lists(token, min_size=1, max_size=LONGEST).map(tuple),
)
answers = st.lists(answer, min_size=1, max_size=5)


# --- the formulas


def min_form(ratio: float, a: float, low: float, high: float) -> float:
    """PPO: the objective min(r A, clip(r) A), to be maximised."""
    return min(ratio * a, max(1 - low, min(1 + high, ratio)) * a)


def vanilla(one: Answer, c: GrpoLossConfig) -> list[float]:
    found = []
    for t in one.tokens:
        value = min_form(
            math.exp(t.new - t.old), one.advantage, c.clip_ratio_low, c.clip_ratio_high
        )
        if one.advantage < 0:
            value = max(value, c.clip_ratio_c * one.advantage)
        found.append(-value)
    return found


def gspo(one: Answer, c: GrpoLossConfig) -> list[float]:
    """s_i = (pi(y) / pi_old(y)) ** (1 / |y|), one value for all tokens."""
    s = math.prod(math.exp(t.new - t.old) for t in one.tokens) ** (1 / len(one.tokens))
    value = min_form(s, one.advantage, c.clip_ratio_low, c.clip_ratio_high)
    return [-value] * len(one.tokens)


def cispo(one: Answer, c: GrpoLossConfig) -> list[float]:
    found = []
    for t in one.tokens:
        weight = max(1 - c.clip_ratio_low, min(1 + c.clip_ratio_high, math.exp(t.new - t.old)))
        found.append(-weight * one.advantage * t.new)
    return found


def weights(one: Answer, c: GrpoLossConfig) -> list[float]:
    ratios = [math.exp(t.old - t.rollout) for t in one.tokens]
    if c.rollout_is == "none":
        return [1.0] * len(ratios)
    if c.rollout_is == "sequence":
        ratios = [math.prod(ratios)] * len(ratios)
    if isinstance(c.rollout_is_threshold, tuple):
        low, high = c.rollout_is_threshold
        return [r if low <= r <= high else 0.0 for r in ratios]
    return [min(r, c.rollout_is_threshold) for r in ratios]


def divergence(t: Token, kind: str) -> float:
    if kind == "k1":
        return t.new - t.ref
    if kind == "k2":
        return 0.5 * (t.new - t.ref) ** 2
    return math.exp(t.ref) / math.exp(t.new) - math.log(math.exp(t.ref) / math.exp(t.new)) - 1


def aggregated(values: Sequence[Sequence[float]], mode: str) -> float:
    if mode == "token-mean":
        return sum(map(sum, values)) / sum(map(len, values))
    if mode == "seq-mean-token-sum":
        return sum(map(sum, values)) / len(values)
    if mode == "seq-mean-token-mean":
        return sum(sum(v) / len(v) for v in values) / len(values)
    return sum(sum(v) / LONGEST for v in values) / len(values)


def published(batch: Sequence[Answer], c: GrpoLossConfig) -> float:
    policy = {"vanilla": vanilla, "gspo": gspo, "cispo": cispo}[c.loss_mode]
    losses = [
        [v * w for v, w in zip(policy(one, c), weights(one, c), strict=True)] for one in batch
    ]
    kl = [[divergence(t, c.kl_loss_type) for t in one.tokens] for one in batch]
    entropy = [[t.entropy for t in one.tokens] for one in batch]
    return (
        aggregated(losses, c.loss_agg_mode)
        + c.kl_loss_coef * aggregated(kl, c.loss_agg_mode)
        - c.entropy_coeff * aggregated(entropy, c.loss_agg_mode)
    )


# --- ours


def ours(
    batch: Sequence[Answer], config: GrpoLossConfig, counts: StepCounts | None = None
) -> tuple[LossOutput, torch.Tensor, torch.Tensor]:
    """Loss, and its gradients by the new logprobs and the entropies."""
    tokens = [t for one in batch for t in one.tokens]

    def column(name: str) -> torch.Tensor:
        return torch.tensor([getattr(t, name) for t in tokens], dtype=torch.float64)

    logp, entropy = column("new").requires_grad_(), column("entropy").requires_grad_()
    of_tokens = [one.advantage for one in batch for _ in one.tokens]
    inputs = LossInputs(
        logp=logp,
        entropy=entropy,
        logp_old=column("old"),
        logp_rollout=column("rollout"),
        logp_ref=column("ref"),
        advantage=torch.tensor(of_tokens, dtype=torch.float64),
        mask=torch.ones(len(tokens), dtype=torch.bool),
        lengths=[len(one.tokens) for one in batch],
    )
    counts = counts or StepCounts(len(tokens), len(batch), LONGEST)
    output = grpo_loss(inputs, counts, config)
    by_logp, by_entropy = torch.autograd.grad(
        output.loss, (logp, entropy), allow_unused=True, materialize_grads=True
    )
    return output, by_logp, by_entropy


settings_of = st.fixed_dictionaries(
    {
        "loss_mode": st.sampled_from(["vanilla", "gspo", "cispo"]),
        "loss_agg_mode": st.sampled_from(MODES),
        "rollout_is": st.sampled_from(["token", "sequence", "none"]),
        "rollout_is_threshold": st.sampled_from([2.0, 1.1, (0.5, 2.0), (0.8, 1.25)]),
        "kl_loss_coef": st.sampled_from([0.0, 0.3]),
        "kl_loss_type": st.sampled_from(["k1", "k2", "k3"]),
        "entropy_coeff": st.sampled_from([0.0, 0.05]),
        "clip_ratio_low": st.sampled_from([0.2, 3e-4, 1.0]),
        "clip_ratio_high": st.sampled_from([0.28, 4e-4]),
    }
).filter(lambda s: not (s["loss_mode"] == "gspo" and s["rollout_is"] == "token"))


@settings(deadline=None)
@given(answers, settings_of)
def test_every_combination_is_the_published_formula(batch: list[Answer], chosen: dict[str, Any]):
    config = GrpoLossConfig(**chosen)
    ratios = [r for one in batch for r in raw_ratios(one)]
    bounds = config.rollout_is_threshold
    edges = bounds if isinstance(bounds, tuple) else ()
    assume(all(abs(r - edge) > 1e-9 for r in ratios for edge in edges))  # a band has sharp edges
    output, _, _ = ours(batch, config)
    assert output.loss.item() == pytest.approx(published(batch, config), abs=1e-6, rel=1e-6)


def raw_ratios(one: Answer) -> list[float]:
    ratios = [math.exp(t.old - t.rollout) for t in one.tokens]
    return [*ratios, math.prod(ratios)]


@settings(deadline=None)
@given(answers, settings_of, st.data())
def test_no_split_over_ranks_or_micro_batches_changes_loss_gradient_or_figures(
    batch: list[Answer], chosen: dict[str, Any], data: st.DataObject
):
    """Responses stay whole; fillers may come between them."""
    config = GrpoLossConfig(**chosen)
    counts = StepCounts(sum(len(one.tokens) for one in batch), len(batch), LONGEST)
    whole, by_logp, by_entropy = ours(batch, config, counts)
    inner = st.lists(st.integers(1, len(batch)), max_size=3)
    edges = sorted({0, len(batch), *data.draw(inner)})
    parts = [ours(batch[a:b], config, counts) for a, b in pairwise(edges)]
    assert sum(p.loss.item() for p, _, _ in parts) == pytest.approx(whole.loss.item(), abs=1e-9)
    assert torch.allclose(torch.cat([g for _, g, _ in parts]), by_logp, atol=1e-12)
    assert torch.allclose(torch.cat([g for _, _, g in parts]), by_entropy, atol=1e-12)
    for name, total in whole.sums.items():
        assert sum(p.sums[name] for p, _, _ in parts) == pytest.approx(total, abs=1e-9)
    for name, worst in whole.maxima.items():
        assert max(p.maxima[name] for p, _, _ in parts) == worst


# --- gradients that a loss's value does not show


def test_gspos_gradient_is_that_of_the_sequence_ratio():
    """Eq. 10 of the paper, by finite differences of the formula."""
    config = GrpoLossConfig(
        loss_mode="gspo", rollout_is="none", loss_agg_mode="seq-mean-token-mean"
    )
    batch = [make_answer(1.5, 0.05, 0.02, -0.04), make_answer(-0.5, 0.01, -0.02)]
    _, by_logp, _ = ours(batch, config)
    assert by_logp.tolist() == pytest.approx(differences(batch, config), abs=1e-7)


def test_vanillas_gradient_is_that_of_the_clipped_ratio():
    config = GrpoLossConfig(rollout_is_threshold=(0.5, 2.0))
    batch = [make_answer(1.5, 0.5, 0.02, -0.4), make_answer(-0.5, -0.4, -0.02, 1.4)]
    _, by_logp, _ = ours(batch, config)
    assert by_logp.tolist() == pytest.approx(differences(batch, config), abs=1e-7)


def test_cispo_keeps_the_gradient_of_every_token():
    """Eq. 4: sg(clip(ratio)) A, also where the ratio is clipped."""
    config = GrpoLossConfig(loss_mode="cispo", rollout_is="none")
    batch = [make_answer(1.5, 0.9, 0.0, -0.9)]
    _, by_logp, _ = ours(batch, config)
    assert by_logp.tolist() == pytest.approx([-1.28 * 0.5, -0.5, -0.8 * 0.5])


def make_answer(advantage: float, *log_ratios: float) -> Answer:
    return Answer(advantage, tuple(Token(-1.0, -1.0 - x, -1.1 - x, -1.2, 0.5) for x in log_ratios))


def differences(batch: list[Answer], config: GrpoLossConfig, step: float = 1e-6) -> list[float]:
    """Central differences of the published loss by each new logprob. (The correction's weights hold
    no new logprob.)"""
    found = []
    for i, one in enumerate(batch):
        for j, t in enumerate(one.tokens):
            values = []
            for delta in (step, -step):
                moved = Token(t.new + delta, t.old, t.rollout, t.ref, t.entropy)
                tokens = (*one.tokens[:j], moved, *one.tokens[j + 1 :])
                changed = [*batch[:i], Answer(one.advantage, tokens), *batch[i + 1 :]]
                values.append(published(changed, config))
            found.append((values[0] - values[1]) / (2 * step))
    return found


# --- advantages


@given(st.lists(st.floats(-10, 10).map(lambda x: round(x, 2)), min_size=2, max_size=8))
def test_advantages_are_the_published_ones(rewards: list[float]):
    assume(len(set(rewards)) > 1)
    mean, n = sum(rewards) / len(rewards), len(rewards)
    deviation = statistics.stdev(rewards)
    grpo = [(r - mean) / (deviation + 1e-6) for r in rewards]
    dr_grpo = [r - mean for r in rewards]
    others = [[*rewards[:i], *rewards[i + 1 :]] for i in range(n)]
    rloo = [r - sum(rest) / (n - 1) for r, rest in zip(rewards, others, strict=True)]
    assert group_advantages(rewards, 1e-6) == pytest.approx(grpo, abs=1e-6)
    assert group_advantages(rewards, 1e-6, by_std=False) == pytest.approx(dr_grpo, abs=1e-6)
    found = group_advantages(rewards, 1e-6, estimator="rloo")
    assert found == pytest.approx(rloo, abs=1e-6)
