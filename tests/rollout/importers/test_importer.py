import gzip
import json
import tomllib
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.importers.importer import import_records
from rollout.importers.join import CONTRADICTED
from rollout.importers.options import ImportOptions
from rollout.importers.videos import BROKEN_ZIP, MISSING
from rollout.importers.write import labels_toml
from rollout.manifest import read_manifest, unreadable_clips
from tests.rollout.importers.builders import Workspace, deepintuit_row, rbft_row
from video.config import VideoConfig
from video.decode import decode
from wire.errors import ConfigError, DataError
from wire.labels import Label, LabelSet
from wire.types import Split

LABELS = LabelSet(labels=(Label(name="abnormal"), Label(name="normal")))
SHARES = {Split.TRAIN: 0.6, Split.VAL: 0.2, Split.CAL: 0.2}
POLICY = {
    "normal": [
        {"Policy Code": ["N1"], "Policy Token": "normal", "playbook_rule": ["All is well."]}
    ],
    "abnormal": [
        {"Policy Token": "abnormal", "playbook_rule": [" Somebody\n breaks in. ", "More."]}
    ],
}


def make_rows(*numbers: int) -> list[object]:
    """Odd clips are normal."""
    return [rbft_row(n, "normal" if n % 2 else "abnormal") for n in numbers]


def write_clip(path: Path, frames: int = 4) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_frame_zip(path: Path, frames: int = 5, size: int = 32) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(frames):
            encoder = av.CodecContext.create("png", "w")
            encoder.width = encoder.height = size
            encoder.pix_fmt, encoder.time_base = "rgb24", Fraction(1)
            plain = np.full((size, size, 3), 40 * index, np.uint8)
            packets = encoder.encode(av.VideoFrame.from_ndarray(plain, format="rgb24"))
            data = b"".join(bytes(packet) for packet in [*packets, *encoder.encode(None)])
            archive.writestr(f"frame{index * 5}.png", data)


def test_an_imported_manifest_is_read_and_its_clips_open(workspace: Workspace) -> None:
    for number in (1, 2):
        write_clip(workspace.folder / "clips" / f"garden_{number:04d}.mp4")
    trace = "<think>A hen.</think><answer>normal</answer>"
    source = workspace.write(
        "a.json", [deepintuit_row(1, reply=trace), deepintuit_row(2, "abnormal")]
    )
    workspace.run(f"train={source}", with_side_text=True)
    samples = read_manifest(workspace.manifest, LABELS)
    assert unreadable_clips(samples, VideoConfig()) == {}
    assert [(s.id, s.label, s.split, s.trace) for s in samples] == [
        ("garden_0001", "normal", Split.TRAIN, trace),
        ("garden_0002", "abnormal", Split.TRAIN, None),
    ]
    assert samples[0].text == "transcript: A hedgehog crosses the lawn."
    assert samples[0].extra == {"source": "a.json"}


def test_a_manifest_beside_its_clips_can_be_moved_with_them(workspace: Workspace) -> None:
    source = workspace.write("a.json", make_rows(1, 2))
    manifest = workspace.folder / "manifest.jsonl"
    workspace.run(f"train={source}", format="rbft", manifest=manifest)
    videos = [json.loads(line)["video"] for line in manifest.read_text().splitlines()]
    assert videos == ["clips/garden_0001.mp4", "clips/garden_0002.mp4"]


def test_a_zip_of_frames_is_refused_with_the_option_that_helps(workspace: Workspace) -> None:
    write_frame_zip(workspace.folder / "clips" / "garden_0030.zip")
    rows = [deepintuit_row(30, video="/farm/garden_0030.zip"), deepintuit_row(2, "abnormal")]
    source = workspace.write("a.json", rows)
    with pytest.raises(DataError, match=r"1 of 2 videos are zips.*garden_0030\.zip.*--convert-fra"):
        workspace.run(f"train={source}")
    assert not workspace.manifest.parent.exists()


