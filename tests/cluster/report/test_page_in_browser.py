"""The page in a real browser, off line, with real clicks and keys."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.report.write import write_report
from cluster.run_dir import RunDir
from tests.calibrate.classifiers import measured_calibration
from tests.cluster.report.builders import (
    make_group,
    make_trace,
    write_groups,
    write_metrics,
    write_rationale_stage,
    write_run,
)
from tests.cluster.report.fleet_run import write_fleet_run
from tests.cluster.report.guard_run import write_guarded_run
from tests.cluster.session_fakes import make_config
from tests.cluster.study.study_runs import make_run

pytest.importorskip("playwright", reason="needs playwright, of requirements/dev.in")
pytestmark = pytest.mark.slow

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    "<svg onload=window.hacked=3> \u2028 ${alert(1)} <!-- <script>"
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Opened:
    """A page, and everything that it said or asked for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def go(self, file: Path, address: str = "") -> Any:
        """Open it, wait until it has drawn itself."""
        self.page.goto(f"file://{file}{address}")
        self.page.wait_for_selector("html[data-ready]", state="attached", timeout=20_000)
        return self.page

    def rows(self) -> list[str]:
        """Ids in the list of the trace browser."""
        return self.page.eval_on_selector_all(".list li", "rows => rows.map(r => r.dataset.id)")

    def shown(self) -> str:
        """The clip in the panel."""
        return str(self.page.inner_text("#panel h3"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"needs a browser; none of {', '.join(_NAMES)} is installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=_ARGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("report") / "r", hostile=HOSTILE)
    return write_report(run.path).path


@pytest.fixture
def opened(browser: Any) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    context.set_offline(True)
    yield Opened(context.new_page())
    context.close()


def see_all(page: Any) -> None:
    """Scroll through, so that all is drawn."""
    page.evaluate(
        """async () => {
          for (let y = 0; y < document.documentElement.scrollHeight; y += 500) {
            scrollTo({top: y, behavior: "instant"});
            await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)));
          }
        }"""
    )


def test_everything_is_drawn_without_a_request_or_a_complaint(opened: Opened, report: Path) -> None:
    page = opened.go(report)
    see_all(page)
    page.click("#theme-button")
    page.click("text=Zero at every step")
    page.select_option("#curve-stage", "coldstart")
    page.click("text=Every setting of this run")
    assert page.locator("canvas").count() > 10
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith(("file://", "data:"))] == []
    assert [url for url in opened.asked if url.startswith("file://")] == [f"file://{report}"]


def test_the_published_classifier_shows_promise_and_measurement(
    opened: Opened, report: Path
) -> None:
    page = opened.go(report)
    text = page.inner_text("#classifier")
    assert "policy+verdict \u2713 chosen" in text
    assert "still improving when training ended" in text
    rows = page.eval_on_selector_all(
        "#classifier [aria-label='Coverage of prediction sets'] tbody tr",
        "rows => rows.map(row => row.innerText)",
    )
    below = ["\u26a0 below the promise" in row for row in rows]
    assert below == ["old looks" not in row for row in rows]
    errors = page.inner_text("#classifier [aria-label='Errors of automatic decisions']")
    assert "above the promise" in errors
    assert "NaN" not in text
    assert "undefined" not in text


def test_a_promise_that_is_missed_perhaps_by_chance_is_not_shown_as_kept(
    opened: Opened, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "r")
    calibration = measured_calibration()
    first, *others = calibration.automatic  # 0.30 promised, the interval from 0.25 to 0.34
    missed = replace(first, measured=replace(first.measured, error=0.32))
    file = run.path / "stages" / "calibrated" / "done.json"
    result = json.loads(file.read_text())
    result["classifier"]["calibration"] = replace(
        calibration, automatic=(missed, *others)
    ).to_json()
    file.write_text(json.dumps(result))
    rows = opened.go(write_report(run.path).path).eval_on_selector_all(
        "#classifier [aria-label='Errors of automatic decisions'] tbody tr",
        "rows => rows.map(row => row.lastElementChild.innerText)",
    )
    assert rows == [
        "above the promise, maybe by chance",
        "\u26a0 above the promise",
        "\u2713 not above the promise",
    ]


def test_a_hostile_trace_is_shown_as_text_and_never_run(opened: Opened, report: Path) -> None:
    page = opened.go(report, "#traces?id=test-2")
    assert opened.shown() == "test-2"
    assert HOSTILE.split("\u2028")[0].strip() in page.inner_text("#panel .text >> nth=0")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#panel img, #panel script").count() == 0
    assert opened.said == []


def test_even_injected_markup_could_not_run_a_script(opened: Opened, report: Path) -> None:
    page = opened.go(report)
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.hacked=1>')"
    )
    page.evaluate(
        """document.body.append(
          Object.assign(document.createElement("script"), {text: "window.hacked = 2"}))"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in line for line in opened.said)


def test_filters_list_what_they_say(opened: Opened, report: Path) -> None:
    page = opened.go(report)
    assert len(opened.rows()) == 10
    page.click("[data-show=wrong]")
    assert set(opened.rows()) == {"test-2", "test-5"}
    page.click("[data-show=gained]")
    assert set(opened.rows()) == {"test-0", "test-1"}
    page.click("[data-show=lost]")
    assert opened.rows() == ["test-5"]
    page.click("[data-show=failed]")
    assert opened.rows() == ["test-7"]
    assert "decode failed" in page.inner_text("#panel")
    page.click("[data-show=wrong]")
    page.select_option("#filter-stage", "grpo")
    assert set(opened.rows()) == {"test-0", "test-1", "test-2"}
    page.select_option("#filter-label", "b")
    assert opened.rows() == ["test-1"]
    page.click("text=Clear filters")
    assert len(opened.rows()) == 10


def test_the_search_finds_words_of_traces_and_marks_them(opened: Opened, report: Path) -> None:
    page = opened.go(report)
    page.fill("#search", "hacked")
    assert set(opened.rows()) == {f"test-{index}" for index in range(10)}  # the base says it of all
    page.fill("#search", "test-3")
    assert opened.rows() == ["test-3"]
    page.fill("#search", "HACKED")
    assert page.inner_text("#panel mark >> nth=0") == "hacked"
    page.fill("#search", "nothing has this")
    assert opened.rows() == []
    assert "Nothing here" in page.inner_text("#panel")


def test_keys_move_search_play_and_help(opened: Opened, report: Path) -> None:
    page = opened.go(report)
    order = opened.rows()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert opened.shown() == order[1]
    page.focus(".list")
    page.keyboard.press("ArrowDown")
    assert opened.shown() == order[2]
    page.keyboard.press("End")
    assert opened.shown() == order[-1]
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("j/?")  # letters, in there
    assert page.input_value("#search") == "j/?"
    page.fill("#search", "")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#help").evaluate("dialog => dialog.open")
    page.keyboard.press("Escape")
    assert not page.locator("#help").evaluate("dialog => dialog.open")


def test_a_clip_plays_on_press_and_shows_the_times(opened: Opened, report: Path) -> None:
    page = opened.go(report, "#traces?id=test-3")
    assert page.inner_text(".clock") == "0.00 s"
    assert page.locator(".frame").count() == 6
    page.click(".play")
    page.locator(".clock", has_text="0.50 s").wait_for()
    page.click(".play")
    page.click(".frame >> nth=4")
    assert page.inner_text(".clock") == "1.00 s"


def test_an_address_opens_what_it_names_and_follows_what_is_chosen(
    opened: Opened, report: Path
) -> None:
    page = opened.go(report, "#traces?show=wrong&stage=grpo&id=test-1")
    assert opened.shown() == "test-1"
    assert page.get_attribute("[data-show=wrong]", "aria-pressed") == "true"
    page.click(".list li >> nth=0")
    again = page.evaluate("location.hash")
    shown = opened.shown()
    page.goto("about:blank")
    opened.go(report, again)
    assert opened.shown() == shown


def test_training_groups_show_rewards_advantages_and_failures(opened: Opened, report: Path) -> None:
    page = opened.go(report)
    page.click(".segments button:has-text('Training groups')")
    assert len(opened.rows()) == 3
    page.click("[data-show=signal]")
    assert opened.rows() == ["grpo/00000001"]
    text = page.inner_text("#panel")
    for part in ("Trace 1", "Trace 2", "+0.71", "\u22120.71", "version 0.1", "reward"):
        assert part in text
    page.click("[data-show=failed]")
    assert "mine.py:score: KeyError: 'x'" in page.inner_text("#panel")
    page.click("[data-show=wrong]")
    assert "clip not found" in page.inner_text("#panel")


def test_a_cell_of_a_confusion_matrix_lists_its_clips(opened: Opened, report: Path) -> None:
    page = opened.go(report)
    page.locator("#confusion .card", has_text="GRPO").get_by_label("a called b: 2 of 5").click()
    assert set(opened.rows()) == {"test-0", "test-2"}
    assert page.input_value("#filter-stage") == "grpo"


def test_dark_follows_the_system_until_the_button_is_pressed(browser: Any, report: Path) -> None:
    context = browser.new_context(color_scheme="dark")
    page = Opened(context.new_page()).go(report)

    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    dark = ground()
    page.click("#theme-button")
    light = ground()
    assert dark != light
    page.keyboard.press("t")
    assert ground() == dark
    context.close()


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_nothing_is_wider_than_the_window(browser: Any, report: Path, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = Opened(context.new_page()).go(report)
    see_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_text_has_contrast_in_both_themes(browser: Any, report: Path) -> None:
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = Opened(context.new_page()).go(report)
        found = page.evaluate(
            """() => {
              const light = (rgb) => rgb.map((v) => v / 255)
                .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
              const paint = (name) => {
                const box = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
                const pen = box.getContext("2d");
                const root = getComputedStyle(document.documentElement);
                pen.fillStyle = root.getPropertyValue(`--${name}`).trim();
                pen.fillRect(0, 0, 1, 1);
                return light([...pen.getImageData(0, 0, 1, 1).data].slice(0, 3));
              };
              const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
              const pairs = [["ink", "card"], ["muted", "card"], ["muted", "bg"], ["good", "card"],
                ["bad", "card"], ["bad", "bad-soft"], ["accent", "accent-soft"]];
              const lines = ["c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8"];
              return {text: pairs.map(([a, b]) => ratio(paint(a), paint(b))),
                lines: lines.map((name) => ratio(paint(name), paint("card")))};
            }"""
        )
        assert min(found["text"]) >= 4.5
        assert min(found["lines"]) >= 3.0
        context.close()


def test_a_run_that_has_only_begun_has_a_page(opened: Opened, tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    page = opened.go(write_report(run.path).path)
    see_all(page)
    assert "Finished stages: none yet" in page.inner_text("main")
    assert opened.said == []


def test_a_run_of_grpo_alone_has_a_page(opened: Opened, tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    write_metrics(run, "grpo", [1], **{"reward/mean": 1.0, "parity/max_logprob_diff": 0.0})
    write_groups(
        run, make_group("grpo/00000001", [make_trace("a"), make_trace("b")]), compact=False
    )
    page = opened.go(write_report(run.path).path)
    see_all(page)
    assert opened.rows() == ["grpo/00000001"]
    assert opened.said == []


def test_a_panel_with_a_curve_of_val_clips_alone_says_so(opened: Opened, tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    figures = {"nll": 1.0, "entropy": 2.0, "val/reward/mean": 0.5}
    write_metrics(run, "coldstart", [1, 2], **figures)
    page = opened.go(write_report(run.path).path)
    see_all(page)
    assert page.locator(".legend").all_inner_texts() == ["mean on val"]
    assert opened.said == []


def test_many_labels_fit(opened: Opened, tmp_path: Path) -> None:
    from calibrate.predictions import Prediction, write_predictions

    names = [f"a label of some length {index:02d}" for index in range(80)]
    run = make_run(tmp_path / "r", labels=[{"name": name} for name in names])
    answers = [
        Prediction(
            sample_id=f"s{index}",
            label=names[index % 80],
            predicted=names[index * 7 % 80],
            confidence=0.5,
            probabilities=(1 / 80,) * 80,
            trace="x",
        )
        for index in range(160)
    ]
    for stage in ("base", "grpo"):
        write_predictions(run.predictions(stage), answers)
    values = {f"label/{name}/accuracy": index / 80 for index, name in enumerate(names)}
    write_metrics(run, "grpo", range(1, 5), **values)
    page = opened.go(write_report(run.path).path)
    see_all(page)
    assert page.locator(".matrix.wide").count() == 1
    assert "mean of 80" in page.inner_text("#curves")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert opened.said == []


def test_the_data_block_is_plain_json(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    block = text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert json.loads(block)["run"]["name"] == "r"
    assert "window.hacked" in block
    assert "<" not in block


def test_guards_say_what_they_saw_and_show_hostile_traces_as_text(
    opened: Opened, tmp_path: Path
) -> None:
    run = write_guarded_run(tmp_path / "r", hostile=HOSTILE)
    page = opened.go(write_report(run.path).path, "#guards")
    see_all(page)
    lines = page.eval_on_selector_all(".signals li", "all => all.map(one => one.innerText)")
    assert [line.split("\n")[0].strip("\u26a0 ") for line in lines] == [
        "Length drift",
        "Reward for the format only",
        "One label for everything",
        "Identical traces",
        "Label in the prompt",
    ]
    assert "Warned at steps 10 to 14, steps 31 to 40, to the end: 100% of the answers" in lines[2]
    assert page.locator("#guards canvas").count() == 5
    assert page.locator("#curves .card-title", has_text="guard/").count() == 0
    examples = page.locator("#guards .trace")
    assert examples.count() >= 5
    assert "window.hacked = 1" in examples.first.inner_text()
    assert "it says falling" in page.inner_text("#guards")
    assert page.evaluate("window.hacked") is None
    assert opened.said == []


def test_a_run_without_guards_has_no_section_of_them(opened: Opened, report: Path) -> None:
    assert opened.go(report).locator("#guards").count() == 0


def test_rationales_are_shown_with_their_filters_and_read_as_text(
    opened: Opened, tmp_path: Path
) -> None:
    config = make_config(stages=[{"name": "why", "kind": "rationales"}])
    RunDir.open(tmp_path / "run", config, resume=False, overwrite=False).close()
    write_rationale_stage(tmp_path / "run", config)
    page = opened.go(write_report(tmp_path / "run").path)
    row = page.inner_text("#rationales [aria-label='Table of rationales'] tbody tr")
    assert "4 (0.667)" in row
    assert "with the label as a hint" in row
    page.click("text=why: 5 to read")
    assert "It </script> goes up." in page.inner_text("#rationales details")
    assert "no: parse" in page.inner_text("#rationales details")
    assert opened.said == []


def test_the_fleet_says_what_limits_a_step_and_shows_each_workers_life(
    opened: Opened, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "r")
    write_fleet_run(run, attempt=1)  # write_run has resumed grpo
    page = opened.go(write_report(run.path).path)
    see_all(page)
    text = page.inner_text("#fleet")
    assert "generation limits it: 61% of the time (learner 30%, weights 8%, other 2%)" in text
    assert "Idle: workers 10%, learner ranks 60%; effective training time ratio 0.9." in text
    lives = page.eval_on_selector_all(
        "#fleet [aria-label='Rollout workers'] tbody svg",
        "all => all.map(one => [...one.children].map(r => r.textContent.split(' ')[0]))",
    )
    assert lives[1] == ["restarting", "healthy", "dead", "restarting", "healthy"]
    page.click("text=Events (13)")
    assert "rollout-1 is dead (engine_died)" in page.inner_text("#fleet")
    assert "limit/generation" not in page.inner_text("#curves")
    assert opened.said == []
