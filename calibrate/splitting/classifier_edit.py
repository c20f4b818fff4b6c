"""Split of a published classifier: a new directory whose head tells apart the parts of one label.

    CLASSIFIER, label, rows of its parts -> OUT: old rows to the bit, new rows, the label out
        split/split.json   what was split, how, of which version
        split/before/      files of the classifier before, without the policy's weights
    undo: OUT -> the classifier before, to the bit, from these files and the same weights

What was promised of the label before is not promised of its parts: no clip of theirs was held out,
so sets and thresholds are "not attainable", and the test of shift has no reference. The temperature
stays. Only a published head over the video alone can be split.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from calibrate.calibration import Calibration
from calibrate.choice import ScoredClips, choose
from calibrate.classifier import (
    CARD_FILE,
    DESCRIPTION_FILE,
    PROVENANCE_FILE,
    SPLIT_FOLDER,
    Classifier,
    load_classifier,
    publish_classifier,
    read_part,
    whole_directory,
)
from calibrate.classifier_files import add_model
from calibrate.config import CalibrateConfig
from calibrate.description import ClassifierDescription
from calibrate.head import Head
from calibrate.splitting.edit import SplitHead, check_parts
from wire.config import Config, validate
from wire.errors import DataError
from wire.labels import Label, LabelSet
from wire.nearest import nearest
from wire.whole_file import write_json

_RECORD_FILE = "split.json"
_BEFORE = "before"
_POLICY = "policy/"
_FIT = (
    "deepintuit fit RUN OUT --methods head --set calibrate.head_features=video --set "
    "'calibrate.candidates=[\"head\"]'"
)


class SplitRecord(Config):
    """Record of a split: what was split into what, and how its rows were made."""

    parent: str
    """Version of the classifier before."""
    label: str
    """The label that was split."""
    modifiers: dict[str, str] = Field(min_length=2)
    """Part -> the phrase that sets it apart from the others."""
    method: str
    """Of the new rows: alignment, retrieval, argmax; with ``low-shot`` after ``+`` if clips of the
    parts were learned from."""
    bias: str = "copied"
    """Of the parts: copied from the label, or the mean of labels that stayed fine."""
    encoder: str
    """What made vectors of the texts."""
    seed: int
    num_shots: int = 0
    """Clips of the parts that the rows were learned from."""
    sources: dict[str, str] = Field(default_factory=dict)
    """Part -> the label whose modifier was taken, where one was."""

    @property
    def into(self) -> tuple[str, ...]:
        """The parts."""
        return tuple(self.modifiers)


def splittable_head(classifier: Classifier, label: str, into: Sequence[str] = ()) -> Head:
    """The head of a classifier whose ``label`` can be split ``into`` new ones. Raises DataError
    that says why it cannot, and how to make one that can."""
    description = classifier.description
    if description.sources != ("head",):
        raise DataError(
            f"{classifier.path.name} reads {'+'.join(description.sources)}, and a split edits a "
            f"head that is all a classifier reads; fit one: {_FIT}"
        )
    if description.head_features != "video":
        raise DataError(
            f"the head of {classifier.path.name} reads traces, which name {label!r} and hide its "
            f"parts; fit one over the video alone: {_FIT}"
        )
    names = description.label_names
    if label not in names:
        raise DataError(f"the classifier has no label {label!r}; {nearest(label, names, 'labels')}")
    _refuse_parts(label, into, names)
    assert classifier.head_dir is not None, "a published head has files"
    head = Head.load(classifier.head_dir)
    if not np.isfinite(head.bias[head.label_names.index(label)]):
        raise DataError(f"the head never saw a clip of {label!r}: there is nothing to split")
    return head


def split_classifier(
    classifier: Classifier, out: Path, split: SplitHead, record: SplitRecord
) -> Classifier:
    """Publish the classifier with its label split as ``split`` has it, as the directory ``out``:
    whole or not at all. Its weights are those of the parent, linked where the disk is the same.

    Raises DataError if the classifier cannot be split, or ``out`` is taken; DiskFull.
    """
    head = splittable_head(classifier, record.label, record.into)
    if (split.names[split.coarse], split.parts) != (record.label, record.into):
        raise ValueError(f"a record of {record.label} for {split.names[split.coarse]}")
    if record.parent != classifier.version:
        raise ValueError(f"a record of {record.parent} for a split of {classifier.version}")
    edited = _edited(head, split)
    provenance = classifier.provenance
    about = {f"split.{name}": value for name, value in record.model_dump(mode="json").items()}
    return publish_classifier(
        out,
        _description(classifier.description, record, edited.label_names),
        calibration=_calibration(classifier.calibration, edited.label_names),
        provenance=provenance.model_copy(update={"settings": {**provenance.settings, **about}}),
        policy_dir=classifier.policy_dir,
        head=edited,
        split=_SplitFiles(classifier, record),
    )


def refuse_inside(classifier: Classifier, out: Path) -> None:
    """Raise DataError if ``out`` is inside the classifier's own directory."""
    if classifier.path.resolve() in out.resolve().parents:
        raise DataError(
            f"{out} is inside {classifier.path}, whose files nothing changes; give an OUT elsewhere"
        )


