"""Shared prefix is exact: a row of G responses is G rows of one response, and is transformers."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learner.model.policy import Policy
from learner.model.token_head import TokenHead
from learner.model.trained_parts import Part, freeze
from learner.objective.loss import supervised_loss
from learner.shared_prefix.attention import NAME
from learner.shared_prefix.batch import make_batch, micro_batches
from learner.shared_prefix.rows import Response, Row, one_row_per_response, split_rows
from tests.learner.builders import VIDEO_TOKEN, RandomClips, make_row
from tests.tiny_models import MODEL_TYPES, write_tiny_model
from video.positions import PositionRule
from wire.errors import ConfigError
from wire.token_arrays import TokenIds
from wire.types import Prompt

CLIPS = RandomClips()


def rows_of(model_type: str) -> list[Row]:
    sizes = [((3, 6, 1), 4), ((4, 2), 9)]
    return [make_row(i, *size, model_type=model_type) for i, size in enumerate(sizes)]


def each_apart(rows: Sequence[Row]) -> list[Row]:
    return [one for row in rows for one in one_row_per_response(row)]


ROWS = rows_of("qwen2_5_vl")
APART = each_apart(ROWS)


@dataclass(frozen=True)
class Case:
    """A family's tiny model, and rows about clips as the family lays them out."""

    policy: Policy
    rule: PositionRule
    clips: RandomClips
    rows: list[Row]

    def scores(self, parts: Sequence[Sequence[Row]]) -> tuple[torch.Tensor, torch.Tensor]:
        return logprobs_and_gradient(self.policy, parts, self.rule, self.clips)


