import pytest
import torch

from tests.video.semantic_tokens.builders import PLACES, WIDTH, config, segments
from video.semantic_tokens.segment_encoder import (
    SegmentDecoder,
    SegmentEncoder,
    check_segments,
    num_segments,
    pool_segments,
)
from wire.errors import DataError


def test_segments_are_means_over_steps_and_over_the_patches_of_a_place():
    t, h, w = 5, 4, 6
    features = torch.arange(t * h * w, dtype=torch.float32)[:, None].repeat(1, 2)
    pooled = pool_segments(features, (t, h, w), spatial=2, steps=2)
    assert pooled.shape == (3, 4, 2)
    planes = features[:, 0].view(t, h, w)
    assert pooled[0, 1, 0] == planes[:2, :2, 3:].mean()  # upper right
    assert pooled[2, 2, 1] == planes[4:, 2:, :3].mean()  # the last segment has one step
    assert num_segments(5, 2) == len(pooled)


def test_a_side_with_fewer_patches_than_places_shares_them():
    features = torch.arange(2.0)[:, None]
    assert pool_segments(features, (1, 1, 2), spatial=2, steps=1)[0, :, 0].tolist() == [0, 1, 0, 1]


def test_features_that_do_not_fill_the_grid_are_refused():
    with pytest.raises(
        ValueError, match=r"do not fill the grid \(2, 2, 2\); expected \[8, width\]"
    ):
        pool_segments(torch.zeros(7, 3), (2, 2, 2), spatial=1, steps=1)


@pytest.mark.parametrize("context", [1, 3])
def test_padding_never_changes_a_vector(context: int):
    encoder = SegmentEncoder(PLACES, WIDTH, config(context=context))
    clip = encoder.standardise(segments(5))
    alone = encoder(clip[None], torch.ones(1, 5, dtype=torch.bool))[0]
    padded = torch.cat([clip, torch.full((3, PLACES * WIDTH), 9.0)])[None]
    mask = torch.arange(8)[None] < 5
    torch.testing.assert_close(encoder(padded, mask)[0, :5], alone)
    torch.testing.assert_close(alone.norm(dim=-1), torch.ones(5))


def test_without_context_a_segment_has_the_same_vector_wherever_it_stands():
    encoder = SegmentEncoder(PLACES, WIDTH, config(context=1))
    clip = encoder.standardise(segments(4))
    everywhere = torch.ones(1, 4, dtype=torch.bool)
    swapped = encoder(clip.flip(0)[None], everywhere)[0].flip(0)
    torch.testing.assert_close(swapped, encoder(clip[None], everywhere)[0])
    wide = SegmentEncoder(PLACES, WIDTH, config(context=3))
    assert not torch.allclose(
        wide(clip.flip(0)[None], everywhere)[0].flip(0), wide(clip[None], everywhere)[0]
    )


def test_restoring_undoes_standardising():
    encoder = SegmentEncoder(PLACES, WIDTH, config())
    encoder.mean.fill_(3.0)
    encoder.scale.fill_(0.5)
    clip = segments(4)
    torch.testing.assert_close(encoder.restore(encoder.standardise(clip)), clip.flatten(1))


def test_the_decoder_gives_features_of_a_segment():
    assert SegmentDecoder(PLACES, WIDTH, config())(torch.zeros(3, 5)).shape == (3, PLACES * WIDTH)


@pytest.mark.parametrize("shape", [(2, 3, 6), (2, 4, 5), (0, 4, 6), (4, 6)])
def test_segments_of_another_size_are_refused(shape: tuple[int, ...]):
    with pytest.raises(DataError, match=r"expects at least one of \[4, 6\]"):
        check_segments(torch.zeros(shape), PLACES, WIDTH)
