import json
from pathlib import Path

import pytest

from rollout.importers.parsers.table import NO_VIDEO, SEVERAL
from rollout.importers.reply import NOT_A_TRACE
from rollout.importers.videos import TIMES
from rollout.manifest import read_manifest
from tests.rollout.importers.builders import Workspace
from wire.errors import ConfigError, DataError
from wire.labels import Label, LabelSet
from wire.types import Split

KINETICS = """label,youtube_id,time_start,time_end,split
"playing, chess",aaaa,5,15,train
zumba,-b_b,100,110,val
zumba,cccc,0,10.4,test
"""


def labels(workspace: Workspace) -> dict[str, str]:
    return {name: row["label"] for name, row in workspace.rows.items()}


def test_kinetics_gives_labels_splits_and_finds_cut_clips(workspace: Workspace) -> None:
    workspace.files("clips/aaaa_000005_000015.mp4", "clips/zumba/-b_b_000100_000110.mkv")
    workspace.files("clips/val/zumba/nothing.mp4", "clips/test/zumba/cccc_000000_000010.mp4")
    source = workspace.write_text("kinetics.csv", KINETICS)
    report = workspace.read(source, media_root=workspace.folder / "clips")
    assert report.recognised == ("kinetics.csv read as kinetics (Kinetics)",)
    rows = workspace.rows
    assert [(row["label"], row["split"]) for row in rows.values()] == [
        ("playing, chess", "train"),
        ("zumba", "val"),
        ("zumba", "test"),
    ]
    assert rows["aaaa_000005_000015"]["youtube_id"] == "aaaa"
    assert "start_s" not in rows["aaaa_000005_000015"]


def test_windows_take_the_untrimmed_video_and_write_its_times(workspace: Workspace) -> None:
    workspace.files("aaaa.mp4", "aaaa_000005_000015.mp4", "-b_b.mp4", "cccc.webm")
    workspace.read(workspace.write_text("k.csv", KINETICS), windows=True)
    row = workspace.rows["aaaa_000005_000015"]
    assert (row["start_s"], row["end_s"]) == (5.0, 15.0)
    assert row["video"].endswith("/aaaa.mp4")


def test_windows_of_one_file_may_differ_unless_they_overlap(workspace: Workspace) -> None:
    head = "label,youtube_id,time_start,time_end,split\n"
    workspace.files("aaaa.mp4")
    apart = workspace.write_text("a.csv", head + "x,aaaa,0,5,train\ny,aaaa,5,9,train\n")
    workspace.read(apart, windows=True)
    assert sorted(labels(workspace).values()) == ["x", "y"]
    same = workspace.write_text("b.csv", head + "x,aaaa,0,5,train\ny,aaaa,4,9,train\n")
    with pytest.raises(DataError, match="2 of 2 clips contradict themselves"):
        workspace.read(same, windows=True, overwrite=True)
    leak = workspace.write_text("c.csv", head + "x,aaaa,0,5,train\ny,aaaa,4,9,test\n")
    with pytest.raises(DataError, match="a clip must be in one split only"):
        workspace.read(leak, windows=True, overwrite=True)


@pytest.mark.parametrize(("start", "end"), [("5", "5"), ("-1", "3"), ("x", "3"), ("nan", "3")])
def test_times_that_are_none_are_named(workspace: Workspace, start: str, end: str) -> None:
    head = "label,youtube_id,time_start,time_end,split\n"
    source = workspace.write_text("k.csv", f"{head}zumba,aaaa,{start},{end},train\n")
    with pytest.raises(DataError, match=r"k\.csv line 2: 'time_start' to 'time_end' is"):
        workspace.read(source)


def test_a_test_list_without_labels_is_a_conflict_that_can_be_skipped(workspace: Workspace) -> None:
    workspace.files("aaaa.mp4", "bbbb.mp4", "cccc.mp4")
    text = "youtube_id,time_start,time_end,split,label\n"
    source = workspace.write_text(
        "k.csv", f"{text}aaaa,0,10,train,x\nbbbb,0,10,train,y\ncccc,0,10,test,\n"
    )
    with pytest.raises(DataError, match=r"cccc_000000_000010: k\.csv line 4 gives no label"):
        workspace.read(source)
    report = workspace.read(source, on_conflict="skip")
    assert report.rows.total() == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "my clips/a 1.mp4 walk dog\nb.mp4 run\n"),
        ("list.csv", "my clips/a 1.mp4,walk dog\nb.mp4,run\n"),
        ("list.tsv", "my clips/a 1.mp4\twalk  dog\nb.mp4\trun\n"),
        ("list.csv", "path,label\nmy clips/a 1.mp4, walk dog \nb.mp4,run\n"),
        ("list.csv", "label;file_name\nwalk dog;my clips/a 1.mp4\nrun;b.mp4\n"),
        ("list.csv", "\ufeffpath,label\r\nmy clips/a 1.mp4,walk dog\r\n\r\nb.mp4,run\r\n"),
    ],
)
def test_lists_of_paths_and_labels_in_every_shape(
    workspace: Workspace, name: str, text: str
) -> None:
    workspace.files("my clips/a 1.mp4", "b.mp4")
    workspace.read(workspace.write_text(name, text), split=Split.TRAIN)
    assert labels(workspace) == {"my clips/a 1": "walk dog", "b": "run"}


