"""Review in a real browser, by keyboard alone: labels, confirm, skip, undo before it is sent."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from calibrate.service.reviews.review import Review
from tests.calibrate.service.running import Running
from tests.calibrate.service.web.pages import OpenedPage, open_page, page_service

pytest.importorskip("playwright", reason="needs playwright, of requirements/dev.in")
pytestmark = pytest.mark.slow


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    """A service without an alarm of shift, which would change the queue's order."""
    with page_service(tmp_path, watched=False) as service:
        yield service


@pytest.fixture
def waiting(service: Running) -> Iterator[list[dict[str, Any]]]:
    """Four decisions that wait for a person, in the queue's order."""
    with httpx.Client(base_url=service.url, headers=service.headers()) as client:
        files = [{"video": (f"{n}.mp4", b"unparsed: %d" % n)} for n in range(4)]
        yield [client.post("/v1/classify", files=file).raise_for_status().json() for file in files]


def ended(service: Running) -> dict[str, Review]:
    """Reviews that have ended, by decision."""
    page = service.service.reviews.page("done", None, 100, None)
    reviews, _ = asyncio.run_coroutine_threadsafe(page, service.loop).result(10)
    return {one.decision_id: one for one in reviews}


def kept(opened: OpenedPage, service: Running, number: int) -> dict[str, Review]:
    """Reviews that have ended, once there are so many: an answer is sent after a while."""
    for _ in range(200):
        if len(done := ended(service)) == number:
            return done
        opened.page.wait_for_timeout(50)
    raise AssertionError(f"{len(ended(service))} reviews have ended, expected {number}")


def clip(opened: OpenedPage, name: str) -> None:
    """Wait until a clip is under review."""
    opened.page.wait_for_selector(f".review-layout [title='{name}']")


def test_labels_are_given_by_keys_and_kept(
    opened: OpenedPage, service: Running, waiting: list[dict[str, Any]]
):
    page = opened.enter("review")
    clip(opened, "0.mp4")
    assert "no reasoning or no answer" in page.inner_text(".review-layout")
    assert page.locator(".choice").all_inner_texts()[0].startswith("1")
    page.keyboard.press("1")
    clip(opened, "1.mp4")
    page.keyboard.press("2")
    clip(opened, "2.mp4")
    page.keyboard.press("Enter")
    clip(opened, "3.mp4")
    page.keyboard.press("n")
    page.keyboard.type("1 too dark")
    page.keyboard.press("Escape")
    page.keyboard.press("x")
    page.wait_for_selector("text=All done: 4 reviewed")
    done = kept(opened, service, 4)
    outcomes = [done[one["id"]].outcome for one in waiting]
    assert outcomes == ["abnormal", "normal", waiting[2]["label"], None]
    assert done[waiting[3]["id"]].answers[0].note == "1 too dark"


def test_an_answer_is_undone_before_it_is_sent(
    opened: OpenedPage, service: Running, waiting: list[dict[str, Any]]
):
    page = opened.enter("review")
    clip(opened, "0.mp4")
    page.keyboard.press("1")
    clip(opened, "1.mp4")
    page.keyboard.press("u")
    clip(opened, "0.mp4")
    assert ended(service) == {}
    page.keyboard.press("2")
    page.click(".toast >> text=Undo")
    clip(opened, "0.mp4")
    page.keyboard.press("2")
    clip(opened, "1.mp4")
    opened.go("traces")  # leaving sends what was given, and gives the others back
    page.wait_for_selector(".trace-item")
    assert [one.outcome for one in kept(opened, service, 1).values()] == ["normal"]
    with httpx.Client(base_url=service.url, headers=service.headers()) as client:
        leased = client.post("/v1/reviews/lease", json={"n": 9}).json()["reviews"]
    assert [one["decision"]["clip"]["name"] for one in leased] == ["1.mp4", "2.mp4", "3.mp4"]


def test_a_skipped_clip_is_for_somebody_else(
    browser: Any, opened: OpenedPage, service: Running, waiting: list[dict[str, Any]]
):
    page = opened.enter("review")
    clip(opened, "0.mp4")
    page.keyboard.press("s")
    clip(opened, "1.mp4")
    with open_page(browser, service) as other:
        other.enter("review")
        clip(other, "0.mp4")
        other.go("traces")
        other.page.wait_for_selector(".trace-item")
    for name in ("1.mp4", "2.mp4", "3.mp4"):
        clip(opened, name)
        page.keyboard.press("s")
    page.wait_for_selector("text=Show 4 skipped")
    page.click("text=Show 4 skipped")
    clip(opened, "0.mp4")


def test_the_models_answer_can_be_hidden_and_keys_are_shown(
    opened: OpenedPage, waiting: list[dict[str, Any]]
):
    page = opened.enter("review")
    clip(opened, "0.mp4")
    page.wait_for_selector(".review-side .bars")
    page.keyboard.press("m")
    page.wait_for_selector("text=Hidden, so that it does not lead you")
    opened.count(".review-layout .bars, .review-layout .trace", 0)
    page.keyboard.press("Enter")
    clip(opened, "0.mp4")
    page.keyboard.press("m")
    page.wait_for_selector(".review-side .bars")
    page.keyboard.press("?")
    page.wait_for_selector("dialog:has-text('cannot tell')")
    page.keyboard.press("Escape")
    opened.count("dialog", 0)


def test_an_empty_queue_says_so(opened: OpenedPage):
    page = opened.enter("review")
    page.wait_for_selector("text=Nothing to review")
