"""LoRA under every ZeRO stage on two ranks, with rows dealt unevenly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learner.config import LoraConfig
from learner.model.lora import adapt
from learner.model.policy import Policy
from learner.model.trained_parts import Part
from learner.objective.loss import supervised_loss
from learner.shared_prefix.batch import make_batch
from tests.learner.builders import RandomClips
from tests.learner.rank_actors import COUNTS, ROWS, UNEVEN, Ranks
from tests.learner.test_zero import ADAMW, STAGES
from video.positions import PositionRule
from wire.errors import ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LORA = {"rank": 4, "alpha": 8}
RATES = (1e-2, 1e-2, 1e-2)


@pytest.fixture(scope="module")
def pair(ray_session: None) -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.stop()


@pytest.fixture(scope="module")
def plain(model_dir: Path) -> dict[str, Any]:
    """The same three updates by torch alone: start and end."""
    policy = Policy.load(model_dir, "float32")
    adapt(policy.vlm, LoraConfig(**LORA), (Part.MERGER, Part.VISION_TOWER))
    clips, rule = RandomClips(), PositionRule.load(model_dir)
    batch = make_batch(ROWS, lambda row: clips.load(row.prompt.clip_key, "", ""), rule)
    trained = {n: p for n, p in policy.vlm.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), weight_decay=ADAMW.weight_decay)
    before = policy(batch).logp.detach()
    for rate in RATES:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = supervised_loss(
            policy(batch).logp, batch.advantage, batch.mask, COUNTS.num_tokens
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), ADAMW.grad_clip)
        optimizer.step()
    return {"before": before.numpy(), "after": policy(batch).logp.detach().numpy()}


def scores(ranks: Ranks, method: str) -> np.ndarray:
    """In the order of ROWS; UNEVEN deals them in it."""
    found = ranks.each("call", [(method, hand) for hand in UNEVEN])
    return np.array([v for part in found for row in part for r in row for v in r])


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_trains_the_adapter_alone_as_plain_torch_does(
    pair: Ranks, model_dir: Path, plain: dict[str, Any], stage: int
):
    pair.start(model_dir, ADAMW, zero_stage=stage, lora=LORA, gradient_checkpointing=stage > 1)
    base, start = pair.all("pieces", "base")[0], scores(pair, "ref_logprobs")
    assert np.array_equal(scores(pair, "logprobs"), start)
    assert np.abs(start - plain["before"]).max() < 1e-5
    facts = pair.all("call", "adapter_facts")[0]
    pair.train(*RATES)
    assert pair.all("call", "adapter_facts")[0] == facts
    assert facts.num_trained < facts.num_frozen / 4
    assert np.array_equal(scores(pair, "ref_logprobs"), start)
    trained = scores(pair, "logprobs")
    assert np.abs(trained - plain["after"]).max() < 1e-4
    assert np.abs(trained - start).max() > 1e-2
    kept = pair.all("pieces", "base")[0]
    assert all(np.array_equal(kept[name], base[name]) for name in base)
    assert all(t.size for t in pair.all("pieces", "adapter")[0].values())


@pytest.mark.parametrize("stage", [0, 3])
def test_bfloat16_starts_at_the_base_and_moves(pair: Ranks, model_dir: Path, stage: int):
    pair.start(model_dir, ADAMW, zero_stage=stage, lora=LORA, dtype="bfloat16")
    start = scores(pair, "ref_logprobs")
    assert np.array_equal(scores(pair, "logprobs"), start)
    pair.train(*RATES)
    assert np.array_equal(scores(pair, "ref_logprobs"), start)
    assert np.abs(scores(pair, "logprobs") - start).max() > 1e-2


@pytest.mark.parametrize("stage", [1, 3])
def test_a_stage_exports_a_whole_model_and_its_adapter(
    pair: Ranks, model_dir: Path, tmp_path: Path, stage: int
):
    from peft import PeftModel

    pair.start(model_dir, ADAMW, zero_stage=stage, lora=LORA)
    pair.train(*RATES)
    expected = scores(pair, "logprobs")
    pair.all("call", "export", str(tmp_path / "model"))
    pair.start(tmp_path / "model", ADAMW, zero_stage=0)
    assert np.abs(scores(pair, "logprobs") - expected).max() < 1e-5
    whole = Policy.load(tmp_path / "model", "float32").vlm
    base = Policy.load(model_dir, "float32").vlm
    opened = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    ids = torch.tensor([[50, 61, 72, 83]])
    with torch.no_grad():
        difference = opened(input_ids=ids).logits - whole(input_ids=ids).logits
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_holds_what_trains_and_goes_on_the_same(
    pair: Ranks, model_dir: Path, tmp_path: Path, stage: int
):
    pair.start(model_dir, ADAMW, zero_stage=stage, lora=LORA)
    pair.train(*RATES)
    pair.all("call", "save", str(tmp_path), "step-000003")
    expected = pair.train(1e-2)
    pair.start(model_dir, ADAMW, zero_stage=stage, lora=LORA)
    pair.all("call", "load", str(tmp_path), "step-000003")
    found = pair.train(1e-2)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    files = [f for f in (tmp_path / "step-000003").rglob("*") if f.is_file()]
    model = (model_dir / "model.safetensors").stat().st_size
    assert 0 < sum(file.stat().st_size for file in files) < model / 2
    for other in (None, {**LORA, "rank": 8}):
        pair.start(model_dir, ADAMW, zero_stage=stage, lora=other)
        with pytest.raises(ConfigError, match=r"learner\.lora is .*, the checkpoint has rank 4"):
            pair.all("call", "load", str(tmp_path), "step-000003")
