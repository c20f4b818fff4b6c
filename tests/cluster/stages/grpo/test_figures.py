import math

import pytest

from cluster.loop import StepGroups
from cluster.stages.grpo.figures import CacheHitRates, of_updates, throughput
from tests.groups import make_group, make_trace


def test_updates_that_were_left_out_are_counted_and_are_in_no_mean():
    good = {"grad_norm": 2.0, "update_skipped": 0.0, "parity/max_logprob_diff": 0.1}
    bad = {"grad_norm": math.nan, "update_skipped": 1.0, "parity/max_logprob_diff": math.inf}
    step = of_updates([good, bad, good | {"grad_norm": 4.0}])
    assert step["grad_norm"] == 3.0
    assert step["update_skipped"] == pytest.approx(1 / 3)
    assert math.isnan(step["parity/max_logprob_diff"])


def test_a_figure_that_only_some_updates_have_is_theirs():
    step = of_updates([{"nll": 1.0, "shared_prefix/self_check": 1e-6}, {"nll": 3.0}, {"late": 1.0}])
    assert step == {"nll": 2.0, "shared_prefix/self_check": 1e-6, "late": 1.0}
    assert of_updates([]) == {}


def test_the_learners_pace_counts_what_it_computed_and_no_replaced_group():
    group = make_group(make_trace(tokens=range(10)), make_trace(tokens=range(10)))  # prompt: 2
    seconds = {"timing_s/step": 4.0, "timing_s/gen": 1.0, "timing_s/update_actor": 2.0}
    figures = throughput(StepGroups(trained=[group], replaced=[group]), seconds, epochs=3)
    assert figures["perf/train_tokens_per_s"] == 3 * 22 / 2
    assert figures["perf/rollout_tokens_per_s"] == 40
    assert figures["perf/total_num_tokens"] == 2 * 24


async def test_hit_rates_are_of_the_requests_since_the_last_call():
    clips, tokens = {"clip_hits": 90, "clip_misses": 10}, {"prompt_tokens": 100}

    async def counts() -> dict[str, int]:
        return clips

    rates = CacheHitRates(counts, tokens)
    await rates.of_step()  # of the stages before
    clips = {"clip_hits": 90, "clip_misses": 14}
    assert await rates.of_step() == {"cache/clip_hit_rate": 0.0}
    clips = {"clip_hits": 90, "clip_misses": 14, "restarted_traces": 5}
    assert await rates.of_step() == {"off_policy/num_restarted_traces": 5.0}
