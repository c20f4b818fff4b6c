import math

import pytest
import torch

from learner.semantic_tokens.losses import (
    commitment_loss,
    reconstruction_loss,
    semantic_loss,
    temporal_loss,
)

MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_padding_enters_no_loss():
    features, vectors = torch.randn(2, 3, 4), torch.randn(2, 3, 5)
    decoded, codes = torch.randn(2, 3, 4), torch.randn(2, 3, 5)
    mentioned = torch.tensor([[True, False], [False, True]])

    def losses() -> list[float]:
        return [
            float(reconstruction_loss(decoded, features, MASK)),
            float(commitment_loss(vectors, codes, MASK)),
            float(temporal_loss(vectors, features, MASK)),
            float(semantic_loss(vectors, torch.ones(2, 5), mentioned, MASK, 0.1)),
        ]

    before = losses()
    for tensor in (features, vectors, decoded, codes):
        tensor[1, 2] = 99.0
    assert losses() == before


def test_reconstruction_of_the_mean_alone_is_one():
    features = torch.randn(50, 3, 40)
    everywhere = torch.ones(50, 3, dtype=torch.bool)
    assert float(reconstruction_loss(torch.zeros_like(features), features, everywhere)) == (
        pytest.approx(1, abs=0.05)
    )


def test_the_commitment_moves_segments_and_no_code():
    vectors, codes = torch.randn(1, 3, 5, requires_grad=True), torch.randn(1, 3, 5)
    codes.requires_grad_()
    commitment_loss(vectors, codes, MASK[:1]).backward()
    assert vectors.grad.abs().sum() > 0
    assert codes.grad is None


def test_a_switch_costs_less_where_the_features_change():
    features = torch.zeros(1, 3, 2)
    features[0, 2:] = 4.0  # a border before the last segment
    everywhere = torch.ones(1, 3, dtype=torch.bool)
    needless, at_border = torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)
    needless[0, 1:, 0] = 1.0
    at_border[0, 2:, 0] = 1.0
    assert float(temporal_loss(needless, features, everywhere)) == pytest.approx(0.5)
    assert float(temporal_loss(at_border, features, everywhere)) == pytest.approx(
        math.exp(-2) / 2, rel=1e-4
    )


def test_the_features_are_not_moved_by_the_temporal_loss():
    features = torch.randn(1, 3, 2, requires_grad=True)
    vectors = torch.randn(1, 3, 2, requires_grad=True)
    temporal_loss(vectors, features, torch.ones(1, 3, dtype=torch.bool)).backward()
    assert features.grad is None


def test_clips_of_one_segment_have_nothing_to_switch():
    loss = temporal_loss(
        torch.randn(2, 1, 3, requires_grad=True), torch.randn(2, 1, 4), torch.ones(2, 1).bool()
    )
    loss.backward()
    assert loss.item() == 0


def test_the_semantic_loss_is_the_equation_of_its_docstring():
    segments = torch.tensor([[[1.0, 0], [0, 1]], [[0, 1], [0, 1]]])
    attributes = torch.tensor([[2.0, 0], [0, 3]])
    mentioned = torch.tensor([[True, False], [False, True]])
    everywhere = torch.ones(2, 2, dtype=torch.bool)
    mixed, none, whole = math.log((math.e + 1) / 2), 0.0, 1.0
    # s[clip, attribute]: clip 0 shows both in one of two segments, clip 1 only the second
    s = [[mixed, mixed], [none, whole]]
    e = [[math.exp(value) for value in row] for row in s]
    in_clip = [-math.log(e[0][0] / (e[0][0] + e[0][1])), -math.log(e[1][1] / (e[1][1] + e[1][0]))]
    over = [-math.log(e[0][0] / (e[0][0] + e[1][0])), -math.log(e[1][1] / (e[1][1] + e[0][1]))]
    wanted = (sum(in_clip) + sum(over)) / 4
    loss = semantic_loss(segments, attributes, mentioned, everywhere, temperature=1.0)
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("mentioned", [[[False, False]] * 2, [[True, True]] * 2])
def test_without_a_text_or_without_a_contrast_there_is_nothing_to_learn(
    mentioned: list[list[bool]],
):
    segments = torch.randn(2, 3, 4, requires_grad=True)
    loss = semantic_loss(segments, torch.randn(2, 4), torch.tensor(mentioned), MASK, 0.1)
    loss.backward()
    assert loss.item() == 0
    assert float(segments.grad.abs().max()) == 0


def test_a_clip_without_a_text_is_no_counterexample():
    segments, attributes = torch.randn(3, 2, 4), torch.randn(2, 4)
    everywhere = torch.ones(3, 2, dtype=torch.bool)
    mentioned = torch.tensor([[True, False], [False, True], [False, False]])
    both = semantic_loss(segments[:2], attributes, mentioned[:2], everywhere[:2], 0.1)
    with_third = semantic_loss(segments, attributes, mentioned, everywhere, 0.1)
    assert float(with_third) == pytest.approx(float(both))
