import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.importers.join import OTHER_ANSWER
from rollout.importers.parsers.answers import (
    NO_ANSWER,
    NO_OPTION,
    NO_VIDEO,
    OPEN,
    OPEN_TYPE,
    SEVERAL,
)
from rollout.importers.reply import NOT_A_TRACE
from tests.rollout.importers.builders import Workspace
from wire.errors import DataError
from wire.types import Split

TRACE = "<think>It runs on.</think>\n<answer>run</answer>"
KEPT = "<think>It runs on.</think><answer>run</answer>"


@pytest.fixture
def clips(workspace: Workspace) -> Workspace:
    workspace.files("a.mp4", "b.mp4", "c.mp4")
    return workspace


def found(workspace: Workspace) -> dict[str, tuple[str, str | None]]:
    return {name: (row["label"], row["trace"]) for name, row in workspace.rows.items()}


def swift_row(name: str, reply: str | None, **changes: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": "<video>Which?"}]
    turns += [{"role": "assistant", "content": reply}] if reply else []
    return {"messages": turns, "videos": [f"{name}.mp4"], **changes}


def verl_row(name: str, truth: Any, **changes: Any) -> dict[str, Any]:
    return {
        "data_source": "yard",
        "prompt": [{"role": "user", "content": "<video>Which?"}],
        "reward_model": {"style": "rule", "ground_truth": truth},
        "videos": [{"type": "video", "video": f"file:///farm/{name}.mp4"}],
        "extra_info": {"split": "train", "index": 7},
        **changes,
    }


def r1_row(name: str, letter: str, **changes: Any) -> dict[str, Any]:
    return {
        "problem_id": 4,
        "problem": "What happens?",
        "data_type": "video",
        "problem_type": "multiple choice",
        "options": ["A. run", "B. walk"],
        "solution": f"<answer>{letter}</answer>",
        "path": f"./videos/{name}.mp4",
        **changes,
    }


def test_ms_swift_takes_the_solution_or_the_last_turn(clips: Workspace) -> None:
    rows = [
        swift_row("a", TRACE, split="train", subject=1),
        swift_row("b", None, solution="<answer>walk</answer>"),
        swift_row("c", "walk", videos="c.mp4"),
    ]
    report = clips.read(
        clips.write_text("s.jsonl", "\n".join(map(json.dumps, rows))), split=Split.TRAIN
    )
    assert report.recognised == ("s.jsonl read as swift (a chat, as of ms-swift, TRL or LLaVA)",)
    assert found(clips) == {"a": ("run", KEPT), "b": ("walk", None), "c": ("walk", None)}
    assert clips.rows["a"]["subject"] == 1


def test_a_trace_that_concludes_otherwise_is_dropped(clips: Workspace) -> None:
    rows = [
        swift_row("a", TRACE, solution="walk"),
        swift_row("b", "<think>It.<answer>run</answer>", solution="run"),
    ]
    report = clips.read(clips.write("s.json", rows), split=Split.TRAIN)
    assert found(clips) == {"a": ("walk", None), "b": ("run", None)}
    assert report.tally.examples == {NOT_A_TRACE: ["b"], OTHER_ANSWER: ["a"]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"videos": []}, NO_VIDEO),
        ({"videos": ["a.mp4", "b.mp4"]}, SEVERAL),
        ({"videos": [["f1.jpg", "f2.jpg"]]}, SEVERAL),
        ({"solution": "first this,\nthen that"}, OPEN),
        ({"solution": "because it had been walking there for a long time before it ran"}, OPEN),
        ({"solution": " "}, NO_ANSWER),
    ],
)
def test_a_row_that_is_no_classification_is_left_out_and_counted(
    clips: Workspace, changes: dict[str, Any], reason: str
) -> None:
    rows = [swift_row("a", "run"), swift_row("b", "walk"), swift_row("c", "run", **changes)]
    report = clips.read(clips.write("s.json", rows), split=Split.TRAIN)
    assert [(key, len(ids)) for key, ids in report.tally.examples.items()] == [(reason, 1)]
    assert set(clips.rows) == {"a", "b"}