NAMES = [
    ("classes.txt", "walk\nrun\n"),
    ("classInd.txt", "0 walk\n1 run\n"),
    ("classes.csv", "id,name\n0,walk\n1,run\n"),
    ("classes.csv", "name,id\nwalk,0\nrun,1\n"),
    ("labels.json", '{"walk": "0", "run": "1"}'),
    ("id2label.json", '{"0": "walk", "1": "run"}'),
    ("names.json", '["walk", "run"]'),
]


@pytest.mark.parametrize(("name", "text"), NAMES)
def test_numbers_get_the_names_of_their_labels(workspace: Workspace, name: str, text: str) -> None:
    workspace.files("a.mp4", "b.mp4")
    names = workspace.folder / name
    names.write_text(text)
    source = workspace.write_text("list.txt", "a.mp4 0\nb.mp4 1\n")
    workspace.read(source, split=Split.TRAIN, label_names=names)
    assert labels(workspace) == {"a": "walk", "b": "run"}


def test_a_number_without_a_name_is_named(workspace: Workspace) -> None:
    workspace.files("a.mp4")
    names = workspace.folder / "n.txt"
    names.write_text("walk\nrun\n")
    source = workspace.write_text("list.txt", "a.mp4 2\n")
    with pytest.raises(DataError, match="label '2' is not in --label-names, which has 0 to 1"):
        workspace.read(source, split=Split.TRAIN, label_names=names)


@pytest.mark.parametrize("text", ["", "0 a\n0 b\n", "a\nA\n", "[1, 2]"])
def test_names_that_are_none_are_refused(workspace: Workspace, text: str) -> None:
    names = workspace.folder / ("n.json" if text.startswith("[") else "n.txt")
    names.write_text(text)
    source = workspace.write_text("list.txt", "a.mp4 2\n")
    with pytest.raises(DataError, match=r"n\.(txt|json)"):
        workspace.read(source, split=Split.TRAIN, label_names=names)


def test_numbers_without_names_are_warned_of(workspace: Workspace) -> None:
    workspace.files("a.mp4", "b.mp4")
    source = workspace.write_text("list.txt", "a.mp4 0\nb.mp4 1\n")
    report = workspace.read(source, split=Split.TRAIN)
    assert any("--label-names" in warning for warning in report.warnings)


def test_something_something_by_its_templates(workspace: Workspace) -> None:
    rows = [
        {
            "id": str(number),
            "label": f"{verb} potato next to cup",
            "template": f"{verb} [something] next to [something]",
            "placeholders": ["potato", "cup"],
        }
        for number, verb in ((78687, "Holding"), (2, "Pushing"))
    ]
    workspace.files("v/78687.webm", "v/2.webm", "v/9.webm")
    train = workspace.write("train.json", rows)
    test = workspace.write_text("answers.csv", "9;Pushing something next to something\n")
    names = {"Holding something next to something": "0", "Pushing something next to something": "1"}
    report = workspace.read(
        f"train={train}",
        f"test={test}",
        workspace.write("labels.json", names),
        media_root=workspace.folder / "v",
    )
    assert [line.split(" read as ")[1] for line in report.recognised] == [
        "ssv2 (Something-Something)"
    ] * 2
    assert labels(workspace) == {
        "78687": "Holding something next to something",
        "2": "Pushing something next to something",
        "9": "Pushing something next to something",
    }
    row = workspace.rows["78687"]
    assert row["caption"] == "Holding potato next to cup"
    assert row["placeholders"] == ["potato", "cup"]


