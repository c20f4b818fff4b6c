from dataclasses import replace

import numpy as np
import pytest
import torch

from calibrate.splitting.alignment import Aligner, fit_alignment, training_pairs
from calibrate.splitting.config import AlignmentConfig
from calibrate.splitting.early_stop import EmaStop
from tests.calibrate.splitting.compositions import Compositions, WordVectors, compositions

ENCODER = WordVectors()
WORLD = compositions(noise=0.2)
ALIGNER = fit_alignment(WORLD.dictionary, ENCODER, seed=0)


def vectors(world: Compositions, target: str, aligner: Aligner) -> np.ndarray:
    return aligner.vectors(ENCODER.encode([part.modifier for part in world.parts(target)]))


def test_pairs_are_of_groups_labels_modifiers_and_singletons():
    d = WORLD.dictionary
    pairs = training_pairs(d)
    assert len(pairs.texts) == len(pairs.vectors) == 6 + 24 + 24 + 2
    taught = dict(zip(pairs.texts, pairs.vectors, strict=True))
    assert np.array_equal(taught["group4"], d.prototypes[d.groups.index("group4")])
    row = WORLD.names.index("group5 mod3")
    assert np.array_equal(taught["group5 mod3"], WORLD.weight[row])
    assert np.array_equal(taught["alone1"], WORLD.weight[WORLD.names.index("alone1")])
    entry = d.labels.index("group8 mod3")  # the last of those with this phrase
    assert np.array_equal(taught["mod3"], d.modifiers[entry])


def test_the_network_has_the_papers_size():
    world = compositions(width=384)
    encoder = WordVectors(width=768)
    config = AlignmentConfig(max_epochs=1)
    assert fit_alignment(world.dictionary, encoder, seed=0, config=config).num_parameters == 443_136


def test_the_network_is_two_layers_with_a_gelu_between_on_texts_as_they_are():
    embeddings = ENCODER.encode(["mod1", "group0 mod2"])
    w1, b1, w2, b2 = (torch.from_numpy(layer) for layer in ALIGNER.layers)
    hidden = torch.nn.functional.gelu(torch.from_numpy(embeddings) @ w1.T + b1)
    expected = (hidden @ w2.T + b2).numpy()
    np.testing.assert_allclose(ALIGNER.vectors(embeddings), expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(ALIGNER.vectors(embeddings * 2), expected, atol=1e-2)


def test_the_best_weights_are_restored():
    """Trained to the best epoch, and not further, the weights are the same to the last bit."""
    config = AlignmentConfig(learning_rate=0.05, min_gain=0.02)
    wild = fit_alignment(WORLD.dictionary, ENCODER, seed=1, config=config)
    assert wild.best_epoch < len(wild.cosines)
    assert wild.cosine == wild.cosines[wild.best_epoch - 1]
    d = training_pairs(WORLD.dictionary)
    outputs = torch.from_numpy(wild.vectors(ENCODER.encode(d.texts)))
    targets = torch.from_numpy(d.vectors.astype(np.float32))
    cosine = torch.nn.functional.cosine_similarity(outputs, targets).mean()
    assert float(cosine) == pytest.approx(wild.cosine, abs=1e-6)
    assert wild.cosine != pytest.approx(wild.cosines[-1], abs=1e-6)


def test_training_ends_by_the_average_of_the_training_cosine():
    assert len(ALIGNER.cosines) < AlignmentConfig().max_epochs
    stop: EmaStop[int] = EmaStop(decay=0.95, patience=5, min_gain=1e-3)
    ends = [stop.ends(cosine, lambda: 0) for cosine in ALIGNER.cosines]
    assert ends.index(True) == len(ends) - 1
    assert ALIGNER.best_epoch == len(ends) - 5
    assert ALIGNER.cosine > 0.9


def test_a_seed_gives_the_same_bits_and_another_seed_others():
    again = fit_alignment(WORLD.dictionary, ENCODER, seed=0)
    other = fit_alignment(WORLD.dictionary, ENCODER, seed=1)
    first = vectors(WORLD, "group0", ALIGNER)
    assert first.tobytes() == vectors(WORLD, "group0", again).tobytes()
    assert not np.array_equal(first, vectors(WORLD, "group0", other))


def test_other_users_of_torchs_random_numbers_are_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit_alignment(WORLD.dictionary, ENCODER, seed=0, config=AlignmentConfig(max_epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_unseen_compositions_are_recovered():
    for target in WORLD.targets:
        head = WORLD.split(target, vectors(WORLD, target, ALIGNER))
        score = WORLD.evaluation(target, 10, 0.3, 1).score(head)
        assert score.generality > 0.95
        assert score.locality is not None
        assert score.locality > 0.95


@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_the_size_of_a_heads_rows_does_not_matter(size: float):
    """A head with a strong penalty has rows far below the learning rate."""
    other = replace(WORLD, weight=WORLD.weight * size)
    aligner = fit_alignment(other.dictionary, ENCODER, seed=0)
    assert aligner.cosine == pytest.approx(ALIGNER.cosine, abs=0.01)
    scaled = vectors(other, "group0", aligner) / size
    np.testing.assert_allclose(scaled, vectors(WORLD, "group0", ALIGNER), atol=0.02)
