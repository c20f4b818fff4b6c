"""Faults of the layout, tried with the learner in bfloat16 on every family."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from learner.model.policy import Policy
from learner.shared_prefix import batch as batch_module
from learner.shared_prefix import float32_check
from learner.shared_prefix.exactness_check import check_layouts
from learner.shared_prefix.float32_check import LIMIT, attention_gap, float32_gap
from learner.shared_prefix.layout import Call, Span
from learner.shared_prefix.rows import Row
from tests.learner.builders import RandomClips, make_row
from tests.learner.shared_prefix.test_shared_prefix import batch_of, rows_of
from tests.tiny_models import MODEL_TYPES, write_tiny_model
from video.positions import PositionRule

CPU = torch.device("cpu")
CALLS = Span.calls.fget


@dataclass
class Engine:
    """A policy in bfloat16, with the batches of its family's rows."""

    policy: Policy
    rule: PositionRule
    clips: RandomClips
    rows: list[Row]

    def in_step(self, rows: list[Row]):
        yield batch_of(rows, self.rule, self.clips)

    @torch.no_grad()
    def score(self, rows: list[Row]) -> list[list[list[float]]]:
        batch = batch_of(rows, self.rule, self.clips)
        parts = iter(self.policy(batch).logp.float().split(batch.lengths))
        return [[next(parts).tolist() for _ in row.responses] for row in rows]

    def check(self, rows: list[Row] | None = None):
        return check_layouts(
            rows or self.rows,
            self.score,
            lambda rows: float32_gap(rows, 4096, self.policy.text_model, CPU, self.in_step),
            "bfloat16",
            lambda gap: gap,
        )


@pytest.fixture(scope="module", params=MODEL_TYPES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = write_tiny_model(tmp_path_factory.mktemp("model"), request.param)
    return Engine(
        Policy.load(folder, "bfloat16"),
        PositionRule.load(folder),
        RandomClips(request.param),
        rows_of(request.param),
    )


def each_other(span: Span) -> list[Call]:
    """Responses see the responses before them."""
    if len(span.responses) == 1:
        return CALLS(span)
    return [Call((span.start, span.end), (span.start, span.end), True)]


def blind(span: Span) -> list[Call]:
    """A prompt that its responses do not see."""
    return [call for call in CALLS(span) if call.causal]


def last_token_unseen(span: Span) -> list[Call]:
    """Responses do not see the last token of their prompt."""
    return [
        call if call.causal else call._replace(keys=(call.keys[0], call.keys[1] - 1))
        for call in CALLS(span)
    ]


def ragged_end(span: Span) -> list[Call]:
    """The last response's last token sees nothing of it but itself."""
    *calls, last = CALLS(span)
    start, end = last.queries
    if len(span.responses) == 1 or end - start < 2:
        return CALLS(span)
    alone = [(start, end - 1), (end - 1, end)]
    return [*calls, *(Call(part, part, True) for part in alone)]


@pytest.mark.parametrize("fault", [each_other, blind, last_token_unseen, ragged_end])
def test_a_wrong_mask_is_found_in_bfloat16(
    engine: Engine, fault: Callable[[Span], list[Call]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Span, "calls", property(fault))
    rows = [make_row(0, (3, 6, 4), 4, model_type=engine.rule.model_type), *engine.rows]
    check = engine.check(rows)
    assert not check.holds
    assert check.float32_gap > 20 * LIMIT


def test_wrong_positions_are_found_in_bfloat16(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    right = batch_module._positions

    def off(row: Row, *rest):
        positions = right(row, *rest)
        if len(row.responses) > 1:
            positions[:, -len(row.responses[-1].token_ids) :] += 3
        return positions

    monkeypatch.setattr(batch_module, "_positions", off)
    check = engine.check()
    assert not check.holds
    assert check.float32_gap > 20 * LIMIT


def test_model_code_that_takes_no_heed_of_positions_is_found(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    kind = type(engine.policy.text_model)
    forward = kind.forward

    def deaf(self, position_ids=None, **rest):
        return forward(self, **rest)

    monkeypatch.setattr(kind, "forward", deaf)
    check = engine.check()
    assert not check.holds
    assert check.float32_gap > 20 * LIMIT


def test_right_layouts_hold(engine: Engine):
    check = engine.check()
    assert check.holds
    assert check.float32_gap < LIMIT / 20


def test_a_hundred_random_layouts_of_three_families_raise_no_false_alarm(engine: Engine):
    random = np.random.default_rng(0)
    config = engine.policy.vlm.config.text_config
    worst = 0.0
    for _ in range(34):
        rows = [
            make_row(
                index,
                tuple(random.integers(1, 12, random.integers(1, 7)).tolist()),
                num_text=int(random.integers(1, 150)),
                model_type=engine.rule.model_type,
            )
            for index in range(random.integers(1, 4))
        ]
        worst = max(worst, attention_gap(rows, config, CPU))
    assert worst < LIMIT / 20


def test_what_is_not_a_number_is_a_gap(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    def broken(module, query, *rest, **keywords):
        return (sum(x.sum() for x in (query, *rest[:2])) + query.transpose(1, 2)) * np.nan, None

    monkeypatch.setattr(float32_check, "attend", broken)
    assert np.isnan(attention_gap(engine.rows, engine.policy.vlm.config.text_config, CPU))
