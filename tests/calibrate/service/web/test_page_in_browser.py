"""The page's frame in a real browser: tokens, places, phone width, what it may not do."""

from pathlib import Path
from typing import Any

import pytest

from tests.calibrate.service.running import Running
from tests.calibrate.service.web.pages import OpenedPage, open_page, page_service

pytest.importorskip("playwright", reason="needs playwright, of requirements/dev.in")
pytestmark = pytest.mark.slow

PLACES = ("classify", "decisions", "review", "compare", "traces", "classifiers")


def test_a_token_in_the_address_is_taken_from_it_at_once(opened: OpenedPage):
    page = opened.enter()
    assert "token" not in page.url
    assert page.evaluate("sessionStorage.getItem('deepintuit-token')").startswith("di_")
    assert page.evaluate("localStorage.length") == 0
    page.reload()
    page.wait_for_selector(".shell")
    page.click("text=Sign out")
    page.wait_for_selector("text=Enter a token")
    assert page.evaluate("sessionStorage.length") == 0


def test_without_a_token_one_is_asked_for_and_a_wrong_one_refused(
    opened: OpenedPage, service: Running
):
    page = opened.page
    page.goto(service.url)
    page.fill("[name=token]", "di_wrong_wrong")
    page.press("[name=token]", "Enter")
    page.wait_for_selector("[role=alert]:not([hidden])")
    assert "token" in page.inner_text("[role=alert]")
    assert all("401" in line for line in opened.logged)
    opened.logged.clear()
    secret = service.headers("read", "review")["Authorization"].removeprefix("Bearer ")
    page.fill("[name=token]", secret)
    page.click("text=Continue")
    page.wait_for_selector(".shell")


def test_a_token_that_is_revoked_leads_back_to_the_door(opened: OpenedPage, service: Running):
    page = opened.enter("traces")
    page.wait_for_selector(".trace-item")
    for one in service.service.tokens.list():
        service.service.tokens.revoke(one.id, by="a test")
    opened.go("classifiers")
    page.wait_for_selector("text=may have been revoked")
    assert all("401" in line for line in opened.logged)
    opened.logged.clear()


@pytest.mark.parametrize("width", [390, 1280])
def test_every_place_opens_and_nothing_is_wider_than_the_window(
    browser: Any, service: Running, width: int
):
    with open_page(browser, service, width=width) as opened:
        page = opened.enter()
        for place in PLACES:
            page.click(f"[data-place={place}]")
            page.wait_for_selector(f"[data-place={place}][aria-current=page]")
            opened.settle()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.logged == []
        assert opened.asked_elsewhere() == []


def test_every_control_has_a_name_and_text_is_readable(browser: Any, service: Running):
    for scheme in ("light", "dark"):
        with open_page(browser, service, scheme=scheme) as opened:
            page = opened.enter()
            for place in PLACES:
                opened.go(place)
                opened.settle()
                assert page.evaluate(UNNAMED) == []
                assert page.evaluate(FAINT) == []


def test_even_injected_markup_could_not_run_a_script(opened: OpenedPage):
    page = opened.enter()
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.hacked=1>')"
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in line for line in opened.logged)
    opened.logged.clear()


def test_a_service_without_classifiers_says_what_to_do(browser: Any, tmp_path: Path):
    with page_service(tmp_path, classifiers=0) as service, open_page(browser, service) as opened:
        page = opened.enter("classifiers")
        page.wait_for_selector("text=No classifiers yet")
        opened.go("compare")
        page.wait_for_selector("text=No classifiers yet")
        opened.go("decisions")
        page.wait_for_selector("text=No decisions yet")
        page.wait_for_selector(".dot.waiting")


UNNAMED = """() => [...document.querySelectorAll("button, a, input, select, textarea")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.innerText || "").trim() && !one.getAttribute("aria-label")
    && !(one.labels && one.labels.length))
  .map((one) => one.outerHTML)"""

# Contrast of small text against the colour behind it (WCAG 2: 4.5)
FAINT = """() => {
  const numbers = (text) => (text.match(/[0-9.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      const values = numbers(colour);
      if (colour.startsWith("rgb") && (values.length < 4 || values[3] === 1)) return values;
    }
    return numbers(getComputedStyle(document.body).backgroundColor);
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !one.checkVisibility()) continue;
    const [a, b] = [light(numbers(getComputedStyle(one).color)), light(behind(one))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(`${walker.currentNode.data.trim()}: ${contrast.toFixed(2)}`);
  }
  return faint;
}"""


def test_only_what_is_certain_reads_as_0_or_100_percent(opened: OpenedPage):
    page = opened.enter("classify")
    words = page.evaluate(
        """import("/static/words.js").then(
             ({ chance }) => [1, 0.99994, 0.5, 0.00004, 0, null].map(chance))"""
    )
    assert words == ["100.0%", "> 99.9%", "50.0%", "< 0.1%", "0.0%", "none"]
