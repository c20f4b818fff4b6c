"""Traces of archives in a real browser: filters, pages, one trace with its group."""

import pytest

from tests.calibrate.service.web.pages import HOSTILE, HOSTILE_NAME, OpenedPage

pytest.importorskip("playwright", reason="needs playwright, of requirements/dev.in")
pytestmark = pytest.mark.slow


def listed(opened: OpenedPage) -> list[str]:
    """Ids of the clips in the list."""
    names: list[str] = opened.page.eval_on_selector_all(
        ".trace-item", "rows => rows.map(row => row.trace.sample_id)"
    )
    return names


def test_pages_follow_each_other_and_the_first_trace_is_open(opened: OpenedPage):
    page = opened.enter("traces")
    page.wait_for_selector(".trace-detail:has-text('decode: ')")
    assert len(listed(opened)) == 50
    page.click("text=More")
    opened.count(".trace-item", 82)
    assert not page.locator(".more").count()
    assert "82 traces" not in page.inner_text("main")  # 81 and a group without any
    assert "81 traces in 42 groups" in page.inner_text("main")


def test_a_filter_is_chosen_typed_and_taken_away(opened: OpenedPage):
    page = opened.enter("traces")
    page.wait_for_selector(".trace-item")
    page.select_option("[aria-label=label]", "redo")
    opened.count(".trace-item", 40)
    page.fill("[name=where]", "reward>=19")
    page.press("[name=where]", "Enter")
    opened.count(".trace-item", 1)
    assert listed(opened) == ["clip-39"]
    page.click("text=label=redo")
    opened.count(".trace-item", 2)
    page.fill("[name=where]", "rewart>1")
    page.press("[name=where]", "Enter")
    page.wait_for_selector("[role=alert]")
    assert "did you mean 'reward'" in page.inner_text("[role=alert]")
    assert opened.logged == [
        "error: Failed to load resource: the server responded with a status "
        "of 422 (Unprocessable Entity)"
    ]
    opened.logged.clear()


def test_keys_walk_through_the_list_and_the_group(opened: OpenedPage):
    page = opened.enter("traces?where=sample_id%3Dclip-3")
    page.wait_for_selector(".trace-detail .trace")
    page.keyboard.press("j")
    page.wait_for_selector("text=Not scored")
    assert "open the door" in page.inner_text(".trace-detail .trace")
    page.keyboard.press("k")
    page.wait_for_selector(".trace-detail .trace:has-text('up 3')")
    page.click("[aria-label='Trace 1 of the group']")
    page.wait_for_selector("text=Not scored")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "where"


def test_a_hostile_trace_is_text(opened: OpenedPage):
    page = opened.enter("traces")
    page.fill("[name=where]", "text~hacked")
    page.press("[name=where]", "Enter")
    opened.count(".trace-item", 1)
    page.wait_for_selector(".trace-detail .trace")
    assert page.inner_text(".trace-item .cut >> nth=0") == HOSTILE_NAME
    assert HOSTILE.split("\u2028")[0].strip() in page.inner_text(".trace-detail .trace")
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0