def test_labels_that_differ_by_case_and_spaces_are_one(workspace: Workspace) -> None:
    workspace.files("a.mp4", "b.mp4", "c.mp4")
    source = workspace.write_text(
        "l.csv", "path,label\na.mp4,Walk  Dog\nb.mp4, walk dog\nc.mp4,x\n"
    )
    workspace.read(source, split=Split.TRAIN)
    assert labels(workspace) == {"a": "Walk Dog", "b": "Walk Dog", "c": "x"}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_table_keeps_its_further_columns_in_both_kinds_of_manifest(
    workspace: Workspace, suffix: str
) -> None:
    workspace.files("a.mp4", "b.mp4")
    trace = "<think>It runs.</think><answer>run</answer>"
    rows = [
        {"id": "one", "video": "a.mp4", "label": "run", "split": "train", "trace": trace,
         "subject": 3, "source": "camera 2", "tags": ["x"]},
        {"id": "two", "video": "b.mp4", "label": "walk", "split": "dev", "trace": "It walks."},
    ]  # fmt: skip
    manifest = workspace.folder / f"m{suffix}"
    report = workspace.read(workspace.write("t.json", rows), manifest=manifest)
    label_set = LabelSet(labels=(Label(name="run"), Label(name="walk")))
    one, two = read_manifest(manifest, label_set)
    assert (one.trace, one.split, two.split) == (trace, Split.TRAIN, Split.VAL)
    assert one.extra["subject"] == 3
    assert one.extra["source_source"] == "camera 2"
    assert list(one.extra["tags"]) == ["x"]
    assert two.trace is None
    assert report.tally.examples == {NOT_A_TRACE: ["two"]}


def test_a_column_of_several_types_is_no_parquet(workspace: Workspace) -> None:
    workspace.files("a.mp4", "b.mp4")
    rows = [
        {"video": "a.mp4", "label": "x", "k": 1},
        {"video": "b.mp4", "label": "y", "k": ["z"]},
    ]
    source = workspace.write("t.json", rows)
    manifest = workspace.folder / "m.parquet"
    with pytest.raises(DataError, match=r"column 'k' has values of several types.*\.jsonl"):
        workspace.read(source, split=Split.TRAIN, manifest=manifest)
    assert not manifest.exists()


def test_columns_of_other_names_are_given_ours(workspace: Workspace) -> None:
    workspace.files("a.mp4", "b.mp4")
    source = workspace.write_text("t.csv", "Clip,Event,Fold\na.mp4,run,train\nb.mp4,walk,test\n")
    with pytest.raises(ConfigError, match="has columns Clip, Event, Fold; name the columns with"):
        workspace.read(source)
    columns = {"video": "Clip", "label": "Event", "split": "Fold"}
    workspace.read(source, columns=columns)
    assert {name: row["split"] for name, row in workspace.rows.items()} == {
        "a": "train",
        "b": "test",
    }
    with pytest.raises(ConfigError, match=r"--columns names Nope, which t\.csv has not"):
        workspace.read(source, columns={"video": "Nope"}, overwrite=True)


def test_groups_stay_together_and_follow_a_given_split(workspace: Workspace) -> None:
    lines = [f"{n}.mp4,{'ab'[n % 2]},s{n // 4},{'test' if n == 0 else ''}" for n in range(40)]
    workspace.files(*(f"{n}.mp4" for n in range(40)))
    source = workspace.write_text("t.csv", "path,label,subject,split\n" + "\n".join(lines) + "\n")
    ratio = {Split.TRAIN: 0.6, Split.VAL: 0.4}
    workspace.read(source, ratio=ratio, group_by="subject")
    splits: dict[str, set[str]] = {}
    for row in workspace.rows.values():
        splits.setdefault(row["subject"], set()).add(row["split"])
    assert all(len(each) == 1 for each in splits.values())
    assert splits["s0"] == {"test"}


def test_a_group_in_two_given_splits_is_an_error(workspace: Workspace) -> None:
    workspace.files(*(f"{n}.mp4" for n in range(4)))
    text = "path,label,subject,split\n0.mp4,a,s,train\n1.mp4,b,s,test\n2.mp4,a,t,\n3.mp4,b,u,\n"
    source = workspace.write_text("t.csv", text)
    ratio = {Split.TRAIN: 0.5, Split.VAL: 0.5}
    with pytest.raises(DataError, match="1 groups of --group-by subject are in several splits"):
        workspace.read(source, ratio=ratio, group_by="subject")
    with pytest.raises(ConfigError, match="has no value in 'actor', which --group-by names; its c"):
        workspace.read(source, ratio=ratio, group_by="actor")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\na.mp4\n", "line 2 has 1 cells, expected 2"),
        ("path,label\na.mp4,x,y\n", "line 2 has 3 cells, expected 2"),
        ("path,path,label\na,b,c\n", "has an empty or a double name"),
        ("path,label,split\na.mp4,x,holdout\n", "'split' is 'holdout', expected one of train"),
        ('path,label\n"a.mp4,x\n', "is no CSV"),
        ("path,label\n,x\n", "'path' is None, expected one path"),
        ("", "holds no records"),
        ("path,label\n", "holds no records"),
        ("a.mp4,x\na.mp4,x\n", "it is in t.csv line 1 and again in t.csv line 2"),
        ("path,label\na.mp4,x\na.mp4,y\n", "contradict themselves"),
    ],
)
def test_a_bad_table_is_told_by_line_and_remedy(
    workspace: Workspace, text: str, words: str
) -> None:
    workspace.files("a.mp4")
    with pytest.raises(DataError, match=words):
        workspace.read(workspace.write_text("t.csv", text), ratio={Split.TRAIN: 1.0})


