"""JSON Lines that any reader takes, with the numbers of the archive."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.archive.export.export import export
from cluster.archive.where import EVERY_ROW, parse_where
from tests.cluster.trace_archives import FAILED_ID, make_groups, write_archive
from wire.archive.trace_rows import SCHEMA


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_archive(tmp_path)
    return tmp_path / "archive"


def lines(path: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_a_line_a_trace_with_every_column_and_exact_numbers(archive: Path):
    path = archive / "out.jsonl"
    export(archive, path, "jsonl", EVERY_ROW)
    failed, first, *_ = lines(path)
    assert list(first) == SCHEMA.names
    assert failed["trace_index"] is None
    trace = make_groups()[1].traces[0]
    assert first["logprobs"] == list(trace.completion.logprobs)
    assert first["reward_parts"] == dict(trace.outcome.parts)
    assert first["text"] == trace.completion.text
    assert json.loads(first["sample_extra"]) == {"look": 0, "seen": False}


def test_a_line_a_group_with_its_traces(archive: Path):
    path = archive / "out.jsonl"
    export(archive, path, "jsonl-groups", EVERY_ROW)
    groups = lines(path)
    assert [(group["group_id"], len(group["traces"])) for group in groups] == [
        (group.group_id, len(group.traces)) for group in make_groups()
    ]
    assert groups[0]["group_id"] == FAILED_ID
    assert {**groups[1], **groups[1]["traces"][0]}.keys() == {*SCHEMA.names, "traces"}


def test_a_filter_leaves_the_traces_that_it_keeps(archive: Path):
    path = archive / "out.jsonl"
    export(archive, path, "jsonl-groups", parse_where(["reward>=3"]))
    kept = [(g["group_id"], [t["reward"] for t in g["traces"]]) for g in lines(path)]
    assert kept == [("grpo/train/6", [3.0]), ("grpo/train/7", [3.5])]


def test_chosen_columns_only(archive: Path):
    path = archive / "out.jsonl"
    export(archive, path, "jsonl", parse_where(["reward=1"]), ["label", "num_tokens"])
    assert lines(path) == [{"label": "undo", "num_tokens": 3}]
