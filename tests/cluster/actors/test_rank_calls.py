import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, RayTaskError

from cluster.actors.rank_calls import MICRO_BATCHES_PER_CALL, RankCalls, _answer
from cluster.metrics.step_timelines import StepTimelines, timeline_files
from learner.shared_prefix.rows import Row
from tests.learner.builders import make_row
from wire.errors import DeadlineExceeded, PeersLost, RankDied, RankHung

NUM_RANKS = 3
ROWS = [make_row(seed, (3 + seed % 4,)) for seed in range(200)]
MAX_TOKENS = 20  # of a micro-batch: one or two rows


class Remote:
    """A method of an actor, as Ray gives it."""

    def __init__(self, method: Any) -> None:
        self.remote = method


class Rank:
    """An actor that answers with the rows' own numbers, and notes the rows of each call."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls: list[list[Row]] = []
        self.features, self.logprobs = Remote(self._features), Remote(self._logprobs)
        self._seconds = seconds

    async def _features(self, rows: list[Row]) -> Any:
        return np.array([[number] for number in await self._logprobs(rows)])

    async def _logprobs(self, rows: list[Row], plus: int = 0) -> list[int]:
        await asyncio.sleep(self._seconds)
        self.calls.append(rows)
        return [ROWS.index(row) + plus for row in rows]


def calls_of(*ranks: Rank, timeout_s: float = 5.0) -> RankCalls:
    return RankCalls(ranks, timeout_s, MAX_TOKENS)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 50, 200])
async def test_values_of_blocks_come_in_the_order_of_the_rows(num_rows: int):
    ranks = [Rank() for _ in range(NUM_RANKS)]
    blocks = calls_of(*ranks).in_blocks("logprobs", ROWS[:num_rows])
    assert [value async for block in blocks for value in block] == list(range(num_rows))
    blocks = calls_of(*ranks).in_blocks("features", ROWS[:num_rows])
    values = np.concatenate([np.stack(block) async for block in blocks])
    assert values[:, 0].tolist() == list(range(num_rows))
    blocks = calls_of(*ranks).in_blocks("logprobs", ROWS[:num_rows], 7)
    assert [value async for block in blocks for value in block] == list(range(7, 7 + num_rows))


async def test_rows_go_to_ranks_near_their_clips_and_their_values_come_back_in_order():
    ranks = [Rank() for _ in range(NUM_RANKS)]
    calls = RankCalls(ranks, 5.0, MAX_TOKENS, near=lambda row: [ROWS.index(row) % NUM_RANKS])
    blocks = calls.in_blocks("logprobs", ROWS)
    assert [value async for block in blocks for value in block] == list(range(200))
    near = [
        ROWS.index(row) % NUM_RANKS == number
        for number, rank in enumerate(ranks)
        for rows in rank.calls
        for row in rows
    ]
    assert len(near) == 200
    assert sum(near) > 180


async def test_no_call_has_more_than_some_micro_batches_of_a_rank():
    ranks = [Rank() for _ in range(NUM_RANKS)]
    blocks = [b async for b in calls_of(*ranks).in_blocks("logprobs", ROWS * 10)]
    most = MICRO_BATCHES_PER_CALL * MAX_TOKENS * NUM_RANKS
    together = [sum(row.num_tokens for rank in ranks for row in rank.calls[n]) for n in range(2)]
    assert len(blocks) > 5
    assert max(together) <= most
    assert min(together) > 0.9 * most
    assert len({len(rank.calls) for rank in ranks}) == 1, "all ranks take part in all calls"
    assert all(len(rows) > 0 for rank in ranks for rows in rank.calls)


async def test_rows_are_taken_from_an_iterator_as_blocks_need_them():
    taken: list[int] = []

    def stream() -> Iterator[Row]:
        for number, row in enumerate(ROWS * 10):
            taken.append(number)
            yield row

    ranks, behind = [Rank() for _ in range(NUM_RANKS)], []
    done = 0
    async for block in calls_of(*ranks).in_blocks("logprobs", stream()):
        done += len(block)
        behind.append(len(taken) - done)
    assert done == len(taken) == 2_000
    assert max(behind) <= 1, "no more than the row that did not fit into the block"


async def test_the_deadline_is_that_of_one_block():
    """All blocks together take far longer than the deadline, each far less; one that does not
    end is named."""
    calls = calls_of(Rank(seconds=0.02), timeout_s=0.2)
    blocks = [block async for block in calls.in_blocks("logprobs", ROWS * 10)]
    assert len(blocks) * 0.02 > 0.2
    with pytest.raises(DeadlineExceeded, match="learner rank 0 to logprobs"):
        [b async for b in calls_of(Rank(seconds=5), timeout_s=0.05).in_blocks("logprobs", ROWS)]


async def test_no_rows_are_no_call():
    rank = Rank()
    assert [block async for block in calls_of(rank).in_blocks("logprobs", [])] == []
    assert rank.calls == []


async def test_each_ranks_call_is_a_span_of_its_track(tmp_path: Path):
    timeline = StepTimelines(tmp_path, 0)
    ranks = [Rank(0.02), Rank(0.06)]
    await RankCalls(ranks, 5.0, MAX_TOKENS, timeline=timeline).each("logprobs", [ROWS[:1], ROWS])
    await asyncio.sleep(0.04)
    figures = timeline.end_step("grpo", 1, ())
    timeline.close()
    assert 0.2 < figures["trainer/idle_ratio"] < figures["trainer/idle_ratio_max"] < 1
    (path,) = timeline_files(tmp_path, "grpo")
    assert '"name": "rank-1"' in path.read_text()


class Failing:
    """An actor whose calls raise, after a while."""

    def __init__(self, error: Exception, seconds: float = 0.0) -> None:
        self._error, self._seconds = error, seconds
        self.work = Remote(self._work)

    async def _work(self) -> None:
        await asyncio.sleep(self._seconds)
        raise self._error


def raised_there(error: Exception) -> Exception:
    """An error that a rank raised, as Ray brings it."""
    trace = f"traceback\n{type(error).__name__}: {error}"  # as Ray writes it
    return RayTaskError("work", trace, error).as_instanceof_cause()


GLOO = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")
OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})


async def test_the_rank_that_died_is_named_although_its_peer_lost_it_earlier():
    calls = calls_of(Failing(raised_there(GLOO)), Failing(ActorDiedError(), 0.05))
    with pytest.raises(RankDied, match="learner rank 1 to work: its process died") as raised:
        await calls.all("work")
    assert (raised.value.rank, raised.value.cause) == (1, "died")


async def test_ranks_that_lost_each_other_and_one_without_memory_may_start_anew():
    with pytest.raises(PeersLost, match="rank 0 to work: RuntimeError: "):
        await calls_of(Failing(raised_there(GLOO))).all("work")
    with pytest.raises(RankDied, match="OutOfMemoryError: CUDA out of memory") as raised:
        await calls_of(Failing(raised_there(OutOfMemoryError("CUDA out of memory")))).all("work")
    assert raised.value.cause == "out_of_memory"


async def test_what_is_wrong_with_a_call_is_raised_as_the_rank_raised_it():
    """Also if it is a deadline of its own, which is not the one of the call."""
    for error in (ValueError("bad row"), DeadlineExceeded("waited 5 s for rollout-3 to load")):
        with pytest.raises(type(error), match=str(error)) as raised:
            await calls_of(Failing(raised_there(error))).all("work")
        assert not isinstance(raised.value, RankDied | RankHung | PeersLost)


async def test_an_answer_that_is_lost_with_its_node_is_the_loss_of_the_rank():
    async def lost() -> None:
        raise ObjectLostError("00ff", None, "")

    with pytest.raises(RankDied, match="rank 1 to work: its answer was lost") as raised:
        await _answer(lost(), 5.0, 1, "learner rank 1 to work")
    assert (raised.value.rank, raised.value.cause) == (1, "died")
