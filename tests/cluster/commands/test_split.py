"""A split on the command line, of a head that is compositional; no clip is read."""

import json
from pathlib import Path

import pytest

from calibrate.classifier import load_classifier
from calibrate.splitting.classifier_edit import read_record
from cluster.cli import main
from cluster.demo.tiny_model import BASE_DIR
from tests.calibrate.splitting.head_classifiers import COARSE, NAMES, PARTS, publish_head


def split(parent: Path, out: Path, *more: str) -> int:
    return main(["split", str(parent), str(out), "--label", COARSE, "--into", *PARTS, *more])


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    return publish_head(tmp_path, policy=BASE_DIR).path


def test_a_label_is_split_and_made_one_again(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert split(parent, tmp_path / "edited", "--yes", "--method", "retrieval") == 0
    shown = capsys.readouterr().err
    assert "left then up -> 'up' (proposed)" in shown
    assert "not attainable" in shown
    edited = load_classifier(tmp_path / "edited")
    assert edited.description.label_names == tuple(sorted({*NAMES, *PARTS} - {COARSE}))
    assert read_record(edited).encoder == "policy"
    assert main(["split", str(edited.path), "--undo", str(tmp_path / "undone")]) == 0
    assert load_classifier(tmp_path / "undone").version == load_classifier(parent).version


def test_the_same_order_gives_the_same_bits(parent: Path, tmp_path: Path) -> None:
    assert split(parent, tmp_path / "one", "--yes") == 0
    assert split(parent, tmp_path / "two", "--yes") == 0
    assert split(parent, tmp_path / "other", "--yes", "--seed", "1") == 0
    one, two, other = (load_classifier(tmp_path / n).version for n in ("one", "two", "other"))
    assert one == two != other


def test_proposed_phrases_are_written_down_to_be_edited(parent: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.toml"
    assert split(parent, tmp_path / "unmade", "--save-texts", str(texts)) == 0
    assert not (tmp_path / "unmade").exists()
    more = ("--groups", str(texts), "--method", "retrieval")
    assert split(parent, tmp_path / "made", *more) == 0, "what a file says is not asked about"
    record = read_record(load_classifier(tmp_path / "made"))
    assert record.modifiers["left then up"] == "up"
    assert record.sources["left then up"].endswith("then up")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "nobody is here to confirm them"),
        (("--yes", "--method", "vlm"), "edits no head"),
        (("--yes", "--encoder", "nowhere"), "is no directory of a model"),
        (("--yes", "--encoder", ""), "--encoder"),
        (("--yes", "--shots", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_made(
    parent: Path,
    tmp_path: Path,
    more: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert split(parent, tmp_path / "wrong", *more) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def manifest(folder: Path, *labels: str) -> Path:
    """Rows of these labels; nothing reads their clips."""
    path = folder / "clips.jsonl"
    rows = [
        {"id": f"{n}", "video": f"{n}.mp4", "label": label, "split": "test"}
        for n, label in enumerate(labels)
    ]
    for row in rows:
        (folder / row["video"]).touch()
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("option", "labels", "says"),
    [
        ("--measure", ("up then up", "down then up"), "2 clips 0 are of the parts"),
        ("--measure", PARTS, "3 are of the parts and 0 of other labels"),
        ("--shots", PARTS[:2], f"no clip of ['{PARTS[2]}']"),
    ],
)
def test_clips_that_are_too_few_are_said_before_one_is_read_or_anything_made(
    parent: Path,
    tmp_path: Path,
    option: str,
    labels: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clips = str(manifest(tmp_path, *labels))
    assert split(parent, tmp_path / "wrong", "--yes", option, clips) == 2
    assert says in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "wrong").exists()


def test_texts_that_were_edited_are_not_written_over(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.toml"
    texts.write_text("mine")
    assert split(parent, tmp_path / "unmade", "--save-texts", str(texts)) == 2
    assert "exists already" in capsys.readouterr().err
    assert texts.read_text() == "mine"
    assert split(parent, tmp_path / "unmade", "--save-texts", str(tmp_path / "no/texts.toml")) == 2
    assert "--save-texts the path of a file" in capsys.readouterr().err


def test_out_inside_the_classifier_is_refused(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert split(parent, parent / "policy/edited", "--yes") == 2
    assert "is inside" in capsys.readouterr().err
    assert not (parent / "policy/edited").exists()
    assert split(parent, tmp_path / "edited", "--yes") == 0
    assert main(["split", str(tmp_path / "edited"), "--undo", str(tmp_path / "edited/undone")]) == 2
    assert "is inside" in capsys.readouterr().err


def test_undo_takes_nothing_that_a_split_takes(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert split(parent, tmp_path / "edited", "--undo", str(tmp_path / "undone")) == 2
    assert "give it alone" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999999", "one"])
def test_a_seed_that_no_generator_takes_is_refused(parent: Path, tmp_path: Path, seed: str) -> None:
    with pytest.raises(SystemExit):
        split(parent, tmp_path / "wrong", "--yes", "--seed", seed)


def test_a_split_needs_an_out_a_label_and_parts(
    parent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["split", str(parent)]) == 2
    assert "OUT, the classifier directory to make" in capsys.readouterr().err
    assert main(["split", str(parent), str(parent / "out"), "--label", COARSE]) == 2
    assert "--into" in capsys.readouterr().err
