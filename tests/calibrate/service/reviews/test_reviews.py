import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from calibrate.service.problems import Problem
from calibrate.service.protocols import NewReview
from calibrate.service.reviews.review import Review
from calibrate.service.reviews.reviews import Reviews
from tests.calibrate.service.deciding import Deciding, caller, deciding

ADA, BOB, CAT, DAN = (caller(name, "review") for name in ("ada", "bob", "cat", "dan"))


def opened(parts: Deciding, review_id: str, *reasons: str, **changes) -> None:
    values = {
        "id": review_id,
        "decision_id": f"dec_{review_id}",
        "video_hash": "f" * 64,
        "label": "abnormal",
        "kind": "review" if reasons else "audit",
        "reasons": reasons,
        "weight": 1.0,
        "created_at": "2026-11-30T10:00:00.000Z",
    }
    review = NewReview(**{**values, **changes})
    with parts.database.write() as connection:
        parts.reviews.open(connection, review)
    parts.reviews.opened(review)


def ids(reviews: list[Review]) -> list[str]:
    return [one.id for one in reviews]


async def answered(parts: Deciding, who, label: str | None, review_id: str = "r") -> Review:
    await parts.reviews.lease(who, 1, 60)
    return await parts.reviews.complete(review_id, who, label=label)


async def test_a_review_is_leased_to_one_person_until_its_time_is_over(tmp_path: Path):
    with deciding(tmp_path) as parts:
        opened(parts, "r", "below_threshold")
        (leased,) = await parts.reviews.lease(ADA, 5, 60)
        assert leased.leased_until == "2027-01-15T08:01:00.000Z"
        assert await parts.reviews.lease(BOB, 5, 60) == []
        parts.clock.now += 61
        assert ids(await parts.reviews.lease(BOB, 5, 60)) == ["r"]
        with pytest.raises(Problem, match="your lease of r ended, and others have it"):
            await parts.reviews.complete("r", ADA, label="normal")
        done = await parts.reviews.complete("r", BOB, label="abnormal")
        assert (done.state, done.outcome, done.overturned) == ("done", "abnormal", False)


async def test_who_comes_back_has_the_leases_that_go_on_renewed(tmp_path: Path):
    with deciding(tmp_path) as parts:
        for name in "abc":
            opened(parts, name, "below_threshold")
        assert ids(await parts.reviews.lease(ADA, 2, 60)) == ["a", "b"]
        parts.clock.now += 30
        assert ids(await parts.reviews.lease(ADA, 2, 60)) == ["a", "b"]
        parts.clock.now += 45  # the first lease would have ended
        assert ids(await parts.reviews.lease(BOB, 3, 60)) == ["c"]


async def test_a_late_answer_counts_if_nobody_else_has_the_review(tmp_path: Path):
    with deciding(tmp_path) as parts:
        opened(parts, "r", "below_threshold")
        await parts.reviews.lease(ADA, 1, 60)
        parts.clock.now += 3600
        assert (await parts.reviews.complete("r", ADA, label="normal")).overturned is True


async def test_at_no_time_have_two_people_the_same_review(tmp_path: Path):
    """Forty people at once, over two hundred reviews."""
    with deciding(tmp_path) as parts:
        for number in range(200):
            opened(parts, f"r{number:03}", "below_threshold")
        people = [caller(f"p{number}", "review") for number in range(40)]
        leases = await asyncio.gather(*[parts.reviews.lease(one, 7, 60) for one in people])
        given = [one for some in leases for one in ids(some)]
        assert len(given) == len(set(given)) == 200


async def test_the_urgent_come_first_and_nothing_waits_for_ever(tmp_path: Path):
    with deciding(tmp_path) as parts:
        opened(parts, "audit")
        opened(parts, "unsure", "below_threshold")
        opened(parts, "asked", "below_threshold", "policy")
        opened(parts, "shifted", "shift_alarm")
        queue, _ = await parts.reviews.page("open", None, 9, None)
        assert ids(queue) == ["asked", "shifted", "unsure", "audit"]
        parts.clock.now += 3 * 3600 + 1
        opened(parts, "late", "policy")
        assert ids(await parts.reviews.lease(ADA, 9, 60)) == [*ids(queue), "late"]


async def test_a_released_review_goes_back_to_its_place(tmp_path: Path):
    with deciding(tmp_path) as parts:
        opened(parts, "r", "below_threshold")
        await parts.reviews.lease(ADA, 1, 60)
        await parts.reviews.release("r", BOB)  # holds none
        assert await parts.reviews.lease(BOB, 1, 60) == []
        await parts.reviews.release("r", ADA)
        assert ids(await parts.reviews.lease(BOB, 1, 60)) == ["r"]
        with pytest.raises(Problem, match="there is no review 'other'"):
            await parts.reviews.release("other", ADA)


