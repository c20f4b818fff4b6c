import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.model.policy import Policy
from learner.shared_prefix.batch import make_batch, micro_batches
from learner.shared_prefix.largest_batch import LargestBatch
from tests.tiny_models import MODEL_TYPES, write_tiny_model
from video.positions import PositionRule

LARGEST = LargestBatch(
    prompt_length=200,
    response_length=40,
    group_size=4,
    num_groups=3,
    num_frames=8,
    max_tokens=800,
)


@given(
    st.integers(4, 300),
    st.integers(1, 80),
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(2, 64),
    st.integers(1, 1000),
)
def test_it_is_one_micro_batch_as_full_as_it_can_be(
    prompt: int, response: int, group: int, groups: int, frames: int, most: int
):
    largest = LargestBatch(
        prompt_length=prompt,
        response_length=response,
        group_size=group,
        num_groups=groups,
        num_frames=frames,
        max_tokens=most,
    )
    for model_type in MODEL_TYPES:
        rule = PositionRule(model_type, 7, 2, 2.0)
        rows = largest.rows(rule)
        assert sum(row.num_tokens for row in rows) == largest.num_tokens
        assert all(len(row.prompt.token_ids) == prompt for row in rows)
        assert largest.num_tokens <= max(most, prompt + response)
        assert len(list(micro_batches(rows, max(most, prompt + response)))) == 1
        ids, grid = rows[0].prompt.token_ids, largest.grid(rule)
        assert rule.of_prompt(ids, grid, 1.0).shape == (3, prompt)  # the clip fits the prompt
        assert math.prod(grid) // 4 <= prompt


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family_takes_it_and_no_gradient_comes_of_it(model_type: str, tmp_path: Path):
    torch.set_num_threads(1)
    folder = write_tiny_model(tmp_path, model_type)
    policy = Policy.load(folder, "float32")
    rule = PositionRule.load(folder)
    largest = replace(LARGEST, prompt_length=60, max_tokens=300)
    width = policy.blank_clip((1, 2, 2)).values.shape[1]
    batch = make_batch(largest.rows(rule), largest.clips(rule, width), rule)
    logp = policy(batch).logp
    assert logp.isfinite().all()
    logp.where(batch.mask, 0.0).sum().backward()
    grads = [p.grad for p in policy.parameters() if p.grad is not None]
    assert grads
    assert not any(grad.any() for grad in grads)


def test_a_smaller_one_has_as_many_rows():
    small = LARGEST.scaled(1 / 4)
    assert small.num_rows == LARGEST.num_rows
    assert small.num_tokens == pytest.approx(LARGEST.num_tokens / 4, rel=0.1)