def test_a_zip_of_frames_becomes_an_mp4_beside_the_manifest(workspace: Workspace) -> None:
    write_frame_zip(workspace.folder / "clips" / "garden_0030.zip")
    rows = [deepintuit_row(30, video="/farm/garden_0030.zip"), deepintuit_row(2, "abnormal")]
    write_clip(workspace.folder / "clips" / "garden_0002.mp4")
    source = workspace.write("a.json", rows)
    workspace.run(f"train={source}", convert_frames=True, fps=Fraction(2))
    assert workspace.rows["garden_0030"]["video"] == "manifest-clips/garden_0030.mp4"
    samples = read_manifest(workspace.manifest, LABELS)
    assert unreadable_clips(samples, VideoConfig()) == {}
    clip = decode(samples[0].video, VideoConfig(max_frames=4))
    assert (clip.native_fps, clip.total_frames) == (2.0, 5)
    assert abs(clip.frames.mean(axis=(1, 2, 3)) - [0, 40, 80, 160]).max() < 3


def test_an_id_is_no_path_for_a_converted_clip(workspace: Workspace) -> None:
    rows = [
        deepintuit_row(30, item_id=name, video="/farm/garden_0030.zip")
        for name in ("../../evil", "a/b", "a_b")
    ]
    write_frame_zip(workspace.folder / "clips" / "garden_0030.zip")
    source = workspace.write("a.json", [*rows, deepintuit_row(2, "abnormal")])
    before = {path.name for path in workspace.folder.parent.iterdir()}
    workspace.run(f"train={source}", convert_frames=True)
    made = list((workspace.manifest.parent / "manifest-clips").iterdir())
    assert len(made) == 3
    assert {path.name for path in workspace.folder.parent.iterdir()} == before


def test_a_broken_zip_is_an_error_or_left_out(workspace: Workspace) -> None:
    (workspace.folder / "clips" / "garden_0030.zip").write_bytes(b"no zip")
    rows = [deepintuit_row(30, video="x/garden_0030.zip"), deepintuit_row(2, "abnormal")]
    source = f"train={workspace.write('a.json', [*rows, deepintuit_row(3)])}"
    with pytest.raises(DataError, match=r"1 of 3 clips have a zip.*garden_0030\.zip"):
        workspace.run(source, convert_frames=True)
    assert not workspace.manifest.exists()
    report = workspace.run(source, convert_frames=True, skip_missing=True)
    assert report.tally.examples == {BROKEN_ZIP: ["garden_0030"]}
    assert list((workspace.manifest.parent / "manifest-clips").iterdir()) == []


def test_missing_videos_are_an_error_or_left_out(workspace: Workspace) -> None:
    source = f"train={workspace.write('a.json', make_rows(1, 2, 31, 32))}"
    with pytest.raises(DataError, match=r"2 of 4 clips have no video.*--skip-missing.*garden_0031"):
        workspace.run(source, format="rbft")
    report = workspace.run(source, format="rbft", skip_missing=True)
    assert report.tally.examples == {MISSING: ["garden_0031", "garden_0032"]}
    assert list(workspace.rows) == ["garden_0001", "garden_0002"]


def test_no_manifest_is_written_where_all_videos_are_missing(workspace: Workspace) -> None:
    source = f"train={workspace.write('a.json', make_rows(31, 32))}"
    with pytest.raises(DataError, match="no clip is left to write: 2  clips left out: their video"):
        workspace.run(source, format="rbft", skip_missing=True)


def test_an_id_twice_in_a_file_is_a_conflict(workspace: Workspace) -> None:
    source = f"train={workspace.write('a.json', make_rows(1, 2, 4, 2))}"
    words = r"garden_0002: it is in a\.json record 2 and again in a\.json record 4"
    with pytest.raises(DataError, match=words):
        workspace.run(source, format="rbft")
    report = workspace.run(source, format="rbft", on_conflict="skip")
    assert report.tally.examples == {CONTRADICTED: ["garden_0002"]}
    assert list(workspace.rows) == ["garden_0001", "garden_0004"]


@pytest.mark.parametrize("on_conflict", ["error", "skip", "keep"])
def test_a_clip_in_two_splits_is_always_an_error(workspace: Workspace, on_conflict: str) -> None:
    train = workspace.write("a.json", make_rows(1, 2))
    test = workspace.write("b.json", [rbft_row(1, task="day-watch")])
    words = r"garden_0001 is in train \(a\.json record 1\) and test \(b\.json record 1\)"
    with pytest.raises(DataError, match=words):
        workspace.run(f"train={train}", f"test={test}", format="rbft", on_conflict=on_conflict)
    with pytest.raises(DataError, match=r"garden_0001 is in by ratio .* and test"):
        workspace.run(train, f"test={test}", format="rbft", ratio=SHARES, on_conflict=on_conflict)


