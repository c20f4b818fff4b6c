import pytest
import torch
from torch.nn import functional as F

from tests.video.semantic_tokens.builders import config
from video.semantic_tokens.codebook import Codebook, perplexity


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def unit(*rows: list[float]) -> torch.Tensor:
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)


def test_the_gradient_passes_the_codes_straight_through():
    book = Codebook(config())
    vectors = F.normalize(torch.randn(3, 5), dim=-1).requires_grad_()
    chosen, quantised = book.quantise(vectors)
    torch.testing.assert_close(quantised, book.codes[chosen])
    weight = torch.randn(3, 5)
    (quantised * weight).sum().backward()
    assert torch.equal(vectors.grad, weight)
    assert not list(book.parameters())


def test_an_update_follows_the_equations_of_the_running_means():
    book = Codebook(config(num_codes=2, dim=2, decay=0.75, restart_below=0.0))
    book.codes.copy_(unit([1, 0], [0, 1]))
    vectors = unit([1, 0.2], [1, -0.1], [0.1, 1])
    book.update(vectors, book.nearest(vectors), rng())
    assert book.counts.tolist() == [0.5, 0.25]
    torch.testing.assert_close(book.sums[0], 0.25 * (vectors[0] + vectors[1]))
    torch.testing.assert_close(book.codes[0], F.normalize(vectors[0] + vectors[1], dim=0))
    book.update(vectors[:1], torch.tensor([0]), rng())
    assert book.counts.tolist() == [0.75 * 0.5 + 0.25, 0.75 * 0.25]
    torch.testing.assert_close(book.codes[1], vectors[2])  # unused: stays where it is


def test_dead_codes_start_again_at_segments_of_the_batch():
    book = Codebook(config(num_codes=4, dim=2, restart_below=0.1))
    vectors = unit([1, 0.2], [1, -0.1], [0.1, 1], [1, 0.1], [1, 0.3])
    assert book.update(vectors, torch.zeros(5, dtype=torch.long), rng()) == 3
    distance = torch.cdist(book.codes[1:], vectors).min(1).values
    assert distance.max() < 1e-6
    assert len(book.codes[1:].unique(dim=0)) == 3
    off = Codebook(config(num_codes=4, dim=2, restart_below=0.0))
    assert off.update(vectors, torch.zeros(5, dtype=torch.long), rng()) == 0


def test_a_batch_smaller_than_the_dead_codes_restarts_as_many_as_it_has_segments():
    book = Codebook(config(num_codes=8, dim=2))
    assert book.update(unit([1, 0], [0, 1]), torch.tensor([0, 0]), rng()) == 2


def test_a_restarted_code_is_not_dead_at_once():
    book = Codebook(config(num_codes=2, dim=2, decay=0.9, restart_below=0.1))
    vectors = unit([1, 0.2], [1, -0.1])
    assert book.update(vectors, torch.tensor([0, 0]), rng()) == 1
    assert book.update(vectors, torch.tensor([0, 0]), rng()) == 0


def test_perplexity_counts_the_codes_in_equal_use():
    assert perplexity(torch.tensor([5, 5, 5, 0])) == pytest.approx(3)
    assert perplexity(torch.tensor([9, 0, 0, 0])) == pytest.approx(1)
