from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.shared_prefix.batch import make_batch, micro_batches
from learner.shared_prefix.clip_features import ClipFeatures
from learner.shared_prefix.rows import Response, Row, as_filler
from tests.learner.builders import VIDEO_TOKEN, RandomClips, make_clip, make_row
from video.positions import PositionRule
from wire.token_arrays import TokenIds
from wire.types import Prompt

RULE = PositionRule("qwen2_5_vl", VIDEO_TOKEN, merge_size=2, tokens_per_second=2)
CLIPS = RandomClips()


def batch_of(*rows):
    return make_batch(rows, lambda row: CLIPS.load(row.prompt.clip_key, "", ""), RULE)


def test_every_response_starts_one_after_the_prompts_largest_position():
    row = make_row(0, (3, 5))
    batch = batch_of(row)
    end = len(row.prompt.token_ids)
    prompt = RULE.of_prompt(row.prompt.token_ids, make_clip().grid_thw, 0.5)
    assert np.array_equal(batch.position_ids[:, 0, :end], prompt)
    first = int(prompt.max()) + 1
    expected = [*range(first, first + 3), *range(first, first + 5)]
    assert batch.position_ids[:, 0, end:].tolist() == [expected] * 3


def test_each_token_is_predicted_from_the_one_before_and_the_first_from_the_prompt():
    rows = [make_row(0, (3, 2)), make_row(1, (1,), num_text=6)]
    batch = batch_of(*rows)
    ends = [len(row.prompt.token_ids) for row in rows]
    length = rows[0].num_tokens
    assert batch.predict_at.tolist() == [
        *(ends[0] - 1, ends[0], ends[0] + 1),
        *(ends[0] - 1, ends[0] + 3),
        length + ends[1] - 1,
    ]
    assert batch.target.tolist() == [t for row in rows for r in row.responses for t in r.token_ids]
    assert batch.lengths == (3, 2, 1)
    assert batch.grid_thw.tolist() == [[2, 4, 4]] * 2
    assert batch.pixel_values.shape == (64, 1176)


def test_groups_lie_one_after_another_without_padding():
    rows = [make_row(0, (3, 2)), make_row(1, (1,), num_text=6)]
    together, apart = batch_of(*rows), [batch_of(row) for row in rows]
    for name in ("input_ids", "position_ids"):
        expected = torch.cat([getattr(batch, name) for batch in apart], dim=-1)
        assert torch.equal(getattr(together, name), expected)
    assert together.layout.num_tokens == sum(row.num_tokens for row in rows)
    assert [span.start for span in together.layout.spans] == [0, rows[0].num_tokens]


def test_a_clip_that_occurs_twice_is_loaded_and_held_once():
    first, second = make_row(0, (3,)), make_row(1, (2,))
    loaded = []

    def load(row: Row):
        loaded.append(row.prompt.clip_key)
        return CLIPS.load(row.prompt.clip_key, "", "")

    batch = make_batch([first, second, first], load, RULE)
    assert loaded == ["0", "1"]
    assert batch.grid_thw.shape == (2, 3)
    assert batch.pixel_values.shape == (64, 1176)
    assert batch.patch_at.tolist() == [*range(8), *range(8, 16), *range(8)]


def test_a_batch_that_brings_what_the_tower_sees_holds_no_pixels():
    rows = [make_row(0, (3,)), make_row(1, (2,)), make_row(0, (1,))]

    def seen_of(row: Row) -> ClipFeatures:
        embeds = torch.full((8, 4), float(row.prompt.clip_key))
        return ClipFeatures(embeds, (embeds + 10,))

    load = lambda row: CLIPS.load(row.prompt.clip_key, "", "")  # noqa: E731
    batch = make_batch(rows, load, RULE, seen_of)
    assert batch.pixel_values.shape == (0, 1176)
    seen = batch.seen.at(batch.patch_at)
    assert seen.embeds[:, 0].tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 8
    assert torch.equal(seen.deepstack[0], seen.embeds + 10)


def test_a_row_of_text_alone_needs_no_clip():
    prompt = replace(make_row().prompt, token_ids=(41, 42, 43), clip_key="")
    text = Row(prompt=prompt, video="", responses=(Response(token_ids=TokenIds((50, 51))),))
    alone = batch_of(text)
    assert alone.position_ids[:, 0].tolist() == [[0, 1, 2, 3, 4]] * 3
    assert (len(alone.grid_thw), len(alone.patch_at), len(alone.pixel_values)) == (0, 0, 0)
    mixed = batch_of(make_row(), text)
    assert mixed.position_ids[:, 0, -5:].tolist() == [[0, 1, 2, 3, 4]] * 3
    assert len(mixed.patch_at) == 8


def test_what_is_not_known_is_nan_and_fillers_are_masked():
    batch = batch_of(make_row(0, (2,)), as_filler(make_row(1, (3,))))
    assert batch.logp_old.isnan().all()
    assert not batch.logp_rollout.isnan().any()
    assert batch.mask.tolist() == [True] * 2 + [False] * 3


def test_the_advantage_is_copied_to_every_token_of_its_response():
    row = make_row(0, (2, 3))
    first, second = (response.advantage for response in row.responses)
    assert torch.allclose(batch_of(row).advantage, torch.tensor([first] * 2 + [second] * 3))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=15), st.integers(1, 200))
def test_micro_batches_keep_order_and_the_bound(lengths: list[int], max_tokens: int):
    rows = [make_row(seed, (length,)) for seed, length in enumerate(lengths)]
    parts = list(micro_batches(rows, max_tokens))
    assert [row for part in parts for row in part] == rows
    for part in parts:
        assert sum(row.num_tokens for row in part) <= max_tokens or len(part) == 1


def test_micro_batches_are_filled_before_the_next_begins():
    rows = [make_row(seed, (length,)) for seed, length in enumerate((3, 3, 9, 3, 3))]
    size = rows[0].num_tokens
    assert [len(part) for part in micro_batches(rows, 2 * size)] == [2, 1, 2]


def test_a_narrative_in_text_is_a_row_of_text_whatever_stands_beside_it():
    prompt = Prompt(
        token_ids=(50, 51, 52), clip_key="n", fingerprint="f", semantic_tokenizer="3f9c0a7b51de"
    )
    told = replace(make_row(0, (3,)), prompt=prompt, video="0.mp4#tokens=3f9c0a7b51de")
    alone, beside = batch_of(told), batch_of(make_row(1, (2,)), told)
    assert alone.patch_at.numel() == 0
    assert alone.grid_thw.shape == (0, 3)
    assert alone.position_ids[:, 0].tolist() == [list(range(6))] * 3
    assert torch.equal(beside.position_ids[..., -6:], alone.position_ids)
    assert beside.patch_at.tolist() == list(range(8))
