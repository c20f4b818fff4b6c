"""Transcripts have the columns that Inspect Scout documents (0.6.2 opened and queried such an
export), and say what the trace was."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.archive.export.export import export
from cluster.archive.where import EVERY_ROW
from tests.cluster.trace_archives import make_groups, write_archive

RECIPE = Path(__file__).parents[4] / "tests/data/run_before_move/finished/run.json"
SCOUT = {  # inspect_scout 0.6.2, transcripts_db_schema(): those of its columns that are written
    "transcript_id": pa.string(),
    "source_type": pa.string(),
    "source_id": pa.string(),
    "source_uri": pa.string(),
    "task_set": pa.string(),
    "task_id": pa.string(),
    "task_repeat": pa.int64(),
    "model": pa.string(),
    "score": pa.string(),
    "score_explanation": pa.string(),
    "success": pa.bool_(),
    "message_count": pa.int64(),
    "total_tokens": pa.int64(),
    "error": pa.string(),
    "limit": pa.string(),
    "messages": pa.string(),
}
RESERVED = {  # its other columns, of another meaning: no metadata of ours may have their names
    "date", "agent", "agent_args", "model_options", "total_time", "trust_content", "events",
    "timelines", "events_data", "filename",
}  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    run = tmp_path / "shapes"
    write_archive(run)
    shutil.copy(RECIPE, run)
    export(run / "archive", tmp_path / "out", "scout", EVERY_ROW)
    (path,) = (tmp_path / "out").rglob("*")
    assert path.suffix == ".parquet"
    return pq.read_table(path)


def test_the_columns_and_types_are_those_of_scout(table: pa.Table):
    types = {field.name: field.type for field in table.schema}
    assert SCOUT.items() <= types.items()
    assert not RESERVED & types.keys()


def test_a_trace_is_a_transcript_with_its_score(table: pa.Table):
    rows = {(row["group_id"], row["trace_index"]): row for row in table.to_pylist()}
    assert len(rows) == table.num_rows == 16, "the group without traces has none"
    row = rows["grpo/train/2", 0]
    assert row["model"] == "base-model@0.1"
    assert json.loads(row["score"]) == 1.0
    assert row["success"] is True
    assert row["total_tokens"] == 3
    assert row["label"] == "undo"
    question, answer = json.loads(row["messages"])
    assert question["role"] == "user"
    assert question["content"].startswith("[video a.mp4]\nDecide which label fits the video")
    assert answer["role"] == "assistant"
    assert answer["content"] == '<answer>up 2</answer>\n"a", b'


def test_ids_are_unique_and_safe_as_names_of_files(table: pa.Table):
    """Scout writes results to a file of the transcript's id; groups have slashes in theirs."""
    ids = table["transcript_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in ids)


def test_a_trace_that_was_not_scored_has_an_error_and_no_score(table: pa.Table):
    (row,) = (r for r in table.to_pylist() if (r["task_id"], r["trace_index"]) == ("clip-2", 1))
    assert (row["score"], row["success"]) == (None, None)
    assert row["error"] == "reward: it raised (judge)"
    assert row["limit"] == "tokens"


def test_a_prompt_of_another_wording_is_not_made_up(tmp_path: Path):
    """An archive on its own has no recipe; a resumed run's recipe may have another wording."""
    first, *others = make_groups()
    changed = [replace(g, prompt=replace(g.prompt, version="abc")) for g in others if g.prompt]
    for name, recipe in (("alone", None), ("changed", RECIPE)):
        run = tmp_path / name
        write_archive(run, [first, *changed])
        if recipe is not None:
            shutil.copy(recipe, run)
        export(run / "archive", tmp_path / f"{name} out", "scout", EVERY_ROW)
        messages = pq.read_table(tmp_path / f"{name} out")["messages"][0].as_py()
        assert json.loads(messages)[0]["content"] == "[video a.mp4]\n(prompt version abc)"