def test_a_split_typed_against_the_source_s_own_is_an_error(workspace: Workspace) -> None:
    workspace.files("a.mp4", "b.mp4")
    source = workspace.write_text("t.csv", "path,label,split\na.mp4,x,train\nb.mp4,y,test\n")
    with pytest.raises(ConfigError, match="line 3 says split test, but the source was given as"):
        workspace.read(f"train={source}")


def test_an_import_of_a_manifest_is_that_manifest(workspace: Workspace) -> None:
    workspace.files("a.mp4", "b.mp4")
    source = workspace.write_text("t.csv", "path,label,split\na.mp4,x,train\nb.mp4,y,test\n")
    workspace.read(source)
    before = workspace.rows
    again = workspace.folder / "again.jsonl"
    workspace.read(str(workspace.manifest), manifest=again)
    after = [json.loads(line) for line in again.read_text().splitlines()]
    same = ("id", "label", "split")
    assert [[row[k] for k in same] for row in after] == [
        [row[k] for k in same] for row in before.values()
    ]


def test_a_cell_may_hold_other_separators_of_lines(workspace: Workspace) -> None:
    text = "path,label,note\nclips/garden_0001.mp4,x,a\u2028b\nclips/garden_0002.mp4,y,c\n"
    workspace.read(workspace.write_text("t.csv", text), split=Split.TRAIN)
    assert [row["note"] for row in workspace.rows.values()] == ["a\u2028b", "c"]


@pytest.mark.parametrize("cell", ["nan", "NaN", "<NA>", "", " ", "\u200b"])
def test_a_label_that_a_table_writes_for_nothing_is_none(workspace: Workspace, cell: str) -> None:
    text = f"path,label\nclips/garden_0001.mp4,x\nclips/garden_0002.mp4,{cell}\n"
    text += "clips/garden_0003.mp4,y\n"
    source = workspace.write_text("t.csv", text)
    with pytest.raises(DataError, match="line 3 gives no label"):
        workspace.read(source, split=Split.TRAIN)
    workspace.read(source, split=Split.TRAIN, on_conflict="skip")
    assert [row["label"] for row in workspace.rows.values()] == ["x", "y"]


def test_a_list_in_a_cell_is_no_label(workspace: Workspace) -> None:
    text = "path,label\nclips/garden_0001.mp4,\"['x', 'y']\"\n"
    with pytest.raises(DataError, match=r"line 2: 'label' is .*, a list; a clip has one label"):
        workspace.read(workspace.write_text("t.csv", text), split=Split.TRAIN)


def test_one_label_in_two_forms_of_unicode_is_one(workspace: Workspace) -> None:
    text = "path,label\nclips/garden_0001.mp4,caf\u00e9\nclips/garden_0002.mp4,cafe\u0301\n"
    text += "clips/garden_0003.mp4,\ufeffbar\u00a0\u200b\n"
    workspace.read(workspace.write_text("t.csv", text), split=Split.TRAIN)
    labels = [row["label"] for row in workspace.rows.values()]
    assert labels == ["caf\u00e9", "caf\u00e9", "bar"]


def test_a_time_of_a_source_that_is_not_asked_for_is_counted(workspace: Workspace) -> None:
    text = "path,label,start,end\nclips/garden_0001.mp4,x,0,5\nclips/garden_0002.mp4,y,,\n"
    source = workspace.write_text("t.csv", text)
    report = workspace.read(source, split=Split.TRAIN)
    assert report.tally.examples == {TIMES: ["clips/garden_0001"]}
    assert "start_s" not in workspace.rows["clips/garden_0001"]
    report = workspace.read(source, split=Split.TRAIN, windows=True, overwrite=True)
    assert report.tally.examples == {}
    assert workspace.rows["clips/garden_0001"]["end_s"] == 5.0


