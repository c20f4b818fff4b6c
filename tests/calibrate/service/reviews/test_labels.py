import json
from pathlib import Path

from calibrate.service.reviews.labels import LabelledClip, label_rows
from calibrate.service.reviews.review import Review, ReviewAnswer
from rollout.manifest import read_manifest
from wire.labels import Label, LabelSet


def ended(review_id: str, outcome: str | None, video_hash: str = "a", **changes) -> Review:
    values = {
        "id": review_id,
        "decision_id": f"dec_{review_id}",
        "video_hash": video_hash,
        "label": "abnormal",
        "kind": "review",
        "reasons": (),
        "priority": 0,
        "weight": 1.0,
        "created_at": "then",
        "state": "done",
        "outcome": outcome,
        "overturned": None if outcome is None else outcome != "abnormal",
        "completed_at": "now",
        "answers": (ReviewAnswer(reviewer="ada", label=outcome, note="", answered_at="now"),),
    }
    return Review(**{**values, **changes})


def clip(**changes) -> LabelledClip:
    return LabelledClip(**{"video": "/clips/a.mp4", "classifier": 3, **changes})


def test_rows_are_a_manifest_that_is_read(tmp_path: Path):
    video = tmp_path / "9f3c"  # a kept upload has no suffix
    video.write_bytes(b"a clip")
    reviews = [
        ended("1", "normal", kind="audit", weight=50.0),
        ended("2", "abnormal", "b"),
    ]
    rows = list(
        label_rows(
            reviews,
            lambda _: clip(
                video=str(video), window=(1.5, 3.0), text="a title", columns={"lang": "en"}
            ),
            "cal",
        )
    )
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = LabelSet(labels=(Label(name="abnormal"), Label(name="normal")))
    first, second = read_manifest(file, labels)
    assert (first.id, first.label, first.split, first.text) == (
        "dec_1",
        "normal",
        "cal",
        "a title",
    )
    assert "1.5" in first.video
    assert first.extra["weight"] == 50.0
    assert first.extra["overturned"] is True
    assert first.extra["reviewer"] == "ada"
    assert first.extra["decision"] == "dec_1"
    assert first.extra["lang"] == "en"
    assert (second.label, second.extra["overturned"]) == ("abnormal", False)


def test_a_clip_that_was_reviewed_again_has_its_newest_label():
    reviews = [ended("1", "normal"), ended("2", "normal", "b"), ended("3", "abnormal")]
    rows = list(label_rows(reviews, lambda _: clip(), "train"))
    assert [(row["id"], row["label"]) for row in rows] == [
        ("dec_2", "normal"),
        ("dec_3", "abnormal"),
    ]
    windows = {"1": (0.0, 1.0), "3": (1.0, 2.0)}
    apart = label_rows(reviews, lambda one: clip(window=windows.get(one.id)), "train")
    assert [row["id"] for row in apart] == ["dec_1", "dec_2", "dec_3"]


def test_what_cannot_be_told_and_clips_that_are_gone_are_left_out():
    reviews = [ended("1", None), ended("2", "normal", "b"), ended("3", "normal", "c")]
    rows = label_rows(reviews, lambda one: None if one.id == "3" else clip(), "val")
    assert [(row["id"], row["split"]) for row in rows] == [("dec_2", "val")]