def test_one_file_under_two_ids_in_two_splits_is_an_error(workspace: Workspace) -> None:
    train = workspace.write("a.json", [deepintuit_row(1), deepintuit_row(2, "abnormal")])
    test = workspace.write("b.json", [deepintuit_row(1, item_id="renamed")])
    with pytest.raises(DataError, match=r"garden_0001\.mp4 is garden_0001 .* and renamed"):
        workspace.run(f"train={train}", f"test={test}")


def test_one_file_under_two_ids_with_two_labels_is_a_conflict(workspace: Workspace) -> None:
    again = deepintuit_row(1, "abnormal", item_id="renamed")
    rows = [deepintuit_row(1), again, deepintuit_row(2), deepintuit_row(4, "abnormal")]
    source = f"train={workspace.write('a.json', rows)}"
    with pytest.raises(DataError, match="2 of 4 clips contradict themselves"):
        workspace.run(source)
    workspace.run(source, on_conflict="skip")
    assert list(workspace.rows) == ["garden_0002", "garden_0004"]


def test_one_file_under_two_ids_stays_together_when_divided(workspace: Workspace) -> None:
    rows = [deepintuit_row(n, "normal" if n % 2 else "abnormal") for n in range(1, 21)]
    rows += [
        deepintuit_row(n, row["policy_title"], item_id=f"twin{n}")
        for n, row in enumerate(rows[:10], start=1)
    ]
    workspace.run(workspace.write("a.json", rows), ratio=SHARES, seed=3)
    found = workspace.rows
    assert all(
        found[f"twin{n}"]["split"] == found[f"garden_{n:04d}"]["split"] for n in range(1, 11)
    )


def test_a_ratio_divides_what_names_no_split(workspace: Workspace) -> None:
    rest = workspace.write("a.json", make_rows(*range(1, 11)))
    test = workspace.write("b.json", make_rows(*range(11, 15)))
    report = workspace.run(rest, f"test={test}", format="rbft", ratio=SHARES)
    counts = {split: sum(n for (s, _), n in report.rows.items() if s == split) for split in Split}
    assert counts == {Split.TRAIN: 6, Split.VAL: 2, Split.CAL: 2, Split.TEST: 4}


def test_where_the_data_lies_does_not_change_its_division(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        workspace = Workspace(tmp_path / name)
        workspace.videos(*range(1, 21))
        workspace.run(
            workspace.write("a.json", make_rows(*range(1, 21))), format="rbft", ratio=SHARES
        )
        found.append({key: row["split"] for key, row in workspace.rows.items()})
    assert found[0] == found[1]


def test_a_split_of_a_source_wins_over_the_common_one(workspace: Workspace) -> None:
    first, second = (workspace.write(f"{n}.json", make_rows(n)) for n in (1, 2))
    workspace.run(first, f"cal={second}", format="rbft", split=Split.VAL)
    assert [row["split"] for row in workspace.rows.values()] == ["val", "cal"]


def test_a_policy_info_among_the_sources_defines_the_labels(workspace: Workspace) -> None:
    source = workspace.write("a.json", [deepintuit_row(1), deepintuit_row(2, "abnormal")])
    labels_out = workspace.folder / "labels.toml"
    policy = workspace.write("policy_info.json", POLICY)
    workspace.run(f"train={source}", policy, labels_out=labels_out)
    assert tomllib.loads(labels_out.read_text()) == {
        "labels": [
            {"name": "abnormal", "definition": "Somebody breaks in."},
            {"name": "normal", "definition": "All is well."},
        ]
    }


def test_a_label_that_a_policy_info_does_not_define_is_named(workspace: Workspace) -> None:
    rows = [deepintuit_row(1), deepintuit_row(2, "vague", reward_label="vague")]
    policy = workspace.write("policy_info.json", POLICY)
    with pytest.raises(DataError, match=r"labels \['vague'\] are not among the defined"):
        workspace.run(f"train={workspace.write('a.json', rows)}", policy)


def test_records_of_one_label_only_make_no_task(workspace: Workspace) -> None:
    source = workspace.write("a.json", make_rows(1, 3))
    with pytest.raises(DataError, match=r"the labels \['normal'\] make no task"):
        workspace.run(f"train={source}", format="rbft")


any_text = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(deadline=None)
@given(any_text, any_text)
def test_any_definition_survives_toml(first: str, second: str) -> None:
    labels = LabelSet(
        labels=(Label(name='b "x"\\', definition=first), Label(name="a", definition=second))
    )
    found = tomllib.loads(labels_toml(labels))["labels"]
    assert found == [
        {"name": "a", "definition": second},
        {"name": 'b "x"\\', "definition": first},
    ]


def test_an_existing_manifest_stays_unless_it_may_be_replaced(workspace: Workspace) -> None:
    source = f"train={workspace.write('a.json', make_rows(1, 2))}"
    workspace.manifest.parent.mkdir()
    workspace.manifest.write_text("precious")
    with pytest.raises(ConfigError, match="there already; give --overwrite"):
        workspace.run(source, format="rbft")
    broken = f"train={workspace.write('b.json', [{}])}"
    with pytest.raises(DataError, match=r"b\.json record 1"):
        workspace.run(broken, format="rbft", overwrite=True)
    assert workspace.manifest.read_text() == "precious"
    workspace.run(source, format="rbft", overwrite=True)
    assert len(workspace.rows) == 2
    assert [path.name for path in workspace.manifest.parent.iterdir()] == ["manifest.jsonl"]


def test_an_existing_labels_file_stays(workspace: Workspace) -> None:
    source = f"train={workspace.write('a.json', make_rows(1, 2))}"
    labels_out = workspace.folder / "recipe.toml"
    labels_out.write_text("precious")
    with pytest.raises(ConfigError, match=r"recipe\.toml is there already"):
        workspace.run(source, format="rbft", labels_out=labels_out)
    assert labels_out.read_text() == "precious"
    assert not workspace.manifest.exists()


def test_a_source_is_never_written_to(workspace: Workspace) -> None:
    path = workspace.folder / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in make_rows(1, 2)))
    with pytest.raises(ConfigError, match="is a source and would be overwritten"):
        workspace.run(f"train={path}", format="rbft", manifest=path, overwrite=True)


