"""History of a policy in bfloat16 over real updates, as learner and engine answer the parity probe.
(No test file.)

The learner is the project's policy with AdamW on float32 masters; the engine is transformers' own
model with its plain attention and a dense mask, on the same memory: other kernels round.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learner.model.policy import Policy
from learner.objective.loss import supervised_loss
from learner.shared_prefix.batch import make_batch
from learner.shared_prefix.rows import Response, Row
from tests.learner.builders import RandomClips, make_row
from video.positions import PositionRule
from wire.token_arrays import TokenIds
from wire.weight_digest import DigestRecorder

CLIPS = RandomClips("qwen2_5_vl")
NUM_PROBE_TOKENS, NUM_BESIDE = 128, 32
Mask = Callable[[Tensor, int], Tensor]


def causal(mask: Tensor, prompt: int) -> Tensor:
    return mask


def one_prompt_token_unseen(mask: Tensor, prompt: int) -> Tensor:
    mask[prompt:, 3] = False
    return mask


def prompt_unseen(mask: Tensor, prompt: int) -> Tensor:
    mask[prompt:, :prompt] = False
    return mask


def sees_the_future(mask: Tensor, prompt: int) -> Tensor:
    mask[prompt:, prompt:] = True
    return mask


def sliding_window(mask: Tensor, prompt: int) -> Tensor:
    return mask & ~torch.ones_like(mask).tril(-16)


@dataclass
class Sides:
    """A policy on both sides, and the probe."""

    policy: Policy
    vlm: Any
    """The engine's model."""
    rule: PositionRule
    prompt: Row
    words: list[int]
    beside: list[int]

    @classmethod
    def of(cls, folder: Path) -> "Sides":
        random = np.random.default_rng(0)
        policy, engine = Policy.load(folder, "bfloat16"), Policy.load(folder, "bfloat16").vlm
        engine.set_attn_implementation("eager")
        for one, other in zip(engine.parameters(), policy.vlm.parameters(), strict=True):
            one.data = other.data
        return cls(
            policy,
            engine,
            PositionRule.load(folder),
            make_row(0, (1,), num_text=20, model_type="qwen2_5_vl"),
            random.integers(30, 60, NUM_PROBE_TOKENS).tolist(),
            random.integers(30, 60, NUM_BESIDE).tolist(),
        )

    def batch(self, row: Row) -> Any:
        return make_batch([row], lambda row: CLIPS.load(row.prompt.clip_key, "", ""), self.rule)

    @torch.no_grad()
    def learner(self, *beside: list[int]) -> np.ndarray:
        responses = tuple(Response(token_ids=TokenIds(ids)) for ids in (self.words, *beside))
        logp = self.policy(self.batch(replace(self.prompt, responses=responses))).logp
        return logp[: len(self.words)].float().numpy()

    @torch.no_grad()
    def engine(
        self, beside: Sequence[int] = (), mask: Mask = causal, shift: int = 0, vlm: Any = None
    ) -> np.ndarray:
        prompt = list(self.prompt.prompt.token_ids)
        clip, start = CLIPS.load(self.prompt.prompt.clip_key, "", ""), len(prompt)
        ids = [*prompt, *self.words, *beside]
        positions = self.rule.of_prompt(ids, clip.grid_thw, clip.seconds_per_grid).copy()
        positions[:, start:] += shift
        seen = mask(torch.ones(len(ids), len(ids), dtype=torch.bool).tril(), start)
        vlm = vlm or self.vlm
        logits = vlm(
            input_ids=torch.tensor([ids]),
            position_ids=torch.from_numpy(positions)[:, None],
            attention_mask={
                "full_attention": torch.where(seen, 0.0, -torch.inf).to(vlm.dtype)[None, None]
            },
            pixel_values_videos=torch.from_numpy(clip.pixel_values).to(vlm.dtype),
            video_grid_thw=torch.tensor([clip.grid_thw]),
        ).logits[0, start - 1 : start - 1 + len(self.words)]
        logp = logits.float().log_softmax(-1)
        return logp[torch.arange(len(self.words)), torch.tensor(self.words)].numpy()

    def swapped(self, layer: int, one: str, other: str) -> Any:
        """A copy of the model in which two matrices of a layer have traded places."""
        vlm = copy.deepcopy(self.vlm)
        parts = vlm.model.language_model.layers[layer]
        first, second = (parts.get_parameter(f"{name}.weight") for name in (one, other))
        first.data, second.data = second.data.clone(), first.data.clone()
        return vlm

    def digests(self) -> dict[str, int]:
        recorder = DigestRecorder()
        for _ in recorder.of(self.policy.vlm.named_parameters()):
            pass
        return recorder.digests


@dataclass
class History:
    """Answers and digests of every version."""

    learner: list[np.ndarray]
    engine: list[np.ndarray]
    digests: list[dict[str, int]]


def train(sides: Sides, learning_rate: float, num_updates: int) -> History:
    parameters = list(dict.fromkeys(sides.policy.parameters()))
    masters = [p.detach().float().clone() for p in parameters]
    optimizer = torch.optim.AdamW(masters, lr=learning_rate, weight_decay=0.1)
    history = History([sides.learner()], [sides.engine()], [sides.digests()])
    for step in range(num_updates):
        row = make_row(100 + step, (8, 8, 8, 8), num_text=20, model_type="qwen2_5_vl")
        batch = sides.batch(row)
        weight = torch.randn(4, generator=torch.Generator().manual_seed(step))
        logp = sides.policy(batch).logp
        supervised_loss(logp, weight.repeat_interleave(8), batch.mask, 32).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for master, parameter in zip(masters, parameters, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        optimizer.step()
        for master, parameter in zip(masters, parameters, strict=True):
            parameter.data.copy_(master)
        history.learner.append(sides.learner())
        history.engine.append(sides.engine())
        history.digests.append(sides.digests())
    return history