def test_kinetics_whole_videos_are_counted_where_cut_ones_are_not_there(
    workspace: Workspace,
) -> None:
    workspace.files("aaaa.mp4", "bbbb_000000_000010.mp4")
    head = "label,youtube_id,time_start,time_end,split\n"
    text = head + "x,aaaa,0,10,train\ny,bbbb,0,10,train\n"
    report = workspace.read(workspace.write_text("k.csv", text))
    assert report.tally.examples == {TIMES: ["aaaa_000000_000010"]}


@pytest.mark.parametrize(
    "times", [{"start_s": 1.5}, {"end_s": 3}, {"start_s": 1, "end_s": 3}, {"start_s": None}]
)
def test_the_windows_of_a_manifest_are_kept_by_its_import(
    workspace: Workspace, times: dict[str, float | None]
) -> None:
    rows = [
        {"id": "a", "video": "clips/garden_0001.mp4", "label": "x", "split": "train", **times},
        {"id": "b", "video": "clips/garden_0002.mp4", "label": "y", "split": "train"},
    ]
    workspace.read(workspace.write("m.json", rows))
    written = {name: workspace.rows["a"].get(name) for name in ("start_s", "end_s")}
    start = times.get("start_s", 0.0 if "end_s" in times else None)
    assert written == {"start_s": start, "end_s": times.get("end_s")}
    assert "start_s" not in workspace.rows["b"]


@pytest.mark.parametrize(("start", "end"), [("00:05", "00:09"), ("9", "5"), ("1", "")])
def test_times_that_are_no_seconds_are_named(workspace: Workspace, start: str, end: str) -> None:
    text = f"path,label,start,end\nclips/garden_0001.mp4,x,{start},{end}\n"
    with pytest.raises(DataError, match=r"line 2: 'start' to 'end' is .* expected seconds"):
        workspace.read(workspace.write_text("t.csv", text), split=Split.TRAIN)


def test_several_numbers_after_a_path_are_no_label(workspace: Workspace) -> None:
    source = workspace.write_text("t.txt", "clips/garden_0001.mp4 163 1\n")
    with pytest.raises(DataError, match=r"line 1: after the path are 2 numbers \('163 1'\)"):
        workspace.read(source, split=Split.TRAIN)


def test_whole_numbers_beside_empty_cells_are_whole(workspace: Workspace) -> None:
    text = "path,label\nclips/garden_0001.mp4,1.0\nclips/garden_0002.mp4,0.0\n"
    names = workspace.write_text("names.txt", "run\nwalk\n")
    workspace.read(workspace.write_text("t.csv", text), split=Split.TRAIN, label_names=Path(names))
    assert [row["label"] for row in workspace.rows.values()] == ["walk", "run"]


def test_a_table_of_three_columns_without_a_header_is_told(workspace: Workspace) -> None:
    source = workspace.write_text("t.csv", "clips/garden_0001.mp4,x,train\na.mp4,y,test\n")
    with pytest.raises(ConfigError, match=r"t\.csv has no header: its first line names clips/"):
        workspace.read(source)


def test_windows_files_are_read(workspace: Workspace) -> None:
    text = 'path,label,note\r\nD:\\me\\clips\\garden_0001.mp4,x,"a\r\nb"\r\n'
    text += "clips\\garden_0002.mp4,y,c\r\n"
    for encoding in ("utf-8-sig", "utf-16"):
        path = workspace.folder / "t.csv"
        path.write_bytes(text.encode(encoding))
        workspace.read(str(path), split=Split.TRAIN, overwrite=True)
        assert {row["video"][-15:]: row["label"] for row in workspace.rows.values()} == {
            "garden_0001.mp4": "x",
            "garden_0002.mp4": "y",
        }
        assert {row["note"] for row in workspace.rows.values()} == {"a\nb", "c"}


def test_columns_of_later_rows_may_be_named(workspace: Workspace) -> None:
    rows = [
        {"query": "What?", "response": "a cat", "images": ["cat.jpg"]},
        {"query": "What?", "response": "x", "videos": ["clips/garden_0001.mp4"]},
        {"query": "What?", "response": "y", "videos": ["clips/garden_0002.mp4"], "images": []},
        {"query": "What?", "response": "y", "videos": ["a.mp4", "b.mp4"]},
    ]
    source = workspace.write("q.json", rows)
    columns = {"video": "videos", "label": "response"}
    report = workspace.read(source, split=Split.TRAIN, columns=columns)
    assert report.recognised == ("q.json read as table (a table with video and label)",)
    assert {row["label"] for row in workspace.rows.values()} == {"x", "y"}
    assert {reason: len(ids) for reason, ids in report.tally.examples.items()} == {
        NO_VIDEO: 1,
        SEVERAL: 1,
    }
