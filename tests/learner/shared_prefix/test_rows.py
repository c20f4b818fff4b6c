import pickle
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from learner.config import GrpoLossConfig
from learner.objective.credit import with_advantages
from learner.shared_prefix.rows import (
    Response,
    Row,
    StepCounts,
    as_filler,
    assign_to_ranks,
    grpo_rows,
    prompt_end_row,
    split_rows,
    supervised_row,
)
from tests.groups import make_trace
from tests.learner.builders import make_group, make_prompt, make_row
from wire.token_arrays import Logprobs, TokenIds

row_lengths = st.lists(st.integers(1, 60), min_size=1, max_size=20)


def test_a_group_becomes_one_row_with_its_advantages():
    group = make_group(make_trace(2.0, (50, 51)), make_trace(0.0, (52,)))
    (row,) = with_advantages(grpo_rows([group]), GrpoLossConfig(adv_epsilon=0.0))
    assert row.prompt == group.prompt
    assert [r.token_ids for r in row.responses] == [(50, 51), (52,)]
    assert [round(r.advantage, 4) for r in row.responses] == [0.7071, -0.7071]
    assert [r.rollout_logprobs for r in row.responses] == [(-1.0, -1.0), (-1.0,)]


def test_a_row_is_sent_as_four_bytes_a_number_and_a_split_one_sends_its_prompt_once():
    """The driver packs every row of a step; as Python numbers it was many times as much work."""
    draw = np.random.default_rng(0)
    prompt = replace(make_prompt(), token_ids=TokenIds(draw.integers(0, 150_000, 16_000)))
    response = Response(
        token_ids=TokenIds(draw.integers(0, 150_000, 1_000)),
        rollout_logprobs=Logprobs(-draw.random(1_000)),
        old_logprobs=Logprobs(-draw.random(1_000)),
    )
    responses = tuple(
        replace(response, token_ids=TokenIds(list(response.token_ids))) for _ in range(8)
    )
    row = Row(prompt=prompt, video="a.mp4", responses=responses)
    numbers = 16_000 + 1_000 * 8 + 2 * 1_000  # the logprobs are one object here
    assert len(pickle.dumps(row)) < 4 * numbers * 1.05
    parts = split_rows([row], max_tokens=18_000)
    assert len(parts) == 4
    assert len(pickle.dumps(parts)) < 4 * numbers * 1.05
    assert pickle.loads(pickle.dumps(parts)) == parts


def test_a_trace_whose_scoring_failed_is_left_out_of_row_and_baseline():
    scored = [make_trace(2.0), make_trace(0.0), make_trace(0.0)]
    (with_failure,) = grpo_rows([make_group(scored[0], make_trace(None), *scored[1:])])
    (without,) = grpo_rows([make_group(*scored)])
    assert with_failure.responses == without.responses


def test_groups_without_a_scored_trace_make_no_row():
    assert grpo_rows([make_group(), make_group(make_trace(None))]) == []


def test_a_group_without_signal_still_counts_its_tokens():
    rows = grpo_rows([make_group(make_trace(1.0), make_trace(1.0))])
    (row,) = with_advantages(rows, GrpoLossConfig())
    assert [r.advantage for r in row.responses] == [0.0, 0.0]
    assert row.num_trained == 4


def test_a_supervised_row_trains_its_target_alone():
    row = supervised_row(make_prompt(), "0.mp4", [50, 51, 52])
    assert row.num_trained == 3
    assert row.responses[0].advantage == 1.0
    assert row.responses[0].rollout_logprobs is None


def test_a_filler_counts_nothing():
    assert as_filler(make_row()).num_trained == 0


def test_rows_survive_pickle():
    assert pickle.loads(pickle.dumps(make_row())) == make_row()


def test_a_rank_without_rows_gets_the_shortest_as_a_filler():
    rows = [make_row(0, (9,)), make_row(1, (2,))]
    per_rank = assign_to_ranks(rows, 4)
    assert sorted(map(len, per_rank)) == [1, 1, 1, 1]
    fillers = [hand[0] for hand in per_rank if not hand[0].num_trained]
    assert fillers == [as_filler(rows[1])] * 2


@given(row_lengths, st.integers(1, 5))
def test_dealing_loses_and_repeats_nothing_and_keeps_order(lengths: list[int], num_ranks: int):
    rows = [make_row(seed, (length,)) for seed, length in enumerate(lengths)]
    per_rank = assign_to_ranks(rows, num_ranks)
    trained = [[row for row in hand if row.num_trained] for hand in per_rank]
    assert all(per_rank)
    assert sorted(row.prompt.clip_key for hand in trained for row in hand) == sorted(
        row.prompt.clip_key for row in rows
    )
    for hand in trained:
        places = [rows.index(row) for row in hand]
        assert places == sorted(places)


@given(row_lengths, st.integers(1, 5))
def test_no_rank_has_more_than_one_row_above_the_lightest(lengths: list[int], num_ranks: int):
    rows = [make_row(seed, (length,)) for seed, length in enumerate(lengths)]
    loads = [
        sum(r.num_tokens for r in hand if r.num_trained)
        for hand in assign_to_ranks(rows, num_ranks)
    ]
    assert max(loads) - min(loads) <= max(row.num_tokens for row in rows)


groups = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=6), min_size=1, max_size=4)


@given(groups, st.integers(1, 60))
def test_a_group_is_split_into_the_fewest_rows_that_fit(lengths: list[list[int]], max_tokens: int):
    rows = [make_row(seed, parts) for seed, parts in enumerate(lengths)]
    found = split_rows(rows, max_tokens)
    assert StepCounts.of(found) == StepCounts.of(rows)
    for row in rows:
        parts = [part for part in found if part.prompt == row.prompt]
        assert tuple(r for part in parts for r in part.responses) == row.responses
        for part, following in zip(parts, [*parts[1:], None], strict=True):
            assert part.num_tokens <= max_tokens or len(part.responses) == 1
            if following:
                assert part.num_tokens + len(following.responses[0].token_ids) > max_tokens


def test_a_row_that_ends_with_its_prompt_holds_the_prompts_tokens_and_no_answer():
    prompt = make_prompt()
    row = prompt_end_row(prompt, "clip.mp4")
    (response,) = row.responses
    assert (*row.prompt.token_ids, *response.token_ids) == tuple(prompt.token_ids)
    assert (len(response.token_ids), row.num_tokens) == (1, len(prompt.token_ids))