def test_a_forgotten_manifest_does_not_cost_the_last_source(workspace: Workspace) -> None:
    path = Path(workspace.write("b.json", make_rows(1)))
    with pytest.raises(ConfigError, match=r"b\.json must end in \.jsonl"):
        workspace.run("a.json", format="rbft", manifest=path, overwrite=True)


def test_a_source_without_a_split_is_named(workspace: Workspace) -> None:
    source = workspace.write("a.json", make_rows(1, 2))
    with pytest.raises(
        ConfigError, match=r"no split for the clips of .*a\.json; write such as train="
    ):
        workspace.run(source, format="rbft")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{broken", "is not valid JSON"),
        ("[]", "holds no records"),
        ('["a"]', "is no list of records"),
        ("7", "is no list of records"),
        ('[{"id": "a"}]', "record 1"),
    ],
)
def test_a_file_that_holds_no_records_is_named(workspace: Workspace, text: str, words: str) -> None:
    path = workspace.folder / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"a\.json.*{words}|{words}"):
        workspace.run(f"train={path}", format="rbft")


def test_a_source_that_is_not_there_is_named(workspace: Workspace) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.json: No such file"):
        workspace.run(f"train={workspace.folder / 'none.json'}", format="rbft")


def test_faults_of_records_are_gathered(workspace: Workspace) -> None:
    rows = [{**row, "video": ""} for row in map(dict, make_rows(*range(1, 9)))]  # type: ignore[call-overload]
    with pytest.raises(DataError, match=r"record 5: 'video' is ''.*and 3 more"):
        workspace.run(f"train={workspace.write('a.json', rows)}", format="rbft")


def test_json_lines_are_read_too(workspace: Workspace) -> None:
    path = workspace.folder / "a.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in make_rows(1, 2)))
    assert workspace.run(f"train={path}", format="rbft").rows.total() == 2


def test_the_report_counts_rows_by_split_and_label(workspace: Workspace) -> None:
    train = workspace.write("a.json", make_rows(1, 2, 3))
    test = workspace.write("b.json", [rbft_row(4, "abnormal"), rbft_row(5, "normal", "abnormal")])
    said = str(workspace.run(f"train={train}", f"test={test}", format="rbft"))
    assert said.splitlines()[:-2] == [
        "a.json read as rbft (RB-FT, LLaVA)",
        "b.json read as rbft (RB-FT, LLaVA)",
        f"wrote {workspace.manifest}: 5 clips",
        "split  abnormal  normal  clips  traces  texts",
        "train         1       2      3       0      0",
        " test         1       1      2       0      0",
        "left out or ignored:",
        "     1  ground_truth differs from the assistant turn, which is believed (garden_0005)",
    ]
    assert said.endswith("\n      deepintuit check my.toml")


