"""Classifiers in a real browser: promote and roll back after a question, compare, fits."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.calibrate.service.running import Running
from tests.calibrate.service.web.pages import OpenedPage, open_page, page_service

pytest.importorskip("playwright", reason="needs playwright, of requirements/dev.in")
pytestmark = pytest.mark.slow


def tags(opened: OpenedPage) -> dict[str, str]:
    """Aliases that the list shows, by version."""
    rows = opened.page.eval_on_selector_all(
        ".version:has(.version-number)",
        "rows => rows.map(row => [row.querySelector('.version-number').innerText, "
        "[...row.querySelectorAll('.tag')].map(tag => tag.innerText).join(' ')])",
    )
    return dict(rows)


def test_a_promotion_is_asked_for_made_and_rolled_back(opened: OpenedPage, service: Running):
    page = opened.enter("classifiers")
    page.wait_for_selector(".version-number")
    assert tags(opened) == {"2": "challenger", "1": "champion"}
    page.click("text=Promote")
    page.wait_for_selector("dialog[open]")
    page.click("dialog >> text=Cancel")
    assert service.service.registry.aliases()["champion"] == 1
    page.click("text=Promote")
    page.fill("dialog [required]", "better on this week's clips")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Version 2 is champion")
    page.wait_for_selector(".version:first-child .tag:has-text('champion')")
    assert tags(opened) == {"2": "champion", "1": "previous"}
    page.click("text=Roll back")
    page.fill("dialog [required]", "it was not")
    page.click("dialog button.danger")
    page.wait_for_selector("text=Version 1 is champion again")
    assert service.service.registry.aliases() == {"champion": 1, "previous": 2}


def test_a_promotion_that_another_one_overtook_says_so(browser: Any, tmp_path: Path):
    with page_service(tmp_path, classifiers=3) as service, open_page(browser, service) as opened:
        page = opened.enter("classifiers")
        page.wait_for_selector(".version-number")
        service.service.registry.promote(3, by="another", expected_champion=1, reason="faster")
        page.click(".version:has-text('tiny-2') >> text=Promote")
        page.fill("dialog [required]", "late")
        page.keyboard.press("Enter")
        page.wait_for_selector(".toast:has-text('Champion changed')")
        page.wait_for_selector(".version:first-child .tag:has-text('champion')")


def test_two_classifiers_stand_side_by_side(opened: OpenedPage):
    page = opened.enter("classifiers")
    page.click("text=Compare >> nth=1")
    page.wait_for_selector(".figures tbody tr")
    assert page.input_value("[name=a]") == "1"
    assert page.input_value("[name=b]") == "2"
    text = page.inner_text(".figures")
    assert "Accuracy" in text
    assert "NaN" not in text
    assert "undefined" not in text
    page.select_option("[name=b]", "1")
    page.wait_for_selector("text=Both sides are the same version")


def test_a_fit_is_started_followed_and_its_fault_shown(opened: OpenedPage):
    page = opened.enter("classifiers")
    page.click("text=Start a fit")
    page.wait_for_selector("dialog[open]")
    page.fill("dialog input", "/nowhere")
    page.keyboard.press("Enter")
    page.wait_for_selector(".toast.toast:has-text('403'), .toast:has-text('root')")
    opened.logged.clear()  # the browser logs a 4xx


def test_a_shift_is_shown_until_it_is_acknowledged(opened: OpenedPage, service: Running):
    with httpx.Client(base_url=service.url, headers=service.headers()) as client:
        for number in range(40):
            files = {"video": (f"{number}.mp4", b"unparsed: %d" % number)}
            client.post("/v1/classify", files=files).raise_for_status()
        assert client.get("/v1/classifiers/champion/shift").json()["alarm"]
    page = opened.enter("classifiers")
    page.wait_for_selector("text=Shift of version 1")
    page.click(".notice >> text=Acknowledge")
    page.click("dialog button.main")
    page.wait_for_selector("text=a new test begins")
    opened.count(".notice", 0)
    assert service.service.audit.verify() is None
