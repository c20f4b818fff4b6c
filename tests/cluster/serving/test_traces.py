"""Archives as the service lists them: pages that follow each other, one trace with its group."""

import base64
import json
from pathlib import Path

import pytest

from calibrate.service.protocols import TraceBrowser
from cluster.serving.traces import ArchiveTraces
from tests.cluster.trace_archives import (
    FAILED_ID,
    FIRST_ID,
    JOURNALED_ID,
    make_groups,
    write_archive,
)
from wire.errors import DataError


@pytest.fixture
def browser(tmp_path: Path) -> TraceBrowser:
    write_archive(tmp_path)
    return ArchiveTraces({"demo": tmp_path})


def ids(browser: TraceBrowser, where: list[str], limit: int) -> list[list[str]]:
    """Ids of all pages."""
    pages, cursor = [], None
    while True:
        page = browser.page("demo", where, limit, cursor)
        pages.append([row["id"] for row in page.rows])
        cursor = page.next_cursor
        if cursor is None:
            return pages


def test_pages_follow_each_other_and_hold_every_trace_once(browser: TraceBrowser):
    expected = [
        f"0.{number}.{group.group_id}"
        for group in make_groups()
        for number in (range(len(group.traces)) or "-")
    ]
    pages = ids(browser, [], 5)
    assert [len(page) for page in pages] == [5, 5, 5, 2]
    assert [one for page in pages for one in page] == expected
    assert ids(browser, [], 17) == [expected]


def test_a_filter_on_text_keeps_its_place_over_pages(browser: TraceBrowser):
    assert ids(browser, ["text~up"], 3) == [
        [f"0.0.grpo/train/{number}" for number in numbers]
        for numbers in ((0, 1, 2), (3, 4, 5), (6, 7))
    ]
    assert ids(browser, ["label=undo", "reward>=2"], 9) == [
        ["0.0.grpo/train/4", "0.0.grpo/train/6"]
    ]


def test_a_trace_is_given_whole_with_the_answers_of_its_group(browser: TraceBrowser):
    trace = browser.trace("demo", f"0.0.{JOURNALED_ID}")
    assert trace["text"].startswith("<answer>up 7</answer>")
    assert trace["prompt_token_ids"] == [1, 2, 3]
    assert len(trace["logprobs"]) == len(trace["token_ids"]) == 3
    assert [(one["id"], one["reward"], one["num_tokens"]) for one in trace["group"]] == [
        (f"0.0.{JOURNALED_ID}", 3.5, 3),
        (f"0.1.{JOURNALED_ID}", None, 2),
    ]
    json.dumps(trace, allow_nan=False)


def test_a_group_without_traces_says_why(browser: TraceBrowser):
    trace = browser.trace("demo", f"0.-.{FAILED_ID}")
    assert trace["group"] == []
    assert trace["group_failures"]
    with pytest.raises(DataError, match="has 0 traces"):
        browser.trace("demo", f"0.0.{FAILED_ID}")


def test_a_summary_adds_up(browser: TraceBrowser):
    summary = browser.summary("demo")
    assert (summary["groups"], summary["traces"], summary["failed"]) == (9, 16, 9)
    assert {count["label"] for count in summary["counts"]} == {"undo", "redo"}
    assert summary["written"][0] <= summary["written"][1]
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(
    ("trace_id", "fault"),
    [
        ("", "is no id"),
        ("x.0.grpo/train/0", "is no id"),
        ("0.0.grpo/train/none", "there is no group"),
        (f"0.9.{FIRST_ID}", "has 2 traces"),
        (f"0.-.{FIRST_ID}", "has 2 traces"),
        (f"7.0.{FIRST_ID}", "attempt 7 has no group"),
        ("0.0.a\0b", "there is no group"),
    ],
)
def test_an_id_without_a_trace_is_refused(browser: TraceBrowser, trace_id: str, fault: str):
    with pytest.raises(DataError, match=fault):
        browser.trace("demo", trace_id)


def test_an_unknown_archive_or_column_names_the_nearest(browser: TraceBrowser, tmp_path: Path):
    with pytest.raises(DataError, match="demo"):
        browser.page("dem", [], 5, None)
    with pytest.raises(DataError, match=r"where='lable=undo'.*did you mean.*label"):
        browser.page("demo", ["lable=undo"], 5, None)
    with pytest.raises(DataError, match=r"cannot be opened.*is not there"):
        ArchiveTraces({"gone": tmp_path / "gone"}).summary("gone")


@pytest.mark.parametrize(
    "text", [b"", b"[", b"{}", b"[1]", b'["1", "x"]', b'[-1, "x"]', b"[" * 9000, b"\xff"]
)
def test_a_made_up_cursor_is_refused(browser: TraceBrowser, text: bytes):
    for cursor in (base64.urlsafe_b64encode(text).decode(), "\u00e9", "!"):
        with pytest.raises(DataError, match="is no cursor"):
            browser.page("demo", [], 5, cursor)


def test_a_cursor_of_another_filter_is_refused(browser: TraceBrowser):
    cursor = browser.page("demo", [], 5, None).next_cursor
    with pytest.raises(DataError, match="another archive or filter"):
        browser.page("demo", ["label=undo"], 5, cursor)
