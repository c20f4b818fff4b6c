"""Tables show what a person looks for, within the width of the terminal."""

import io
from dataclasses import replace

import pyarrow as pa
from rich.console import RenderableType

from cluster.archive.columns import columns
from cluster.archive.tables import cell, group_view, rows_view, schema_view, short_type
from cluster.driver.safe_console import SafeConsole
from tests.cluster.trace_archives import make_groups


def shown(view: RenderableType, width: int = 80) -> str:
    file = io.StringIO()
    SafeConsole(file=file, width=width).print(view)
    return file.getvalue()


def test_a_group_with_its_sample_prompt_rewards_and_failures():
    failed, first, *_ = make_groups()
    text = shown(group_view(first))
    for part in (
        "clip-0",
        "undo (train)",
        "version 1, 3 tokens",
        "reward 0 (accuracy 0, format 1)",
        "not scored: reward: it raised (judge)",
        "<answer>up 0</answer>",
        "look",
    ):
        assert part in text
    assert "open the door" not in shown(group_view(first, 0))
    assert first.prompt is not None
    prompt = replace(first.prompt, video_hash="ab12", frame_indices=(0, 8, 16, 24, 32, 40))
    text = shown(group_view(replace(first, prompt=prompt)))
    assert "0 8 16 24 ... 6 in all" in text
    assert "ab12" in text
    assert "decode: no frames (a.mp4)" in shown(group_view(failed))


def test_long_text_is_cut_and_short_values_are_not():
    table = pa.table({"text": ["long " * 40] * 2, "reward": [0.25, 1e-7], "label": ["undo", None]})
    lines = shown(rows_view(table, 80)).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "0.25   undo" in lines[3]
    assert "1e-07" in lines[4]


def test_more_columns_than_a_line_holds_are_shown_one_below_the_other():
    table = pa.table({f"column_{number}": [number] for number in range(9)})
    lines = shown(rows_view(table, 80)).split("\n")
    assert [line.split() for line in lines if line.strip()] == [
        [f"column_{number}", str(number)] for number in range(9)
    ]


def test_no_rows_are_a_table_of_names():
    assert "label" in shown(rows_view(pa.table({"label": pa.array([], pa.string())}), 80))


def test_the_schema_names_every_column():
    text = shown(schema_view(), width=100)
    assert all(f" {column.name} " in text for column in columns())


def test_types_and_cells_in_few_characters():
    assert short_type(pa.map_(pa.string(), pa.float64())) == "map<string, double>"
    assert short_type(pa.list_(pa.struct([("a", pa.int32())]))) == "list<struct<a>>"
    assert cell(list(range(9))) == "0 1 2 3 ... 9 in all"
    assert cell("a\n  b") == "a b"
    assert cell(None) == ""
