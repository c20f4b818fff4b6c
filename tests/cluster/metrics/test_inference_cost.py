"""What an answer costs at inference."""

import pytest

from cluster.metrics.inference_cost import InferenceCost, TokenCount
from tests.groups import make_group, make_trace
from wire.token_arrays import TokenIds
from wire.types import Prompt

VIDEO = 7


def around_clip(prompt: Prompt) -> list[int]:
    return [token for token in prompt.token_ids if token != VIDEO]


def prompt(*ids: int) -> Prompt:
    return Prompt(token_ids=TokenIds(ids), clip_key="k", fingerprint="f")


def test_a_cost_is_the_mean_over_clips_and_tells_video_tokens_apart():
    count = TokenCount(around_clip)
    count.add(prompt(1, VIDEO, VIDEO, 2), scored=5)
    count.add(prompt(1, 2), generated=4, scored=5)
    cost = count.cost(2, 3.0)
    assert cost == InferenceCost(
        prompt_tokens=3.0, video_tokens=1.0, generated_tokens=2.0, scored_tokens=5.0, seconds=1.5
    )
    assert count.cost(0, 3.0) is None


def test_a_failed_clip_counts_nothing_and_a_group_counts_its_prompt_once():
    group = make_group(make_trace(1.0), make_trace(0.0))
    count = TokenCount(around_clip)
    list(count.counted([group]))
    cost = count.cost(1, None)
    assert cost is not None
    assert group.prompt is not None
    assert cost.prompt_tokens == len(group.prompt.token_ids)
    assert cost.generated_tokens == sum(len(t.completion.token_ids) for t in group.traces)


def test_costs_of_two_passes_add_up_and_seconds_only_where_both_are_known():
    one = InferenceCost(
        prompt_tokens=10, video_tokens=4, generated_tokens=30, scored_tokens=0, seconds=0.5
    )
    two = InferenceCost(
        prompt_tokens=50, video_tokens=4, generated_tokens=0, scored_tokens=5, seconds=0.1
    )
    both = one + two
    assert (both.prompt_tokens, both.generated_tokens, both.scored_tokens) == (60, 30, 5)
    assert both.seconds == pytest.approx(0.6)
    unknown = InferenceCost(
        prompt_tokens=0, video_tokens=0, generated_tokens=0, scored_tokens=0, seconds=None
    )
    assert (one + unknown).seconds is None
    assert (one + unknown).price(2.0) is None


def test_a_price_is_that_of_a_thousand_clips():
    cost = InferenceCost(
        prompt_tokens=0, video_tokens=0, generated_tokens=0, scored_tokens=0, seconds=0.36
    )
    assert cost.price(2.5) == pytest.approx(0.25)


def test_a_result_of_an_older_run_has_no_cost():
    assert InferenceCost.of_result({"evaluation": {}}) is None
