"""A video is deleted from a whole run: from its archive, predictions, report and cached clips."""

import json
import time
from pathlib import Path

import pytest

from calibrate.predictions import from_votes, read_predictions, write_predictions
from cluster.archive.deletion import delete, is_running, left_in_run, remove_from_run, run_of
from cluster.config.recipe import read_recipe
from tests.groups import UNREADABLE, make_group, make_sample, make_trace
from wire.archive.archive import Archive, read_groups
from wire.archive.compaction import compact_archive
from wire.archive.deletion import Video, delete_videos, file_hash, read_deletions
from wire.errors import ConfigError
from wire.types import Prompt
from wire.whole_file import write_json

KEYS = {"ann": "a" * 40, "bob": "b" * 40}
RECIPE = Path(__file__).parents[3] / "recipes/demo.toml"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with traces, predictions and cached clips of two videos; a clip of ann's video could
    not be decoded."""
    run = tmp_path / "run"
    with Archive(run / "archive", 0) as archive:
        for name in ("ann", "bob"):
            video = tmp_path / f"{name}.mp4"
            video.write_bytes(name.encode() * 9)
            prompt = Prompt(
                token_ids=(1,),
                clip_key=KEYS[name],
                fingerprint="f",
                video_hash=file_hash(str(video)) or "",
            )
            sample = make_sample(id=f"s-{name}", video=f"{video}#t=0,1")
            archive.append(make_group(make_trace(), group_id=name, sample=sample, prompt=prompt))
        broken = make_sample(id="s-ann-2", video=f"{tmp_path}/ann.mp4#t=1,2")
        archive.append(make_group(group_id="broken", sample=broken, failures=[UNREADABLE]))
    config = read_recipe(RECIPE, [f"video.cache_dir={tmp_path / 'cache'}"])
    write_json(run / "run.json", config.model_dump(mode="json"))
    answers = [from_votes(f"s-{name}", "x", ["x"], ["x", "y"]) for name in ("ann", "bob")]
    for folder in ("predictions", "replaced/before-attempt-001/predictions"):
        write_predictions(run / folder / "grpo.parquet", answers)
    (run / "report.html").write_text("ann")
    (run / "stages/fit").mkdir(parents=True)
    lines = [json.dumps({"sample_id": f"s-{name}"}) for name in ("ann", "bob")]
    (run / "stages/fit/label_errors.jsonl").write_text("\n".join(lines))
    (run / "quarantine.jsonl").write_text(json.dumps({"video": f"{tmp_path}/ann.mp4#t=1,2"}) + "\n")
    opened = {f"{tmp_path}/{name}.mp4": "1 2" for name in ("ann", "bob")}
    write_json(run / "opened-clips.json", {"spec": "1", "opened": opened})
    for key in KEYS.values():
        place = tmp_path / "cache" / key[:2] / f"{key}.safetensors"
        place.parent.mkdir(parents=True)
        place.write_bytes(b"frames")
    return run


def mentions(run: Path) -> list[str]:
    """Files below a run, but those of Parquet and the journal, which name ann."""
    paths = [path for path in run.rglob("*") if path.suffix in (".json", ".jsonl", ".html")]
    return [path.name for path in paths if "ann" in path.read_text()]


def samples(run: Path) -> list[list[str]]:
    files = sorted(run.rglob("predictions/*.parquet"))
    return [[one.sample_id for one in read_predictions(path)] for path in files]


def test_a_video_goes_from_all_that_a_run_keeps(run: Path, tmp_path: Path) -> None:
    archive = run / "archive"
    report = delete(archive, [], [str(tmp_path / "ann.mp4")])
    (video,) = report.videos.values()
    assert video.samples == {"s-ann", "s-ann-2"}
    assert [group.group_id for group in read_groups(archive)] == ["bob"]
    assert samples(run) == [["s-bob"], ["s-bob"]]
    assert mentions(run) == []
    cached = [path.stem for path in (tmp_path / "cache").rglob("*.safetensors")]
    assert cached == [KEYS["bob"]]
    assert report.unknown == set()
    assert len(report.changed) == 7
    assert compact_archive(archive).removed == 2
    assert left_in_run(archive) == []
    assert remove_from_run(archive, read_deletions(archive)) == []


def test_what_comes_later_is_seen_and_removed_by_the_next_compaction(
    run: Path, tmp_path: Path
) -> None:
    archive = run / "archive"
    delete(archive, [], [str(tmp_path / "ann.mp4")])
    later = from_votes("s-ann", "x", ["x"], ["x", "y"])
    write_predictions(run / "predictions/later.parquet", [later])
    assert left_in_run(archive) == [run / "predictions/later.parquet"]
    remove_from_run(archive, read_deletions(archive))
    assert left_in_run(archive) == []


def test_a_file_that_is_gone_is_known_by_the_hash_that_its_traces_have(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "ann.mp4").unlink()
    delete(run / "archive", [], [str(tmp_path / "ann.mp4")])
    assert [group.group_id for group in read_groups(run / "archive")] == ["bob"]
    with pytest.raises(ConfigError, match="no such file, and no trace with this address"):
        delete(run / "archive", [], [str(tmp_path / "eve.mp4")])


def test_a_video_that_the_archive_does_not_know_is_hidden_should_it_come(run: Path) -> None:
    report = delete(run / "archive", ["9" * 64], [])
    assert [len(video.groups) for video in report.videos.values()] == [0]
    assert read_deletions(run / "archive").hashes == {"9" * 64}
    assert report.unknown == set()


def test_a_deletion_that_was_killed_is_done_again(run: Path, tmp_path: Path) -> None:
    """After its tombstone, before the rest."""
    archive = run / "archive"
    content = file_hash(str(tmp_path / "ann.mp4")) or ""
    delete_videos(archive, {content: Video()}, "today")
    report = delete(archive, [content], [])
    assert len(report.videos[content].groups) == 2
    assert mentions(run) == []
    assert samples(run) == [["s-bob"], ["s-bob"]]
    assert [path.stem for path in (tmp_path / "cache").rglob("*.safetensors")] == [KEYS["bob"]]


def test_an_archive_without_a_run_is_its_own(run: Path, tmp_path: Path) -> None:
    alone = (run / "archive").rename(tmp_path / "alone")
    assert run_of(alone) is None
    assert delete(alone, [], [str(tmp_path / "ann.mp4")]).changed == ()


def test_of_a_run_that_goes_on_elsewhere_only_the_archive_is_touched(
    run: Path, tmp_path: Path
) -> None:
    """Its lock may not reach this machine; its sign of life does."""
    write_json(run / "status.json", {"state": "running", "host": "other", "seen": time.time()})
    assert is_running(run / "archive")
    delete(run / "archive", [], [str(tmp_path / "ann.mp4")])
    assert samples(run) == [["s-ann", "s-bob"], ["s-ann", "s-bob"]]
    report = compact_archive(run / "archive", is_running=True)
    assert report.has_writer
    assert [group.group_id for group in read_groups(run / "archive")] == ["bob"]
    write_json(run / "status.json", {"state": "running", "host": "other", "seen": time.time() - 99})
    assert not is_running(run / "archive")