def test_verl_parquet_rows(clips: Workspace) -> None:
    rows = [
        verl_row("a", "run"),
        verl_row("b", "walk", extra_info={"split": "test", "index": 8, "camera": "yard"}),
    ]
    path = clips.folder / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    report = clips.read(str(path), split=Split.TRAIN)
    assert report.recognised == ("train.parquet read as verl (verl)",)
    assert {name: (row["label"], row["split"]) for name, row in clips.rows.items()} == {
        "farm/a": ("run", "train"),
        "farm/b": ("walk", "test"),
    }
    assert clips.rows["farm/a"]["index"] == 7
    assert clips.rows["farm/a"]["data_source"] == "yard"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "Which?"}, "'prompt' is 'Which\\?', expected a list of turns"),
        ({"reward_model": None}, "'reward_model' is None, expected a 'ground_truth'"),
        ({"reward_model": {"style": "rule"}}, "'reward_model' is .*, expected a 'ground_truth'"),
        ({"split": "holdout"}, "'split' is 'holdout', expected one of train"),
        ({"reward_model": {"ground_truth": ["run"]}}, "'answer' is \\['run'\\], expected text"),
    ],
)
def test_a_bad_verl_row_is_named(clips: Workspace, changes: dict[str, Any], words: str) -> None:
    rows = [verl_row("a", "run"), verl_row("b", "walk", **changes)]
    with pytest.raises(DataError, match=f"v.json record 2: {words}"):
        clips.read(clips.write("v.json", rows))


def test_easyr1_rows(clips: Workspace) -> None:
    rows = [
        {"problem": "<video>?", "answer": "run", "videos": ["a.mp4"], "images": []},
        {"problem": "<video>?", "answer": "walk", "videos": [{"path": "b.mp4", "bytes": None}]},
        {"problem": "<image>?", "answer": "4", "videos": [], "images": ["x.png"]},
    ]
    report = clips.read(clips.write("e.json", rows), split=Split.VAL)
    assert found(clips) == {"a": ("run", None), "b": ("walk", None)}
    assert report.tally.count(NO_VIDEO) == 1


def test_video_r1_takes_the_text_of_the_right_option_and_its_trace(clips: Workspace) -> None:
    rows = [
        r1_row("a", "A", process="<think>It runs on.</think>"),
        r1_row("b", "B", options=["run", "walk"]),
        r1_row("c", "walk", options=["(A) run", "(B) walk"]),
    ]
    report = clips.read(clips.write("r.json", rows), split=Split.TRAIN)
    assert report.recognised == ("r.json read as video-r1 (Video-R1)",)
    assert list(found(clips).values()) == [("run", KEPT), ("walk", None), ("walk", None)]
    assert clips.rows["videos/a"]["problem"] == "What happens?"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"problem_type": "free-form", "options": []}, OPEN_TYPE.format("free-form")),
        ({"problem_type": "numerical", "options": []}, OPEN_TYPE.format("numerical")),
        ({"data_type": "image"}, NO_VIDEO),
        ({"solution": "<answer>E</answer>"}, NO_OPTION),
        ({"options": []}, NO_OPTION),
    ],
)
def test_video_r1_rows_without_a_closed_set_are_counted(
    clips: Workspace, changes: dict[str, Any], reason: str
) -> None:
    rows = [r1_row("a", "A"), r1_row("b", "B"), r1_row("c", "A", **changes)]
    report = clips.read(clips.write("r.json", rows), split=Split.TRAIN)
    assert [(key, len(ids)) for key, ids in report.tally.examples.items()] == [(reason, 1)]


def test_a_file_of_open_questions_only_is_refused_with_the_reason(clips: Workspace) -> None:
    rows = [r1_row("a", "3", problem_type="regression", options=[])]
    with pytest.raises(DataError, match="no clip is left to write: 1  rows left out: problem_type"):
        clips.read(clips.write("r.json", rows), split=Split.TRAIN)


def test_answers_that_are_no_closed_set_are_warned_of(workspace: Workspace) -> None:
    workspace.files(*(f"{n}.mp4" for n in range(60)))
    rows = [r1_row(f"{n}", "A", options=[f"A. thing {n}", "B. none"]) for n in range(60)]
    report = workspace.read(workspace.write("r.json", rows), split=Split.TRAIN)
    assert any("60 labels, 60 of them for one clip only" in each for each in report.warnings)
    assert "labels  fewest  most" in str(report)


def test_two_questions_about_one_clip_contradict_each_other(clips: Workspace) -> None:
    rows = [r1_row("a", "A"), r1_row("a", "B"), r1_row("b", "A"), r1_row("c", "B")]
    source = clips.write("r.json", rows)
    with pytest.raises(DataError, match="1 of 3 clips contradict themselves"):
        clips.read(source, split=Split.TRAIN)
    clips.read(source, split=Split.TRAIN, on_conflict="skip")
    assert len(clips.rows) == 2