def test_the_default_media_root_is_the_folder_of_the_manifest(workspace: Workspace) -> None:
    source = workspace.write("a.json", make_rows(1, 2))
    manifest = workspace.folder / "clips" / "m.jsonl"
    import_records(ImportOptions(sources=(f"train={source}",), manifest=manifest, format="rbft"))
    assert len(read_manifest(manifest, LABELS)) == 2


def test_a_place_that_cannot_be_written_is_named(workspace: Workspace) -> None:
    (workspace.folder / "file").write_text("x")
    source = f"train={workspace.write('a.json', make_rows(1, 2))}"
    with pytest.raises(DataError, match=r"cannot write .*file.*give another place"):
        workspace.run(source, format="rbft", manifest=workspace.folder / "file" / "m.jsonl")


def test_the_labels_file_is_never_the_manifest(workspace: Workspace) -> None:
    source = f"train={workspace.write('a.json', make_rows(1, 2))}"
    with pytest.raises(ConfigError, match="is the manifest, too; give it a file of its own"):
        workspace.run(source, format="rbft", labels_out=workspace.manifest)
    assert not workspace.manifest.exists()


def test_no_manifest_is_written_where_the_labels_cannot_be(workspace: Workspace) -> None:
    (workspace.folder / "file").write_text("x")
    source = f"train={workspace.write('a.json', make_rows(1, 2))}"
    with pytest.raises(DataError, match="cannot write"):
        workspace.run(source, format="rbft", labels_out=workspace.folder / "file" / "l.toml")
    assert list(workspace.manifest.parent.iterdir()) == []


@pytest.mark.parametrize("source", ["", "train=", " "])
def test_an_empty_source_is_not_the_working_directory(workspace: Workspace, source: str) -> None:
    with pytest.raises(ConfigError, match="is empty; give the path"):
        workspace.read(source, split=Split.TRAIN)


def test_half_a_character_in_an_id_is_the_sources_fault(workspace: Workspace) -> None:
    rows = [{"id": f"{n}\udcff", "path": f"clips/garden_000{n}.mp4", "label": n} for n in (1, 2)]
    with pytest.raises(DataError, match="half a character"):
        workspace.read(workspace.write("a.json", rows), ratio={Split.TRAIN: 1.0})


def test_json_lines_may_hold_other_separators_of_lines(workspace: Workspace) -> None:
    rows = [
        {"path": f"clips/garden_000{n}.mp4", "label": f"l{n}", "note": "a\u2028b"} for n in (1, 2)
    ]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    workspace.read(workspace.write_text("a.jsonl", text), split=Split.TRAIN)
    assert [row["note"] for row in workspace.rows.values()] == ["a\u2028b"] * 2


def test_a_broken_line_of_json_lines_is_named(workspace: Workspace) -> None:
    source = workspace.write_text("a.jsonl", '{"path": "a.mp4", "label": "x"}\n{"path": "b.m')
    with pytest.raises(DataError, match=r"a\.jsonl is not valid JSON: line 2: Unterminated"):
        workspace.read(source, split=Split.TRAIN)


def test_json_nested_without_end_is_named(workspace: Workspace) -> None:
    with pytest.raises(DataError, match="nested too deeply"):
        workspace.read(workspace.write_text("a.json", "[" * 100_000), split=Split.TRAIN)


@pytest.mark.parametrize(
    ("name", "data", "remedy"),
    [
        ("a.csv.gz", gzip.compress(b"path,label\n", mtime=0), "unpack it with gunzip"),
        ("a.csv", b"path,label\na.mp4,\xe9\n", "save it as UTF-8"),
        ("a.mp4", b"\x00\xff", "it is a video; give the folder"),
    ],
)
def test_what_is_no_text_is_told_with_its_remedy(
    workspace: Workspace, name: str, data: bytes, remedy: str
) -> None:
    path = workspace.folder / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=remedy):
        workspace.read(str(path), split=Split.TRAIN)
