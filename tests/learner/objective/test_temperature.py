"""The objective at a sampling temperature against the exact policy gradient of a bigram policy.

Every answer of two words is enumerated, each weighted by its probability, so the loss's gradient is
an expectation and not an estimate. Rows, batch, layouts, head and loss are the product's own.
"""

import itertools

import pytest
import torch
from torch import Tensor, nn

from learner.config import GrpoLossConfig
from learner.model.token_head import TokenHead
from learner.objective.loss import LossInputs, LossOutput, grpo_loss
from learner.shared_prefix.batch import make_batch
from learner.shared_prefix.rows import Response, Row, StepCounts, one_row_per_response
from video.positions import PositionRule
from video.processor import ProcessedClip
from wire.token_arrays import Logprobs, TokenIds
from wire.types import Prompt

WORDS, LENGTH, START = 4, 2, 3
ANSWERS = list(itertools.product(range(WORDS), repeat=LENGTH))
REWARDS = torch.linspace(-1, 2, len(ANSWERS), dtype=torch.float64).sin() * 2


def bigram(seed: int) -> nn.Linear:
    """Logits of the next word, given the last one as a unit vector."""
    torch.manual_seed(seed)
    head = nn.Linear(WORDS, WORDS, bias=False, dtype=torch.float64)
    nn.init.normal_(head.weight, std=1.5)
    return head


def logprobs(head: nn.Linear, temperature: float) -> Tensor:
    """Of each word of each answer."""
    table = (head.weight.T / temperature).log_softmax(-1)
    return torch.stack([table[(START, *answer[:-1]), answer] for answer in map(list, ANSWERS)])


def exact_gradient(head: nn.Linear, temperature: float) -> Tensor:
    expected_reward = (logprobs(head, temperature).sum(1).exp() * REWARDS).sum()
    (gradient,) = torch.autograd.grad(expected_reward, head.weight)
    return gradient


def rows(head: nn.Linear, sampled_at: float, trained_at: float) -> list[Row]:
    """All answers behind one prompt, each weighted by its probability as it was sampled."""
    logp = logprobs(head, sampled_at).detach()
    weights = logp.sum(1).exp() * REWARDS * len(ANSWERS)
    responses = tuple(
        Response(
            token_ids=TokenIds(answer),
            advantage=float(weight),
            rollout_logprobs=Logprobs(logprobs(head, trained_at).detach()[i].tolist()),
            temperature=trained_at,
        )
        for i, (answer, weight) in enumerate(zip(ANSWERS, weights, strict=True))
    )
    prompt = Prompt(token_ids=TokenIds((0, 1, START)), clip_key="", fingerprint="")
    return [Row(prompt=prompt, video="", responses=responses)]


def no_clip(row: Row) -> ProcessedClip:
    raise AssertionError("these rows are of text alone")


def train(head: nn.Linear, rows: list[Row], rule: PositionRule) -> tuple[Tensor, LossOutput]:
    """The gradient that goes up the expected reward, by the loss of one update."""
    batch = make_batch(rows, no_clip, rule)
    last = torch.eye(WORDS, dtype=torch.float64)[batch.input_ids[0, batch.predict_at]]
    temperature = None if batch.temperature is None else batch.temperature.double()
    scores = TokenHead(head, places=5, words=3)(last, batch.target, temperature)
    inputs = LossInputs(
        logp=scores.logp,
        logp_old=batch.logp_old.double(),
        logp_rollout=batch.logp_rollout.double(),
        advantage=batch.advantage.double(),
        mask=batch.mask,
        lengths=batch.lengths,
    )
    output = grpo_loss(inputs, StepCounts.of(rows), GrpoLossConfig())
    (gradient,) = torch.autograd.grad(output.loss, head.weight)
    return -gradient * LENGTH, output  # a mean over tokens; an expectation is one over answers


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("repeated", [False, True])
def test_the_gradient_is_that_of_the_policy_that_wrote_the_traces(
    temperature: float, repeated: bool, rule: PositionRule
):
    for seed in range(5):
        head = bigram(seed)
        given = rows(head, temperature, temperature)
        if repeated:
            given = [one for row in given for one in one_row_per_response(row)]
        gradient, output = train(head, given, rule)
        exact = exact_gradient(head, temperature)
        assert torch.allclose(gradient, exact, atol=1e-6)
        assert cosine(gradient, exact) > 1 - 1e-9
        assert output.sums["rollout_is/mean"] == pytest.approx(len(ANSWERS) * LENGTH, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_logprobs_at_temperature_1_would_give_another_gradient(
    temperature: float, rule: PositionRule
):
    worst = 1.0
    for seed in range(5):
        head = bigram(seed)
        gradient, _ = train(head, rows(head, temperature, 1.0), rule)
        worst = min(worst, cosine(gradient, exact_gradient(head, temperature)))
    assert worst < 0.999


def test_rows_of_several_temperatures_in_one_batch_keep_their_own(rule: PositionRule):
    head = bigram(0)
    mixed = [row for t in (0.7, 1.0, 1.3) for row in rows(head, t, t)]
    gradient, _ = train(head, mixed, rule)
    exact = sum(exact_gradient(head, t) for t in (0.7, 1.0, 1.3)) / 3
    assert torch.allclose(gradient, exact, atol=1e-6)


@pytest.fixture(scope="module")
def rule(model_dir) -> PositionRule:
    return PositionRule.load(model_dir)
