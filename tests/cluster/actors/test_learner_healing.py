"""Healing of a learner: what new ranks do, in which order, and how often."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cluster.actors.learner_healing import LearnerHealing, not_healed
from wire.errors import RankDied, RankHung


class Ranks:
    """Notes what they are asked to do; dies at the calls whose numbers are given."""

    def __init__(self, *deaths: int, error: Exception | None = None) -> None:
        self.deaths, self.done, self.asked = set(deaths), list[str](), 0
        self.error = error or RankDied("waited for learner rank 1 to work: its process died")

    def do(self, name: str) -> Callable[[], Awaitable[str]]:
        async def call() -> str:
            self.asked += 1
            if self.asked - 1 in self.deaths:
                raise self.error
            self.done.append(name)
            return name

        return call


class Notes:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def note(self, kind: str, subject: str, **fields: Any) -> None:
        self.events.append((kind, subject, fields))


def healing(ranks: Ranks, *, restarts: int = 5, notes: Notes | None = None) -> LearnerHealing:
    return LearnerHealing(ranks.do("renew"), restarts, notes, clock=lambda: 1.0)


async def test_a_call_is_done_again_once_new_ranks_stand_where_the_lost_ones_stood():
    ranks, notes = Ranks(7), Notes()
    heal = healing(ranks, notes=notes)
    await heal.of_each_rank("tokens", ranks.do("tokens"))
    await heal.begin(ranks.do("begin"))
    await heal.of_each_rank("engines", ranks.do("engines"))
    await heal.update(ranks.do("update 1"))
    await heal.save("step-1", ranks.do("save"), ranks.do("load step-1"))
    await heal.update(ranks.do("update 2"), ranks.do("update 2 from disk"))
    await heal.update(ranks.do("update 3"))
    assert await heal.call(ranks.do("logprobs")) == "logprobs"
    again = ["renew", "tokens", "begin", "engines", "load step-1", "update 2 from disk", "update 3"]
    assert ranks.done[7:] == [*again, "logprobs"]
    assert [kind for kind, *_ in notes.events] == ["learner_died", "learner_healed"]
    assert notes.events[1][2] == {
        "seconds": 0.0,
        "from_checkpoint": "step-1",
        "replayed_steps": 2,
    }


async def test_an_update_of_several_calls_is_done_again_as_a_whole():
    ranks = Ranks(2)  # the second of its calls
    heal = healing(ranks)
    await heal.begin(ranks.do("begin"))

    async def both() -> str:
        await heal.update(ranks.do("first half"))
        return await heal.call(ranks.do("second half"))

    assert await heal.update(both) == "second half"
    after = ["renew", "begin", "first half", "second half"]
    assert ranks.done == ["begin", "first half", *after]
    ranks.deaths = {ranks.asked}
    ranks.done.clear()
    await heal.call(ranks.do("publish"))
    assert ranks.done == ["renew", "begin", "first half", "second half", "publish"]


async def test_a_stage_that_begins_forgets_the_one_before():
    ranks = Ranks(3)
    heal = healing(ranks)
    await heal.begin(ranks.do("begin one"))
    await heal.update(ranks.do("update of one"))
    await heal.begin(ranks.do("begin two"))
    await heal.call(ranks.do("features"))
    assert ranks.done[3:] == ["renew", "begin two", "features"]


async def test_a_loss_in_begin_does_not_load_what_it_replaces():
    ranks = Ranks(2)
    heal = healing(ranks)
    await heal.begin(ranks.do("begin one"))
    await heal.update(ranks.do("update of one"))
    await heal.begin(ranks.do("begin two"))
    assert ranks.done[2:] == ["renew", "begin two"]


async def test_going_back_to_an_earlier_checkpoint_forgets_the_updates_after_it():
    ranks = Ranks(4)
    heal = healing(ranks)
    await heal.begin(ranks.do("begin"))
    await heal.update(ranks.do("update"))
    await heal.save("step-1", ranks.do("save"), ranks.do("load step-1"))
    await heal.load("step-0", ranks.do("load step-0"))
    await heal.call(ranks.do("export"))
    assert ranks.done[4:] == ["renew", "begin", "load step-0", "export"]


async def test_a_loss_in_a_save_starts_from_the_checkpoint_before():
    ranks = Ranks(3)
    heal = healing(ranks)
    await heal.begin(ranks.do("begin"))
    await heal.load("step-4", ranks.do("load step-4"))
    await heal.update(ranks.do("update 5"))
    await heal.save("step-5", ranks.do("save"), ranks.do("load step-5"))
    assert ranks.done[3:] == ["renew", "begin", "load step-4", "update 5", "save"]


async def test_a_loss_within_a_heal_is_healed_and_counted():
    ranks, notes = Ranks(1, 3), Notes()
    heal = healing(ranks, notes=notes)
    await heal.begin(ranks.do("begin"))
    await heal.call(ranks.do("publish"))
    assert ranks.done == ["begin", "renew", "renew", "begin", "publish"]
    assert [kind for kind, *_ in notes.events] == ["learner_died"] * 2 + ["learner_healed"]
    assert heal.num_heals == 2


@pytest.mark.parametrize("restarts", [0, 2])
async def test_when_the_restarts_are_used_up_the_loss_is_raised(restarts: int):
    ranks, notes = Ranks(*range(1, 99)), Notes()
    heal = healing(ranks, restarts=restarts, notes=notes)
    await heal.begin(ranks.do("begin"))
    with pytest.raises(RankDied, match="its process died"):
        await heal.call(ranks.do("publish"))
    assert len(notes.events) == restarts + 1


async def test_a_rank_that_hangs_is_healed_and_an_error_of_another_kind_is_not():
    heal = healing(ranks := Ranks(0, error=RankHung("waited 5 s for learner rank 0 to work")))
    assert await heal.call(ranks.do("work")) == "work"
    heal = healing(ranks := Ranks(0, error=ValueError("bad row")))
    with pytest.raises(ValueError, match="bad row"):
        await heal.call(ranks.do("work"))
    assert ranks.asked == 1


async def test_what_fails_at_the_start_is_not_healed():
    heal = healing(ranks := Ranks(0))
    with pytest.raises(RankDied), not_healed():
        await heal.call(ranks.do("join"))
    assert ranks.asked == 1