async def test_only_who_holds_a_lease_answers_and_once(tmp_path: Path):
    with deciding(tmp_path) as parts:
        opened(parts, "r", "below_threshold")
        with pytest.raises(Problem, match="you hold no lease of r"):
            await parts.reviews.complete("r", ADA, label="normal")
        await parts.reviews.lease(ADA, 1, 60)
        done = await parts.reviews.complete("r", ADA, label="normal", note="a shadow")
        assert await parts.reviews.complete("r", ADA, label="normal") == done
        with pytest.raises(Problem, match="you have answered r with 'normal'"):
            await parts.reviews.complete("r", ADA, label=None)
        with pytest.raises(Problem, match="r has ended"):
            await parts.reviews.complete("r", BOB, label="normal")
        (answer,) = done.answers
        assert (answer.reviewer, answer.label, answer.note) == ("ada", "normal", "a shadow")
        (row,) = parts.audit.page(limit=9, action="review.answered")
        assert (row.actor, row.detail["overturned"]) == ("ada", True)


async def test_a_double_goes_to_a_second_person_who_does_not_see_the_first_answer(tmp_path: Path):
    with deciding(tmp_path, double_share=1.0) as parts:
        opened(parts, "r", "below_threshold")
        first = await answered(parts, ADA, "normal")
        assert (first.state, first.outcome, first.answers) == ("open", None, ())
        assert await parts.reviews.lease(ADA, 1, 60) == []
        (seen,) = await parts.reviews.lease(BOB, 1, 60)
        assert (seen.answers, seen.outcome) == ((), None)
        done = await parts.reviews.complete("r", BOB, label="normal")
        assert (done.state, done.outcome, len(done.answers)) == ("done", "normal", 2)


@pytest.mark.parametrize(
    ("third", "outcome"), [("normal", "normal"), (None, None), ("abnormal", "abnormal")]
)
async def test_where_two_disagree_a_third_decides(tmp_path: Path, third, outcome):
    with deciding(tmp_path, double_share=1.0) as parts:
        opened(parts, "r", "below_threshold")
        await answered(parts, ADA, "normal")
        assert (await answered(parts, BOB, "abnormal")).state == "open"
        done = await answered(parts, CAT, third)
        assert (done.state, done.outcome) == ("done", outcome)
        assert await parts.reviews.lease(DAN, 1, 60) == []


async def test_a_clip_is_kept_while_it_is_under_review_also_after_a_restart(tmp_path: Path):
    with deciding(tmp_path) as parts:
        clip = _kept(parts, b"a clip under review")
        opened(parts, "r", "below_threshold", video_hash=clip)
        assert not _has_room_for_others(parts)
        parts.clips.release(clip, "r")  # as a new process begins
        await Reviews(parts.database, parts.audit, parts.clips, double_share=0.0).start()
        assert not _has_room_for_others(parts)
        assert parts.clips.path_of(clip) is not None
        await answered(parts, ADA, "normal")
        assert _has_room_for_others(parts)
        assert parts.clips.path_of(clip) is None


async def test_answers_are_never_changed(tmp_path: Path):
    with deciding(tmp_path) as parts:
        opened(parts, "r", "below_threshold")
        await answered(parts, ADA, "normal")
        for statement in ("UPDATE review_answers SET label = 'x'", "DELETE FROM review_answers"):
            with (
                pytest.raises(sqlite3.IntegrityError, match="answers are never"),
                parts.database.write() as connection,
            ):
                connection.execute(statement)


async def test_pages_and_counts_tell_of_all_reviews(tmp_path: Path):
    with deciding(tmp_path) as parts:
        for number in range(5):
            opened(parts, f"r{number}", "below_threshold")
        await answered(parts, ADA, "normal", "r0")
        await parts.reviews.lease(ADA, 1, 60)
        first, cursor = await parts.reviews.page("open", "review", 3, None)
        rest, end = await parts.reviews.page("open", "review", 3, cursor)
        assert ids(first) + ids(rest) == ["r1", "r2", "r3", "r4"]
        assert end is None
        assert ids(await parts.reviews.done()) == ["r0"]
        assert (await parts.reviews.page("done", "audit", 9, None))[0] == []
        waiting = (await parts.reviews.stats()).queue
        assert (waiting.waiting, waiting.leased) == (4, 1)
        of_decision = await parts.reviews.of_decision("dec_r0")
        assert of_decision is not None
        assert of_decision.outcome == "normal"
        assert await parts.reviews.of_decision("dec_other") is None


def _kept(parts: Deciding, content: bytes) -> str:
    clip = parts.clips.incoming()
    try:
        clip.write(content)
        clip.keep()
        return clip.video_hash
    finally:
        clip.discard()


def _has_room_for_others(parts: Deciding) -> bool:
    """Whether a clip comes in that needs all of the store."""
    try:
        _kept(parts, os.urandom(2**20))
    except Problem as problem:
        return problem.slug != "clip-store-full"
    return True