@pytest.fixture(scope="module", params=MODEL_TYPES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = write_tiny_model(tmp_path_factory.mktemp("model"), request.param)
    policy = Policy.load(folder, "float32")
    clips = RandomClips(request.param)
    return Case(policy, PositionRule.load(folder), clips, rows_of(request.param))


@pytest.fixture(scope="module")
def policy(model_dir: Path) -> Policy:
    return Policy.load(model_dir, "float32")


@pytest.fixture(scope="module")
def rule(model_dir: Path) -> PositionRule:
    return PositionRule.load(model_dir)


def batch_of(rows: Sequence[Row], rule: PositionRule, clips: RandomClips = CLIPS):
    return make_batch(rows, lambda row: clips.load(row.prompt.clip_key, "", ""), rule)


def logprobs_and_gradient(
    policy: Policy,
    parts: Sequence[Sequence[Row]],
    rule: PositionRule,
    clips: RandomClips = CLIPS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of micro-batches: logprobs [N], gradient of the weighted sum, flat."""
    policy.zero_grad()
    found = []
    for part in parts:
        batch = batch_of(part, rule, clips)
        logp = policy(batch).logp
        supervised_loss(logp, batch.advantage, batch.mask, 16).loss.backward()
        found.append(logp.detach())
    gradient = [p.grad.flatten() for p in policy.parameters() if p.grad is not None]
    return torch.cat(found), torch.cat(gradient)


def plain_transformers(case: Case, row: Row) -> torch.Tensor:
    """Logprobs of a row's one response by an ordinary causal forward pass."""
    (response,) = row.responses
    clip = case.clips.load(row.prompt.clip_key, "", "")
    ids = torch.tensor([row.prompt.token_ids + response.token_ids])
    if case.rule.family.writes_times:  # transformers' own positions; elsewhere they ignore time
        positions = {"mm_token_type_ids": 2 * (ids == VIDEO_TOKEN).int()}
    else:
        ours = case.rule.of_prompt(ids[0].tolist(), clip.grid_thw, clip.seconds_per_grid)
        positions = {"position_ids": torch.from_numpy(ours)[:, None]}
    logits = case.policy.vlm(
        input_ids=ids,
        **positions,
        pixel_values_videos=torch.from_numpy(clip.pixel_values),
        video_grid_thw=torch.tensor([clip.grid_thw]),
    ).logits[0, -len(response.token_ids) - 1 : -1]
    targets = torch.tensor(response.token_ids)
    return logits.log_softmax(-1)[torch.arange(len(targets)), targets]


def test_responses_behind_one_prompt_equal_responses_apart(case: Case):
    logp, gradient = case.scores([case.rows])
    apart = each_apart(case.rows)
    for parts in ([apart], [[row] for row in apart]):
        logp_apart, gradient_apart = case.scores(parts)
        assert (logp - logp_apart).abs().max() < 1e-5
        assert (gradient - gradient_apart).norm() / gradient.norm() < 1e-5


def test_logprobs_and_gradient_equal_plain_transformers(case: Case):
    logp, gradient = case.scores([case.rows])
    case.policy.zero_grad()
    apart = each_apart(case.rows)
    plain = torch.cat([plain_transformers(case, row) for row in apart])
    weight = torch.cat(
        [torch.full((len(r.token_ids),), r.advantage) for row in apart for r in row.responses]
    )
    (-(plain * weight).sum() / 16).backward()
    expected = torch.cat([p.grad.flatten() for p in case.policy.parameters() if p.grad is not None])
    assert (logp - plain).abs().max() < 1e-5
    assert (gradient - expected).norm() / expected.norm() < 1e-5


@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(30, 120),
    st.booleans(),
    st.booleans(),
)
def test_any_packing_and_splitting_is_exact(
    case: Case, lengths: list[list[int]], budget: int, same_clip: bool, checkpointing: bool
):
    model_type = case.rule.model_type
    rows = [
        make_row(i * (not same_clip), sizes, num_text=3 + i, model_type=model_type)
        for i, sizes in enumerate(lengths)
    ]
    logp, gradient = case.scores([[row] for row in each_apart(rows)])
    if checkpointing:
        case.policy.train()  # else transformers would not recompute
        case.policy.vlm.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        found, of_found = case.scores(list(micro_batches(split_rows(rows, budget), budget)))
    finally:
        case.policy.vlm.gradient_checkpointing_disable()
        case.policy.eval()
    assert (found - logp).norm() / logp.norm() < 1e-5
    assert (of_found - gradient).norm() / gradient.norm() < 1e-5


def test_bfloat16_is_as_near_the_truth_as_repeated_prompts(case: Case):
    """Truth: float32 with the same rounded weights."""
    rounded = copy.deepcopy(case.policy).bfloat16()
    true = copy.deepcopy(rounded).float()
    truth = logprobs_and_gradient(true, [case.rows], case.rule, case.clips)
    found = logprobs_and_gradient(rounded, [case.rows], case.rule, case.clips)
    naive = logprobs_and_gradient(rounded, [each_apart(case.rows)], case.rule, case.clips)
    for one, other, exact in zip(found, naive, truth, strict=True):
        noise = (other - exact).norm()
        assert (one - exact).norm() < 1.5 * noise
        assert noise > 0


def test_rows_of_text_alone_pack_with_rows_about_clips(case: Case):
    prompt = Prompt(token_ids=(41, 42, 43), clip_key="", fingerprint="")
    responses = tuple(Response(token_ids=TokenIds((50 + i, 51))) for i in range(2))
    text = Row(prompt=prompt, video="", responses=responses)
    alone, of_text = case.scores([[text]])
    mixed, of_mixed = case.scores([[case.rows[0], text]])
    clips, of_clips = case.scores([[case.rows[0]]])
    assert torch.allclose(mixed, torch.cat([clips, alone]), atol=1e-5)
    assert (of_mixed - of_clips - of_text).norm() / of_mixed.norm() < 1e-5
    ids = torch.tensor([prompt.token_ids + responses[1].token_ids])
    plain = case.policy.vlm(input_ids=ids).logits.log_softmax(-1)[0, [2, 3], ids[0, 3:]]
    assert torch.allclose(alone[2:], plain, atol=1e-5)
    tower = list(case.policy.vlm.model.visual.parameters())
    case.scores([[text]])  # the tower ran, with weight 0: ranks stay in step under ZeRO-3
    assert all(p.grad is not None and not p.grad.any() for p in tower)


def test_the_vision_tower_keeps_its_own_attention_and_the_export_its_config(case: Case):
    vlm = case.policy.vlm
    assert vlm.config.text_config._attn_implementation == NAME
    assert vlm.config.vision_config._attn_implementation == "sdpa"
    assert NAME not in vlm.config.to_json_string()


def test_pixels_and_deepstack_features_reach_every_family(case: Case):
    """Else the comparisons above would hold of a model that does not see."""
    logp, _ = case.scores([case.rows])
    untrained = [
        name
        for name, parameter in case.policy.vlm.model.visual.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum()
    ]
    assert untrained == []
    other = [
        replace(row, prompt=replace(row.prompt, clip_key=str(7 + i)))
        for i, row in enumerate(case.rows)
    ]
    assert (case.scores([other])[0] - logp).abs().max() > 1e-2


def test_chunks_of_the_head_change_nothing(policy: Policy, rule: PositionRule):
    whole, gradient = logprobs_and_gradient(policy, [ROWS], rule)
    policy.head = TokenHead(policy.vlm.lm_head, places=3, words=50)
    in_chunks, gradient_in_chunks = logprobs_and_gradient(policy, [ROWS], rule)
    policy.head = TokenHead(policy.vlm.lm_head)
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
    frozen = Policy.load(model_dir, "float32")
    freeze(frozen, [Part.MERGER, Part.VISION_TOWER])
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
        Policy.load(tmp_path, "float32")


def test_a_truncated_weights_file_is_refused(model_dir: Path, tmp_path: Path):
    (tmp_path / "config.json").write_bytes((model_dir / "config.json").read_bytes())
    whole = (model_dir / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="safetensors"):
        Policy.load(tmp_path, "float32")
