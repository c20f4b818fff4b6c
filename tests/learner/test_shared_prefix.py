"""Shared prefix is exact: a row of G responses is G rows of one response, and is transformers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learner.batch import make_batch
from learner.loss import supervised_loss
from learner.policy import Policy, TokenHead
from learner.rows import Row
from tests.learner.builders import RandomClips, make_row
from video.positions import PositionRule
from wire.errors import ConfigError

CLIPS = RandomClips()
ROWS = [make_row(0, (3, 6, 1), num_text=4), make_row(1, (4, 2), num_text=9)]
APART = [replace(row, responses=(response,)) for row in ROWS for response in row.responses]


@pytest.fixture(scope="module")
def policy(model_dir: Path) -> Policy:
    return Policy.load(model_dir, "float32", freeze_vision_tower=False)


@pytest.fixture(scope="module")
def rule(model_dir: Path) -> PositionRule:
    return PositionRule.load(model_dir)


def batch_of(rows: Sequence[Row], rule: PositionRule):
    return make_batch(rows, lambda row: CLIPS.load(row.prompt.clip_key, "", ""), rule)


def logprobs_and_gradient(
    policy: Policy, parts: Sequence[Sequence[Row]], rule: PositionRule
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of micro-batches: logprobs [N], gradient of the weighted sum, flat."""
    policy.zero_grad()
    found = []
    for part in parts:
        batch = batch_of(part, rule)
        logp = policy(batch).logp
        supervised_loss(logp, batch.advantage, batch.mask, 16).loss.backward()
        found.append(logp.detach())
    gradient = [p.grad.flatten() for p in policy.parameters() if p.grad is not None]
    return torch.cat(found), torch.cat(gradient)


def plain_transformers(policy: Policy, row: Row, rule: PositionRule) -> torch.Tensor:
    """Logprobs of a row's one response by an ordinary causal forward pass."""
    (response,) = row.responses
    clip = CLIPS.load(row.prompt.clip_key, "", "")
    ids = torch.tensor([row.prompt.token_ids + response.token_ids])
    positions = torch.from_numpy(rule.of_prompt(ids[0].tolist(), clip.grid_thw, 0.5))
    logits = policy.vlm(
        input_ids=ids,
        position_ids=positions[:, None],
        pixel_values_videos=torch.from_numpy(clip.pixel_values),
        video_grid_thw=torch.tensor([clip.grid_thw]),
    ).logits[0, -len(response.token_ids) - 1 : -1]
    targets = torch.tensor(response.token_ids)
    return logits.log_softmax(-1)[torch.arange(len(targets)), targets]


def test_responses_behind_one_prompt_equal_responses_apart(policy: Policy, rule: PositionRule):
    logp, gradient = logprobs_and_gradient(policy, [ROWS], rule)
    for parts in ([APART], [[row] for row in APART]):
        logp_apart, gradient_apart = logprobs_and_gradient(policy, parts, rule)
        assert (logp - logp_apart).abs().max() < 1e-5
        assert (gradient - gradient_apart).norm() / gradient.norm() < 1e-5


def test_logprobs_and_gradient_equal_plain_transformers(policy: Policy, rule: PositionRule):
    logp, gradient = logprobs_and_gradient(policy, [ROWS], rule)
    policy.zero_grad()
    plain = torch.cat([plain_transformers(policy, row, rule) for row in APART])
    weight = torch.cat(
        [torch.full((len(r.token_ids),), r.advantage) for row in APART for r in row.responses]
    )
    (-(plain * weight).sum() / 16).backward()
    expected = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    assert (logp - plain).abs().max() < 1e-5
    assert (gradient - expected).norm() / expected.norm() < 1e-5


def test_chunks_of_the_head_change_nothing(policy: Policy, rule: PositionRule):
    whole, gradient = logprobs_and_gradient(policy, [ROWS], rule)
    policy.head = TokenHead(policy.vlm.lm_head, chunk=3)
    in_chunks, gradient_in_chunks = logprobs_and_gradient(policy, [ROWS], rule)
    policy.head = TokenHead(policy.vlm.lm_head, chunk=4096)
    assert (whole - in_chunks).abs().max() < 1e-5
    assert (gradient - gradient_in_chunks).norm() / gradient.norm() < 1e-5


@torch.no_grad()
def test_entropy_is_that_of_the_distribution(policy: Policy, rule: PositionRule):
    batch = batch_of(ROWS, rule)
    logits = policy.vlm.lm_head(policy._hidden(batch)[batch.predict_at])
    expected = torch.distributions.Categorical(logits=logits).entropy()
    assert torch.allclose(policy(batch).entropy, expected, atol=1e-5)


@torch.no_grad()
def test_features_are_the_hidden_state_at_the_last_token(policy: Policy, rule: PositionRule):
    found = policy(batch_of(APART, rule), features=True)
    for row, state in zip(APART, found, strict=True):
        alone = policy._hidden(batch_of([row], rule))
        assert torch.allclose(state, alone[-1], atol=1e-4)


def test_features_refuse_rows_of_several_responses(policy: Policy, rule: PositionRule):
    with pytest.raises(AssertionError, match="one response per row"):
        policy(batch_of(ROWS, rule), features=True)


def test_a_frozen_tower_has_no_gradient_and_the_text_has_the_same(
    policy: Policy, model_dir: Path, rule: PositionRule
):
    frozen = Policy.load(model_dir, "float32", freeze_vision_tower=True)
    logprobs_and_gradient(frozen, [ROWS], rule)
    logprobs_and_gradient(policy, [ROWS], rule)
    assert all(p.grad is None for p in frozen.vlm.model.visual.parameters())
    for free, held in zip(
        policy.vlm.model.language_model.parameters(),
        frozen.vlm.model.language_model.parameters(),
        strict=True,
    ):
        assert torch.allclose(free.grad, held.grad)


def test_weights_that_lack_a_tensor_are_refused(model_dir: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((model_dir / "config.json").read_bytes())
    weights = load_file(model_dir / "model.safetensors")
    lost = next(name for name in weights if name.endswith("mlp.up_proj.weight"))
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="up_proj"):
        Policy.load(tmp_path, "float32", freeze_vision_tower=True)


def test_a_truncated_weights_file_is_refused(model_dir: Path, tmp_path: Path):
    (tmp_path / "config.json").write_bytes((model_dir / "config.json").read_bytes())
    whole = (model_dir / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="safetensors"):
        Policy.load(tmp_path, "float32", freeze_vision_tower=True)
