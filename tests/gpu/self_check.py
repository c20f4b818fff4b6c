"""The check that a learner makes before its first update: passes here, and finds planted faults.

A small model of each family in bfloat16, three groups of several blocks of FlexAttention. A fault
is planted where the layout reaches the attention, or in the positions of a packed row; rows of one
response stay right, as they would with a mask that is wrong.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch

from learner.model import policy as policy_module
from learner.model.policy import Policy
from learner.shared_prefix import float32_check
from learner.shared_prefix.attention import layout_keywords
from learner.shared_prefix.batch import TrainBatch, make_batch, micro_batches
from learner.shared_prefix.exactness_check import LayoutCheck, check_layouts
from learner.shared_prefix.layout import Layout, Span
from learner.shared_prefix.rows import Row
from tests.benchmarks.figures import Figure
from tests.gpu.models import Words, rule_of
from tests.gpu.setting import Setting
from tests.learner.builders import RandomClips, make_row
from tests.tiny_models import build_model
from video.positions import PositionRule

_MAX_TOKENS = 4096
_SHAPES = [((70, 200, 33), 300), ((5, 9), 20), ((130, 1), 100)]


def seen_by_each_other(span: Span) -> Span:
    """Responses of a group as one."""
    return Span(span.start, (span.end_of_prompt,), span.end)


def last_token_hidden(span: Span) -> Span:
    """The prompt's last token seen by the first response alone."""
    return Span(span.start, (span.responses[0] - 1, *span.responses[1:]), span.end)


_MASK_FAULTS: dict[str, Callable[[Span], Span]] = {
    "responses_see_each_other": seen_by_each_other,
    "last_prompt_token_hidden": last_token_hidden,
}


def figures(setting: Setting, family: str) -> Iterator[Figure]:
    """The gaps as they are, and with each fault."""
    rows = [make_row(i, *shape, model_type=family) for i, shape in enumerate(_SHAPES)]
    model = build_model(family, Words(), 0).to(setting.device, torch.bfloat16).eval()
    trial = Trial(Policy(model), rule_of(family, model), family, torch.device(setting.device))
    right = trial.check(rows)
    name = f"self_check/{family}/bfloat16"
    yield Figure(f"{name}/logprobs", right.gap, "gap", right.limit, "below")
    yield Figure(f"{name}/in_float32", right.float32_gap, "gap", float32_check.LIMIT, "below")
    for fault, wrong in _MASK_FAULTS.items():
        with ExitStack() as planted:
            for module in (policy_module, float32_check):
                planted.enter_context(patch.object(module, "layout_keywords", _by(wrong)))
            yield found(f"{name}/fault/{fault}", trial.check(rows))
    yield found(f"{name}/fault/positions_off_by_3", replace(trial, shift=3).check(rows))


def found(name: str, check: LayoutCheck) -> Figure:
    """How far above its limit a fault is."""
    times = max(check.gap / check.limit, check.float32_gap / float32_check.LIMIT)
    return Figure(name, times, "x limit", 1.0, "above")


def _by(wrong: Callable[[Span], Span]) -> Callable[..., dict[str, Any]]:
    def keywords(layout: Layout, device: torch.device) -> dict[str, Any]:
        return layout_keywords(Layout(tuple(map(wrong, layout.spans))), device)

    return keywords


@dataclass(frozen=True)
class Trial:
    """A policy on the device, asked as a rank of the learner asks it."""

    policy: Policy
    rule: PositionRule
    family: str
    device: torch.device
    shift: int = 0
    """A planted fault: added to the positions of all responses but each group's first."""

    def check(self, rows: Sequence[Row]) -> LayoutCheck:
        """The check, with this policy."""

        def float32_gap(rows: Sequence[Row]) -> float:
            return float32_check.float32_gap(
                rows, _MAX_TOKENS, self.policy.text_model, self.device, self.in_step
            )

        return check_layouts(rows, self.score, float32_gap, "bfloat16", lambda gap: gap)

    def in_step(self, rows: Sequence[Row]) -> Iterator[TrainBatch]:
        clips = RandomClips(self.family)
        for part in micro_batches(rows, _MAX_TOKENS):
            batch = make_batch(part, lambda row: clips.load(row.prompt.clip_key, "", ""), self.rule)
            positions = batch.position_ids.clone()
            for span in batch.layout.spans:
                for start, end in span.response_spans[1:]:
                    positions[..., start:end] += self.shift
            yield replace(batch, position_ids=positions).to(self.device)

    @torch.no_grad()
    def score(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        scores = [
            part.tolist()
            for batch in self.in_step(rows)
            for part in self.policy(batch).logp.split(batch.lengths)
        ]
        parts = iter(scores)
        return [[next(parts) for _ in row.responses] for row in rows]
