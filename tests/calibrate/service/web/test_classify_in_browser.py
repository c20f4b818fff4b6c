"""Classify in a real browser: a clip is dropped, chosen or named; its decision is shown whole."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.serving.inspector import PoolInspector
from tests.calibrate.service.running import Running
from tests.calibrate.service.web.pages import (
    HOSTILE,
    HOSTILE_NAME,
    LONG_WORD,
    OpenedPage,
    open_page,
    page_service,
)
from tests.cluster.report.builders import write_clip

pytest.importorskip("playwright", reason="needs playwright, of requirements/dev.in")
pytestmark = pytest.mark.slow


def drop(opened: OpenedPage, name: str, content: str) -> None:
    """Let a file fall on the page."""
    transfer = opened.page.evaluate_handle(
        """([name, content]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([content], name, { type: "video/mp4" }));
          return transfer;
        }""",
        [name, content],
    )
    opened.page.dispatch_event("body", "dragover", {"dataTransfer": transfer})
    opened.page.dispatch_event("body", "drop", {"dataTransfer": transfer})


def newest(service: Running) -> dict[str, Any]:
    """The newest decision that is kept."""
    with service.service.database.read() as connection:
        row = connection.execute("SELECT record FROM decisions ORDER BY seq DESC").fetchone()
    return dict(json.loads(row["record"]))


def newest_after(opened: OpenedPage, service: Running, name: str) -> dict[str, Any]:
    """The newest decision, once the page shows that of a clip."""
    opened.page.wait_for_selector(f".decision:has-text('{name}')")
    return newest(service)


def test_a_dropped_video_shows_its_decision_whole(opened: OpenedPage, service: Running):
    page = opened.enter("classify")
    page.wait_for_selector("text=Drop a video here")
    drop(opened, "cat.mp4", "a clip")
    page.wait_for_selector(".decision")
    record = newest(service)
    text = page.inner_text(".decision")
    assert record["clip"]["name"] == "cat.mp4"
    assert page.inner_text(".answer-label >> nth=0") == record["label"]
    assert page.inner_text(".answer-label >> nth=1") == f"{100 * record['confidence']:.1f}%"
    assert page.locator(".chip").all_inner_texts() == record["prediction_set"]
    shown = dict(
        zip(
            page.locator(".bar-name").all_inner_texts(),
            page.locator(".bar-value").all_inner_texts(),
            strict=True,
        )
    )
    assert shown == {name: f"{100 * p:.1f}%" for name, p in record["probabilities"].items()}
    assert page.inner_text(".decision .trace") == record["trace"]
    for reason in record["reasons"]:
        assert reason["text"] in text
    assert record["id"] in text
    opened.count(".decision .frame img", len(record["clip"]["frames"]))
    page.click(".frame >> nth=1")
    page.wait_for_selector("dialog img[alt='Frame 8']")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("dialog img[alt='Frame 16']")
    page.keyboard.press("Escape")
    opened.count("dialog", 0)


def test_a_real_clip_plays_and_its_frames_are_decoded(browser: Any, tmp_path: Path):
    clip = write_clip(tmp_path / "real.mp4", num_frames=24)
    inspector = PoolInspector(max_frames=100, max_pixels=10_000_000, workers=1)
    with (
        page_service(tmp_path, inspector=inspector) as service,
        open_page(browser, service) as opened,
    ):
        page = opened.enter("classify")
        page.set_input_files("input[type=file]", clip)
        opened.count(".decision .frame img", 3)
        sizes = page.eval_on_selector_all(".frame img", "all => all.map(one => one.naturalWidth)")
        assert min(sizes) > 8
        assert page.eval_on_selector("video", "video => video.error") is None
        opened.go("decisions")
        page.click("tr.open a")
        page.click("text=Load the clip")
        page.wait_for_selector("video")
        page.wait_for_timeout(300)
        assert page.eval_on_selector("video", "video => [video.error, video.duration > 0]") == [
            None,
            True,
        ]
        assert opened.logged == []


def test_a_portrait_clip_is_shown_whole(browser: Any, tmp_path: Path):
    clip = write_clip(tmp_path / "portrait.mp4", num_frames=24, width=32, height=64)
    inspector = PoolInspector(max_frames=100, max_pixels=10_000_000, workers=1)
    with (
        page_service(tmp_path, inspector=inspector) as service,
        open_page(browser, service) as opened,
    ):
        page = opened.enter("classify")
        page.set_input_files("input[type=file]", clip)
        opened.count(".decision .frame img", 3)
        page.wait_for_selector("video")
        box, video = (page.locator(one).bounding_box() for one in (".player", "video"))
        assert box["height"] == video["height"] < box["width"] == video["width"]
        page.click(".frame >> nth=0")
        for selector in ("video", ".frame img", "dialog img"):
            fit = page.eval_on_selector(selector, "one => getComputedStyle(one).objectFit")
            assert fit == "contain", selector


def test_a_trace_that_answers_otherwise_than_the_classifier_says_so(browser: Any, tmp_path: Path):
    with (
        page_service(tmp_path) as service,
        open_page(browser, service, width=390) as opened,
    ):
        page = opened.enter("classify")
        drop(opened, "a.mp4", "a clip")
        page.wait_for_selector(".decision:has-text('a.mp4')")
        assert page.locator("text=The trace answers").count() == 0
        drop(opened, "b.mp4", "unparsed: contrary")
        label = newest_after(opened, service, "b.mp4")["label"]
        page.wait_for_selector(f"text=The trace answers {LONG_WORD}, the classifier {label}")
        page.wait_for_selector(f"text=Sampled answers: {LONG_WORD} 3, normal 1")
        wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wider) == 0
        opened.go("review")
        page.wait_for_selector(".review-trace:has-text('The trace answers')")


def test_a_policy_that_does_not_fire_is_not_shown_as_one_that_acts(
    opened: OpenedPage, service: Running
):
    policy = {"id": "take-down", "label": "normal", "target": "precision", "goal": 0.9}
    httpx.post(
        f"{service.url}/v1/policies",
        json=policy | {"action": "auto", "owner": "a test"},
        headers=service.headers(),
    ).raise_for_status()
    page = opened.enter("classify")
    drop(opened, "a.mp4", "a clip")
    page.wait_for_selector(".policies:has-text('take-down')")
    assert page.inner_text(".policies .tag") == "does not fire"
    assert newest(service)["decision"] == "review"


def test_options_can_be_changed_after_the_first_clip(opened: OpenedPage, service: Running):
    page = opened.enter("classify")
    drop(opened, "a.mp4", "one")
    page.wait_for_selector(".decision:has-text('a.mp4')")
    page.click("text=Path or options")
    page.click("summary:has-text('Options')")
    page.select_option("[name=classifier]", "challenger")
    drop(opened, "b.mp4", "two")
    assert newest_after(opened, service, "b.mp4")["versions"]["classifier"] == 2


def test_a_decision_is_recomputed_and_asked_with_shuffled_frames(opened: OpenedPage):
    page = opened.enter("classify")
    page.set_input_files(
        "input[type=file]", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"a"}
    )
    page.click("text=Recompute")
    page.wait_for_selector("text=every probability is equal, bit for bit")
    page.click("text=Ask the engine again")
    page.wait_for_selector("text=/The same answer: .* the trace is the same/")
    page.click("text=Shuffle the frames")
    page.wait_for_selector("text=With shuffled frames the answer")
    opened.count(".bars.paired .bar", 2)


def test_a_path_with_options_is_classified_by_the_version_that_was_chosen(
    browser: Any, tmp_path: Path
):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "dog.mp4").write_bytes(b"a dog")
    with (
        page_service(tmp_path, roots=(tmp_path / "clips",)) as service,
        open_page(browser, service) as opened,
    ):
        page = opened.enter("classify")
        page.click("summary:has-text('Options')")
        page.wait_for_selector("option[value=challenger]", state="attached")
        page.select_option("[name=classifier]", "challenger")
        page.select_option("[name=control]", "blank")
        page.fill("[name=from]", "0.25")
        page.fill("[name=to]", "0.75")
        page.fill("[name=address]", str(tmp_path / "clips" / "dog.mp4"))
        page.press("[name=address]", "Enter")
        page.wait_for_selector("text=With blank frames the answer")
        record = newest(service)
        assert (record["versions"]["classifier"], record["clip"]["source"]) == (2, "path")
        assert record["clip"]["window"] == [0.25, 0.75]
        assert "0.25 s to 0.75 s" in page.inner_text(".decision")
        assert opened.logged == []


def test_several_videos_are_a_list_and_a_damaged_one_says_why(opened: OpenedPage):
    page = opened.enter("classify")
    files = [("a.mp4", b"one"), ("b.mp4", b"fail: no frames"), ("c.mp4", b"slow: 0.5")]
    page.set_input_files(
        "input[type=file]",
        [{"name": name, "mimeType": "video/mp4", "buffer": content} for name, content in files],
    )
    opened.count(".session-item", 3)
    page.click(".session-item:has-text('c.mp4')")
    page.wait_for_selector(".working:has-text('Watching and reasoning')")
    page.wait_for_selector(".decision:has-text('c.mp4')")
    page.click(".session-item:has-text('b.mp4')")
    page.wait_for_selector("[role=alert]:has-text('no frames')")
    assert page.locator("[role=alert] >> text=Try again").count() == 1
    opened.go("traces")
    page.wait_for_selector(".trace-item")
    opened.go("classify")
    page.click(".session-item:has-text('a.mp4')")
    page.wait_for_selector(".decision:has-text('a.mp4')")
    assert opened.logged == [
        "error: Failed to load resource: the server responded with a status of 422 "
        "(Unprocessable Entity)"
    ]
    opened.logged.clear()


def test_a_full_queue_is_waited_for(browser: Any, tmp_path: Path):
    with (
        page_service(tmp_path, max_queue=1, delay_s=0.3) as service,
        open_page(browser, service) as opened,
    ):
        page = opened.enter("classify")
        files = [
            {"name": f"{n}.mp4", "mimeType": "video/mp4", "buffer": b"%d" % n} for n in range(6)
        ]
        page.set_input_files("input[type=file]", files)
        opened.count(".session-item:has-text('%')", 6)


def test_a_hostile_name_and_trace_are_text(opened: OpenedPage):
    page = opened.enter("classify")
    drop(opened, HOSTILE_NAME, "hostile")
    page.wait_for_selector(".decision")
    assert HOSTILE.split("\u2028")[0].strip() in page.inner_text(".decision .trace")
    opened.go("decisions")
    page.wait_for_selector("tr.open")
    assert "onerror" in page.inner_text("tr.open")
    page.click("tr.open a")
    page.wait_for_selector(".decision")
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, main svg[onload]").count() == 0
    assert page.locator("main img:not([src^='blob:'])").count() == 0


def test_the_history_filters_pages_and_opens(opened: OpenedPage):
    page = opened.enter("classify")
    files = [
        {"name": f"{n}.mp4", "mimeType": "video/mp4", "buffer": b"unparsed: %d" % n}
        for n in range(32)
    ]
    page.set_input_files("input[type=file]", files)
    opened.count(".session-item:has-text('%')", 24)
    opened.go("decisions?decision=review")
    page.wait_for_selector("tr.open")
    opened.count("tr.open", 30)
    page.click("text=Show older ones")
    opened.count("tr.open", 32)
    page.select_option("[aria-label='Which decisions']", "auto")
    page.wait_for_selector("text=None like this")
    opened.go("decisions")
    page.click("tr.open >> nth=3")
    page.wait_for_selector(".decision:has-text('the trace has no reasoning or no answer')")
    page.click(".back")
    page.wait_for_selector("tr.open")
    page.fill("[type=search]", "dec_none")
    page.press("[type=search]", "Enter")
    page.wait_for_selector("[role=alert]:has-text('dec_none')")
    opened.logged.clear()  # the browser logs a 404


def test_one_clip_goes_through_two_classifiers(opened: OpenedPage, service: Running):
    page = opened.enter("compare")
    page.wait_for_selector(".address")
    page.set_input_files(
        "input[type=file]", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"a"}
    )
    page.wait_for_selector("text=/Both answer|They differ/")
    opened.count(".pair-cell .trace", 2)
    texts = page.locator(".pair-cell .trace").all_inner_texts()
    assert [text.split()[0] for text in texts] == ["<think>tiny-1", "<think>tiny-2"]
    assert newest(service)["versions"]["classifier"] == 2
