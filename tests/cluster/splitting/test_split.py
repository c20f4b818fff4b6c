"""A whole split by the command line, with a real policy, real clips and the policy's own texts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrate import head as linear_head
from calibrate.calibration import Calibration
from calibrate.calibrator import Calibrator
from calibrate.classifier import Classifier, load_classifier, publish_classifier
from calibrate.description import PromptText
from calibrate.head import Head
from calibrate.splitting.classifier_edit import read_record
from cluster.classify.machine import Machine
from cluster.cli import main
from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from cluster.demo.pairs import base_labels, fine_labels, write_pairs
from cluster.splitting.clip_features import ClipReader, LabelledClips, read_samples
from tests.calibrate.classifiers import make_description, make_provenance
from wire.labels import Label

pytestmark = pytest.mark.slow

PARTS = fine_labels("left")


class Place:
    """A head over the demo's base model, fitted to clips of compositional labels, published."""

    def __init__(self, root: Path) -> None:
        self.root = root
        policy = make_demo_model(root / "model")
        make_demo_data(root / "data", seed=2, train=60, traces=1, val=1, cal=120, test=60)
        self.manifest = write_pairs(root / "data", root / "pairs")
        self.measure, self.shots = (root / f"pairs/{n}.jsonl" for n in ("measure", "shots"))
        names = tuple(sorted(base_labels()))
        self.unfitted = self._publish(
            root / "unfitted", policy, _blank(names), names, head_features="video"
        )
        reader = ClipReader(self.unfitted, Machine(cache_dir=root / "cache"))
        clips = reader.read(read_samples(self.manifest, names))
        self.clips = clips
        head = linear_head.fit(clips.states, clips.labels, names)
        self.classifier = self._publish(root / "parent", policy, head, names, head_features="video")

    def _publish(
        self, out: Path, policy: Path, head: Head, names: tuple[str, ...], **changes: Any
    ) -> Classifier:
        text = PromptText.of("Name the three events of the video.", "1")
        return publish_classifier(
            out,
            make_description(
                sources=("head",),
                labels=tuple(Label(name=name) for name in names),
                label_codes={},
                prompts={
                    "system": PromptText.of("", ""),
                    "trace": text,
                    "label": text,
                    "verdict": PromptText.of("{reasoning} {conclusion}", "1"),
                },
                video={"max_frames": 12},
                rollout={"dtype": "float32", "max_response_length": 16, "max_prompt_length": 128},
                **changes,
            ),
            calibration=Calibration(
                calibrator=Calibrator(label_names=names, weights={"head": 1.0})
            ),
            provenance=make_provenance(),
            policy_dir=policy,
            head=head,
        )

    def split(self, out: str, *more: str) -> int:
        return main(
            [
                *("split", str(self.classifier.path), str(self.root / out), "--label", "left"),
                *("--into", *PARTS, "--cache-dir", str(self.root / "cache"), *more),
            ]
        )


def _blank(names: tuple[str, ...]) -> Head:
    size = (len(names), 128)
    return Head(
        label_names=names,
        mean=np.zeros(128),
        scale=np.ones(128),
        weight=np.zeros(size),
        bias=np.zeros(len(names)),
        c=1.0,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("split"))


def test_a_label_is_split_measured_and_made_one_again(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = place.root / "figures.json"
    more = ("--measure", str(place.measure), "--shots", str(place.shots), "--bias", "fine")
    assert place.split("edited", "--yes", *more, "--json", str(figures)) == 0
    shown = capsys.readouterr()
    assert "left then up -> 'up' (proposed)" in shown.err
    assert "not attainable" in shown.err
    assert "VLM: the policy" in shown.out
    measured = json.loads(figures.read_text())["measured"]
    methods = {one["method"]: one for one in measured["methods"]}
    assert methods["VLM: the policy"]["locality"] == 1.0
    zero_shot = methods["alignment, fine bias"]
    assert zero_shot["generality"] > max(measured["chance"], measured["majority"]), methods
    assert methods["published"]["generality"] == pytest.approx(
        methods["shots, alignment, fine bias"]["generality"], abs=0.2
    )
    edited = load_classifier(place.root / "edited")
    record = read_record(edited)
    assert (record.method, record.encoder) == ("alignment+low-shot", "policy")
    assert record.num_shots == len(place.shots.read_text().splitlines())
    # the parent's rows for other labels read the same features, whatever the new label set is
    assert edited.head_dir is not None
    new, old = Head.load(edited.head_dir), Head.load(place.classifier.head_dir or Path())
    for name in set(old.label_names) - {"left"}:
        rows = (old.label_names.index(name), new.label_names.index(name))
        assert old.weight[rows[0]].tobytes() == new.weight[rows[1]].tobytes()
    assert main(["split", str(edited.path), "--undo", str(place.root / "undone")]) == 0
    assert load_classifier(place.root / "undone").version == place.classifier.version


def test_clips_look_as_the_head_was_fitted_to_them(place: Place) -> None:
    names = place.classifier.description.label_names
    reader = ClipReader(place.classifier, Machine(cache_dir=place.root / "cache"))
    again = reader.read(read_samples(place.manifest, names)[:40])
    assert isinstance(again, LabelledClips)
    np.testing.assert_allclose(again.states, place.clips.states[:40], atol=1e-4)
    assert again.looks.shape == (40, 128)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--yes", "--shots", "MEASURE"), "unknown label 'grow then shrink'"),
        (("--yes", "--measure", "MANIFEST"), "unknown label 'left'"),
    ],
)
def test_clips_of_other_labels_are_named_and_nothing_is_made(
    place: Place, more: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"MEASURE": str(place.measure), "MANIFEST": str(place.manifest)}
    assert place.split("wrong", *[given.get(word, word) for word in more]) == 2
    assert says in capsys.readouterr().err
    assert not (place.root / "wrong").exists()


def test_what_was_learned_from_is_not_measured_on(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    both = place.root / "pairs/both.jsonl"
    both.write_text(place.shots.read_text() + place.measure.read_text())
    files = ("--shots", str(place.shots), "--measure", str(both))
    assert place.split("wrong", "--yes", *files) == 2
    assert "in both manifests" in capsys.readouterr().err
