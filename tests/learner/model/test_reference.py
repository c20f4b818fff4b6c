from pathlib import Path

import torch

from learner.model.policy import Policy
from learner.model.reference import FrozenPolicy
from learner.shared_prefix.batch import make_batch
from tests.learner.builders import RandomClips, make_row
from video.positions import PositionRule

ROWS = [make_row(0, (3, 5)), make_row(1, (2,))]


def batch_of(model_dir: Path):
    clips, rule = RandomClips(), PositionRule.load(model_dir)
    return make_batch(ROWS, lambda row: clips.load(row.prompt.clip_key, "", ""), rule)


def test_the_reference_scores_as_the_policy_it_was_and_has_no_gradient(model_dir: Path):
    batch = batch_of(model_dir)
    policy = Policy.load(model_dir, "float32")
    reference = FrozenPolicy.load(model_dir, "float32", torch.device("cpu"))
    before = reference.logprobs(batch)
    assert torch.allclose(before, policy(batch).logp)
    assert not before.requires_grad
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1)
    assert torch.equal(reference.logprobs(batch), before)
