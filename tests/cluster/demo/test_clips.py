import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from cluster.cli import main
from cluster.demo.clips import make_demo_data
from cluster.demo.events import NEWEST, UNSEEN, events_in, label_of
from cluster.demo.render import render
from cluster.demo.scenes import POOLS, SIDE, SPLITS, draw_scene

SIZES = {"train": 10, "traces": 5, "val": 10, "cal": 10, "test": 10}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    manifest = make_demo_data(folder, seed=3, **SIZES)
    return folder, [json.loads(line) for line in manifest.read_text().splitlines()]


def centre_of_shape(scene):
    """Centre and area of what differs most from the ground, frame by frame."""
    frames = render(scene).astype(float)
    near = np.abs(frames - 255 * np.array(scene.color)).sum(-1) < 90
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    area = near.sum((1, 2))
    return (near * columns).sum((1, 2)) / area, (near * rows).sum((1, 2)) / area, area


def scene_of(*events, seed=0):
    return draw_scene(POOLS["train"], events, seed)


@pytest.mark.parametrize(("one", "other"), list(combinations(SPLITS, 2)))
def test_no_look_of_one_split_occurs_in_another(one, other):
    a, b = POOLS[one], POOLS[other]
    for kind in ("shapes", "backgrounds", "cameras"):
        assert not set(getattr(a, kind)) & set(getattr(b, kind))
    for kind in ("hues", "sizes", "speeds"):
        for low, high in getattr(a, kind):
            assert all(high <= start or low >= end for start, end in getattr(b, kind))


@pytest.mark.parametrize("split", SPLITS)
def test_every_look_renders(split):
    pool = POOLS[split]
    for seed in range(20):
        frames = render(draw_scene(pool, ("left", "grow", "up"), seed))
        assert frames.shape == (12, SIDE, SIDE, 3)
        assert frames.dtype == np.uint8
        assert frames.std() > 2


def test_the_shape_does_what_the_events_say():
    x, y, area = centre_of_shape(scene_of("left", "grow", "down", seed=1))
    assert x[3] < x[0] - 3
    assert area[7] > area[4] * 1.2
    assert y[11] > y[8] + 3


@pytest.mark.parametrize("event", ["left", "right", "up", "down", "grow", "shrink"])
def test_three_equal_events_stay_in_the_picture(event):
    for seed in range(20):
        x, y, radius = scene_of(event, event, event, seed=seed).track.T
        assert min((x - radius).min(), (y - radius).min()) > -2
        assert max((x + radius).max(), (y + radius).max()) < SIDE + 2


def test_manifest_has_the_promised_fields_and_counts(data):
    folder, rows = data
    assert Counter(row["split"] for row in rows) == {s: SIZES[s] for s in SPLITS}
    for row in rows:
        assert set(row) == {
            "id", "video", "label", "split", "trace", "text", "combination", "seen_combination",
        }  # fmt: skip
        events = tuple(row["combination"].split("-"))
        assert row["label"] == label_of(events)
        assert row["seen_combination"] == (events not in UNSEEN)
        assert row["text"] is None
        assert (folder / row["video"]).is_file()
    assert len({row["id"] for row in rows}) == len(rows)


def test_labels_are_balanced_in_every_split(data):
    _, rows = data
    for split in SPLITS:
        assert set(Counter(r["label"] for r in rows if r["split"] == split).values()) == {2}


def test_only_some_training_clips_have_a_trace_and_it_is_right(data):
    _, rows = data
    traced = [row for row in rows if row["trace"] is not None]
    assert Counter(row["split"] for row in traced) == {
        "train": SIZES["traces"],
        "cal": SIZES["cal"],
    }
    for row in traced:
        assert "-".join(events_in(row["trace"])) == row["combination"]
        assert row["trace"].endswith(f"<answer>{row['label']}</answer>")


def test_the_newest_label_has_clips_everywhere_but_no_trace_to_start_from(data):
    _, rows = data
    newest = [row for row in rows if row["label"] == NEWEST]
    assert {row["split"] for row in newest} == set(SPLITS)
    assert all(row["trace"] is None for row in newest if row["split"] == "train")
    assert all(row["trace"] for row in newest if row["split"] == "cal")


def test_no_clip_to_learn_from_shows_an_unseen_combination(data):
    _, rows = data
    assert all(row["seen_combination"] for row in rows if row["split"] in ("train", "cal"))
    assert any(not row["seen_combination"] for row in rows)


def test_clips_decode_to_twelve_frames_close_to_what_was_drawn(data):
    decord = pytest.importorskip("decord")
    folder, rows = data
    for row in rows[::10]:
        reader = decord.VideoReader(str(folder / row["video"]))
        assert len(reader) == 12
        assert reader.get_avg_fps() == pytest.approx(4)
        assert reader[0].asnumpy().shape == (SIDE, SIDE, 3)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    sizes = {"train": 2, "traces": 1, "val": 1, "cal": 1, "test": 1}
    first, second = (make_demo_data(tmp_path / n, seed=5, **sizes).parent for n in ("a", "b"))
    names = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert len(names) == 6
    assert all((first / n).read_bytes() == (second / n).read_bytes() for n in names)


def test_sizes_are_given_on_the_command_line(tmp_path):
    sizes = ["--train", "2", "--traces", "1", "--val", "0", "--cal", "1", "--test", "3"]
    assert main(["make-demo-data", str(tmp_path), "--seed", "4", *sizes]) == 0
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert Counter(row["split"] for row in rows) == {"train": 2, "cal": 1, "test": 3}
    assert rows[0]["id"] == "train-4-00000"
    with pytest.raises(SystemExit):
        main(["make-demo-data", str(tmp_path / "other"), "--test", "-3"])


def test_more_traces_than_training_clips_is_refused(tmp_path):
    with pytest.raises(ValueError, match="traces=5"):
        make_demo_data(tmp_path, train=5, traces=5)
