"""``deepintuit import``: what it prints, and one sentence with exit status 2 for each mistake."""

import json
import shlex
from pathlib import Path

import pytest

from cluster.cli import main


def make_record(number: int, label: str) -> dict[str, object]:
    return {
        "id": f"yard_{number}-guard-duty",
        "video": f"/farm/kim/yard_{number}.mp4",
        "ground_truth": "abnormal",
        "conversations": [
            {"from": "human", "value": "<video>\nnormal or abnormal?"},
            {"from": "gpt", "value": label},
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    labels = ["normal", "abnormal"] * 5
    records = [make_record(number, label) for number, label in enumerate(labels)]
    (tmp_path / "labels.json").write_text(json.dumps(records))
    for number in range(10):
        (tmp_path / f"yard_{number}.mp4").write_bytes(b"video")
    return tmp_path


def run(folder: Path, *arguments: str) -> int:
    paths = [str(folder / "labels.json"), str(folder / "m.jsonl")]
    return main(["import", *paths, "--format", "rbft", *arguments])


def test_it_writes_the_manifest_and_the_labels_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    labels = folder / "labels.toml"
    ratio = ["--ratio", "train=0.6,val=0.4", "--seed", "4"]
    assert run(folder, *ratio, "--labels-out", str(labels)) == 0
    said = capsys.readouterr()
    assert f"wrote {folder / 'm.jsonl'}: 10 clips" in said.out
    assert "5  ground_truth differs" in said.out
    assert said.err == ""
    rows = [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]
    assert sorted(row["split"] for row in rows) == ["train"] * 6 + ["val"] * 4
    assert labels.read_text().startswith('[[labels]]\nname = "abnormal"\n')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--split", "val", "--format", "csv"],
            "unknown --format 'csv'; known: folder, table, list,",
        ),
        ([], "no split for the clips of"),
        (["--ratio", "train=2"], "--ratio got 'train=2'"),
        (["--ratio", ""], "--ratio got ''"),
        (["--ratio", "train=0.5,val=0.5", "--group-by", ""], "no value in '', which"),
        (["--split", "val", "--media-root", "/nowhere"], "10 of 10 clips have no video"),
        (["--split", "val", "--format", "deepintuit"], "'policy_title' is None, expected text"),
        (["--split", "val", "--format", "folder"], "is a file of rows, which --format folder does"),
        (["--split", "val", "--columns", "video"], "--columns got 'video', expected such as"),
        (["--split", "val", "--columns", "video=clip"], "--columns names clip, which labels.json"),
        (["--split", "val", "--group-by", "id"], "--group-by says how --ratio divides"),
        (["--split", "val", "--divide", "train"], "--divide says how --ratio divides"),
        (["--split", "val", "--label-names", "nowhere.txt"], "cannot read nowhere.txt"),
        (["--ratio", "train=0.5,val=0.5", "--group-by", "who"], "no value in 'who', which"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    assert run(folder, *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said
    assert not (folder / "m.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "dev"], "invalid choice: 'dev'"),
        (["--split", "val", "--ratio", "train=1"], "not allowed with argument"),
        (["--fps", "1/0"], "expected above 0 and at most 240"),
        (["--on-conflict", "guess"], "invalid choice: 'guess'"),
        (["--timeout", "0"], "expected seconds above 0"),
    ],
)
def test_a_bad_option_is_refused_while_parsing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    with pytest.raises(SystemExit) as caught:
        run(folder, *arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_an_existing_manifest_is_replaced_on_request_only(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(folder, "--split", "val") == 0
    assert run(folder, "--split", "cal") == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert run(folder, "--split", "cal", "--overwrite") == 0
    assert '"split": "cal"' in (folder / "m.jsonl").read_text()


def test_a_folder_per_class_needs_no_option_but_the_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for label in ("cat", "dog"):
        for number in range(10):
            path = tmp_path / "videos" / label / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"video")
    manifest, labels = tmp_path / "m.parquet", tmp_path / "labels.toml"
    ratio = "train=0.8,val=0.1,test=0.1"
    arguments = ["import", str(tmp_path / "videos"), str(manifest), "--ratio", ratio]
    assert main([*arguments, "--labels-out", str(labels)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "videos read as folder (a folder per class)",
        f"wrote {manifest}: 20 clips",
        "split  cat  dog  clips  traces  texts",
        "train    8    8     16       0      0",
        "  val    1    1      2       0      0",
        " test    1    1      2       0      0",
        f"next: deepintuit init {manifest} my.toml --model MODEL",
        "      deepintuit check my.toml",
    ]
    assert main([*arguments, "--overwrite"]) == 0


def test_the_commands_of_the_documentation_parse():
    from cluster.cli import _parser

    page = Path(__file__).parents[3] / "docs" / "data.md"
    lines = [
        line for line in page.read_text().splitlines() if line.startswith("deepintuit import ")
    ]
    for line in lines[1:]:  # the first is the shape of them all
        options = _parser().parse_args(shlex.split(line)[1:])
        assert options.manifest.suffix in (".jsonl", ".parquet")
    assert len(lines) > 10
