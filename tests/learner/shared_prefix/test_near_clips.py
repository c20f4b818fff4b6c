from dataclasses import replace
from random import Random

import pytest

from learner.shared_prefix.near_clips import move_near_clips
from learner.shared_prefix.rows import Row, assign_to_ranks, supervised_row
from wire.types import Prompt


def make_row(video: str, num_tokens: int) -> Row:
    prompt = Prompt(token_ids=(1,), clip_key=video, fingerprint="f")
    return supervised_row(prompt, video, [2] * (num_tokens - 1))


def videos(per_rank: list[list[Row]]) -> list[list[str]]:
    return [[row.video for row in rows] for rows in per_rank]


def test_rows_of_one_size_change_places_until_each_is_where_its_clip_is():
    per_rank = [[make_row("a1", 9), make_row("b1", 9)], [make_row("a2", 9), make_row("b2", 9)]]
    near = {"a": [0], "b": [1]}
    moved = move_near_clips(per_rank, lambda row: near[row.video[0]])
    assert videos(moved) == [["a1", "a2"], ["b1", "b2"]]


def test_a_row_stays_away_from_its_clip_where_balance_would_be_lost_and_comes_last():
    per_rank = [[make_row("b1", 20), make_row("a1", 80)], [make_row("b2", 100)]]
    moved = move_near_clips(per_rank, lambda row: [0] if row.video[0] == "a" else [1])
    assert videos(moved) == [["a1", "b1"], ["b2"]]


def test_no_rank_is_left_without_rows():
    per_rank = [[make_row("b1", 10)], [make_row("b2", 10), make_row("b3", 40)]]
    assert videos(move_near_clips(per_rank, lambda _: [1])) == [["b1"], ["b2", "b3"]]


def test_on_one_node_nothing_moves():
    per_rank = [[make_row("a", 3), make_row("b", 4)], [make_row("c", 9)]]
    assert move_near_clips(per_rank, lambda _: [0, 1]) == per_rank


@pytest.mark.parametrize(("num_rows", "share"), [(64, 0.8), (128, 0.88)])
def test_most_rows_of_a_step_are_near_their_clips_and_tokens_stay_balanced(
    num_rows: int, share: float
):
    """16 ranks on 4 nodes; a step's clips have their homes at random, so that 91% (of 64 rows) and
    94% (of 128) could be at home if only their numbers counted."""
    random = Random(0)
    homes = [[random.randrange(4) for _ in range(num_rows)] for _ in range(10)]
    near = [near_share(home, random) for home in homes]
    assert sum(near) / len(near) > share


def near_share(home: list[int], random: Random) -> float:
    """Share of a step's rows that end up at home."""
    step = [make_row(f"{n}", 420 + random.randrange(200)) for n in range(len(home))]
    dealt = assign_to_ranks(step, 16)
    moved = move_near_clips(dealt, lambda row: range(16)[4 * home[int(row.video)] :][:4])
    together = sorted(int(row.video) for part in moved for row in part)
    assert together == list(range(len(home)))
    loads = [[sum(row.num_tokens for row in part) for part in each] for each in (dealt, moved)]
    assert max(loads[1]) <= 1.01 * max(loads[0])
    at_home = [home[int(row.video)] == k // 4 for k, part in enumerate(moved) for row in part]
    return sum(at_home) / len(home)


def test_a_row_that_two_ranks_have_in_parts_is_in_neither_lost():
    whole = make_row("a", 30)
    parts = [replace(whole, responses=whole.responses) for _ in range(2)]
    moved = move_near_clips([[parts[0]], [parts[1], make_row("b", 5)]], lambda _: [0])
    assert sorted(len(part) for part in moved) == [1, 2]