def read_record(classifier: Classifier) -> SplitRecord:
    """How a classifier was split. Raises DataError if it was not."""
    file = classifier.path / SPLIT_FOLDER / _RECORD_FILE
    if f"{SPLIT_FOLDER}/{_RECORD_FILE}" not in classifier.files:
        raise DataError(
            f"{classifier.path} is not the result of a split; give the OUT of `deepintuit split`"
        )
    return read_part(SplitRecord, file)


def undo_split(classifier: Classifier, out: Path) -> Classifier:
    """Publish the classifier from before its last split as the directory ``out``: the same bytes,
    the same version, with the edited one's copy of the weights.

    Raises DataError if it was not split, or ``out`` is taken; DiskFull.
    """
    record = read_record(classifier)
    refuse_inside(classifier, out)
    with whole_directory(out) as partial:
        shutil.copytree(classifier.path / SPLIT_FOLDER / _BEFORE, partial, dirs_exist_ok=True)
        add_model(classifier.policy_dir, partial / "policy", copy=False)
        before = load_classifier(partial)
        if before.version != record.parent:
            raise DataError(
                f"{classifier.path} holds {before.version[:12]} in place of {record.parent[:12]}; "
                "copy the directory again"
            )
    return load_classifier(out, check_weights=False)


class _SplitFiles:
    """Record of a split, and the files of the classifier before it but for its policy."""

    def __init__(self, before: Classifier, record: SplitRecord) -> None:
        self._before, self._record = before, record

    def save(self, directory: Path) -> None:
        """Write them."""
        explain = (DESCRIPTION_FILE, PROVENANCE_FILE, CARD_FILE)
        kept = [name for name in self._before.files if not name.startswith(_POLICY)]
        for name in (*kept, *explain):
            source, target = self._before.path / name, directory / _BEFORE / name
            if source.is_file():  # what explains may have been removed
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        write_json(directory / _RECORD_FILE, self._record.model_dump(mode="json"))


def _refuse_parts(label: str, into: Sequence[str], names: Sequence[str]) -> None:
    """Raise DataError for parts that cannot be labels beside the others."""
    if not into:
        return
    check_parts(names, label, into)
    others = [Label(name=name) for name in names if name != label]
    validate(LabelSet, {"labels": [*others, *map(_label, into)]}, f"{label!r} into {list(into)}")


def _label(name: str) -> dict[str, str]:
    return {"name": name}


def _edited(head: Head, split: SplitHead) -> Head:
    """The head with the parts in the label's stead, in the order of names. Rows that stay are those
    of before, to the bit."""
    names, weight, bias = split.replaced()
    order = sorted(range(len(names)), key=lambda place: names[place])
    return replace(
        head,
        label_names=tuple(names[place] for place in order),
        weight=np.ascontiguousarray(weight[order], np.float64),
        bias=np.ascontiguousarray(bias[order], np.float64),
    )


def _description(
    before: ClassifierDescription, record: SplitRecord, names: Sequence[str]
) -> ClassifierDescription:
    known = {one.name: one for one in before.labels}
    values: dict[str, Any] = {
        **before.model_dump(),
        "labels": tuple(known.get(name, Label(name=name)) for name in names),
        "shown_labels": before.shown_labels or before.labels,
    }
    return ClassifierDescription.model_validate(values)


def _calibration(before: Calibration, names: tuple[str, ...]) -> Calibration:
    """The temperature of before, and no promise: no clip of the parts was held out."""
    config = CalibrateConfig(methods=("head",))
    for sets in before.sets[:1]:
        config = config.model_copy(update={"sets": sets.kind, "coverage": sets.coverage})
    for one in before.thresholds[:1]:
        promise = {"max_error": one.max_error, "confidence": one.confidence}
        config = config.model_copy(update=promise)
    nothing: Mapping[str, ScoredClips] = {
        part: ScoredClips(
            samples=(), label_names=names, logprobs={"head": np.empty((0, len(names)))}
        )
        for part in ("val", "held_out", "test")
    }
    calibrator = replace(before.calibrator, label_names=names)
    return replace(choose(nothing, config, 0), calibrator=calibrator)
