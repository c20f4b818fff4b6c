"""A classifier as a directory that explains itself: published whole or not at all, loaded anywhere.

    publish_classifier(OUT, ...) -> OUT.partial -> rename -> OUT
        classifier.json    description, files with sizes and hashes
        policy/            Hugging Face directory
        verdict/           another one, or verdict/adapter/: LoRA on the policy
        head/              linear head
        calibration.json   calibrator, prediction sets, thresholds, figures
        evaluation.json    figures on the test clips, label by label
        held_out.json      probabilities and labels of clips that nothing learned from
        reference.*        features of the traces that it was fitted to, for the test of shift
        split/             of an edited one: what was split, and the files of the one before
        provenance.json    where it comes from
        README.md          model card
    load_classifier(OUT or RUN) -> Classifier

Nothing in it points outside. README.md and provenance.json explain and may be edited: no answer
depends on them, and their bytes are not recorded. Loads no engine and no torch.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from calibrate.calibration import Calibration
from calibrate.card import model_card
from calibrate.classifier_files import (
    FileRecord,
    add_adapter,
    add_model,
    check_files,
    records_of,
    weights_are_newer,
)
from calibrate.description import FORMAT, ClassifierDescription, Provenance
from calibrate.metrics import Evaluation
from wire.config import Config, validate
from wire.disk import naming_full_disk
from wire.errors import ConfigError, DataError
from wire.whole_file import sync_to_disk, write_json

DESCRIPTION_FILE = "classifier.json"
CALIBRATION_FILE = "calibration.json"
EVALUATION_FILE = "evaluation.json"
PROVENANCE_FILE = "provenance.json"
CARD_FILE = "README.md"
SPLIT_FOLDER = "split"
M = TypeVar("M", bound=Config)
_EXPLAIN = (DESCRIPTION_FILE, PROVENANCE_FILE, CARD_FILE)
FOLDER = "classifier"
"""Folder of a run's stage that holds the classifier it published."""


class SavesFiles(Protocol):
    """Fitted state with files of its own, such as a Head or a TraceReference."""

    def save(self, directory: Path) -> None:
        """Write the files into a directory."""
        ...


class _ClassifierFile(Config):
    """What classifier.json holds."""

    format: int
    description: ClassifierDescription
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class Classifier:
    """A published classifier, whose files have been checked.

    Example:
        load_classifier(Path("runs/demo/my-run")).description.sources == ("policy", "verdict")
    """

    path: Path
    """Its directory."""
    description: ClassifierDescription
    calibration: Calibration
    files: dict[str, FileRecord]
    """By name, relative to the directory."""
    version: str
    """Hash of description and files: equal classifiers have equal versions."""

    @property
    def policy_dir(self) -> Path:
        """Weights that write the traces."""
        return self.path / "policy"

    @property
    def verdict_dir(self) -> Path | None:
        """The verdict's own weights; None without a verdict, or where it is an adapter."""
        return self._folder("verdict", "verdict/config.json")

    @property
    def adapter_dir(self) -> Path | None:
        """The verdict's LoRA adapter on the policy; None without."""
        return self._folder("verdict/adapter", "verdict/adapter/adapter_config.json")

    @property
    def head_dir(self) -> Path | None:
        """The linear head; None without."""
        return self._folder("head", "head/head.json")

    @property
    def has_reference(self) -> bool:
        """Whether there is a reference for the test of shift."""
        return "reference.json" in self.files

    @cached_property
    def provenance(self) -> Provenance:
        """Where it comes from. Raises DataError if provenance.json cannot be read."""
        return read_part(Provenance, self.path / PROVENANCE_FILE)

    def _folder(self, name: str, marked_by: str) -> Path | None:
        return self.path / name if marked_by in self.files else None


def load_classifier(path: Path, *, check_weights: bool | Literal["if_newer"] = True) -> Classifier:
    """Load the classifier in a directory, or the one that the last finished calibration of a run
    published. Every file's bytes are compared with those published; ``check_weights``: those of
    large weights, too, which reads all of them; ``if_newer``: where weights were written after
    classifier.json, as a link's are that somebody changes in place.

    Raises DataError that says what is missing, changed, or of another format.
    """
    path = path.resolve()
    if (path / "run.json").is_file():
        path = classifier_of_run(path)
    file = path / DESCRIPTION_FILE
    if not path.is_dir():
        raise DataError(f"there is no folder {path}; give a classifier's directory, or a run")
    if not file.is_file():
        raise DataError(
            f"{path} holds no classifier: it has no {DESCRIPTION_FILE}; give the directory that "
            "`deepintuit fit` wrote, or a run with a finished calibration"
        )
    content = _read_description(file)
    weights = (
        weights_are_newer(path, content.files, file)
        if check_weights == "if_newer"
        else check_weights
    )
    check_files(path, content.files, weights=weights)
    return Classifier(
        path=path,
        description=content.description,
        calibration=Calibration.from_json((path / CALIBRATION_FILE).read_bytes()),
        files=content.files,
        version=hashlib.sha256(file.read_bytes()).hexdigest(),
    )


def classifier_of_run(run: Path) -> Path:
    """Directory of the classifier that the last finished calibration of a run published. Raises
    DataError if there is none."""
    stages = [file.parent.parent for file in run.glob(f"stages/*/{FOLDER}/{DESCRIPTION_FILE}")]
    finished = [stage for stage in stages if (stage / "done.json").is_file()]
    if finished:
        order = _stage_order(run)
        last = max(finished, key=lambda stage: (order.get(stage.name, -1), stage.name))
        return last / FOLDER
    if stages or (run / "stages").is_dir():
        raise DataError(
            f"the run in {run} has no classifier: its calibration has not finished, or an earlier "
            "version of this program ran it; finish it (`deepintuit run RECIPE --run-dir RUN "
            "--resume`), or fit one to its archive: `deepintuit fit RUN OUT`"
        )
    raise DataError(
        f"the run in {run} has finished no stage; let it go on, or give a classifier's directory"
    )


def publish_classifier(
    out: Path,
    description: ClassifierDescription,
    *,
    calibration: Calibration,
    provenance: Provenance,
    evaluation: Evaluation | None = None,
    policy_dir: Path,
    verdict_dir: Path | None = None,
    adapter_dir: Path | None = None,
    head: SavesFiles | None = None,
    reference: SavesFiles | None = None,
    held_out: SavesFiles | None = None,
    split: SavesFiles | None = None,
    copy: bool = False,
    replace: bool = False,
) -> Classifier:
    """Publish a classifier as the directory ``out``: whole or not at all.

    ``evaluation``: of its predictions of the test clips. ``verdict_dir``: whole weights;
    ``adapter_dir``: LoRA on the policy. ``held_out``: what thresholds of policies are derived
    from. ``split``: how it was made of another one. ``copy``: no hard links into the run.
    ``replace``: what is at ``out`` may go, as when a stage is run again.

    Raises DataError if ``out`` is taken or a model is none, DiskFull; then nothing is left.
    """
    _refuse_parts(description, calibration, verdict_dir, adapter_dir, head)
    with whole_directory(out, replace=replace) as partial:
        add_model(policy_dir, partial / "policy", copy=copy)
        if verdict_dir is not None:
            add_model(verdict_dir, partial / "verdict", copy=copy)
        if adapter_dir is not None:
            add_adapter(adapter_dir, partial / "verdict" / "adapter", copy=copy)
        parts = ((head, "head"), (reference, "."), (held_out, "."), (split, SPLIT_FOLDER))
        for part, folder in parts:
            if part is not None:
                part.save(partial / folder)
        write_json(partial / CALIBRATION_FILE, calibration.to_json())
        if evaluation is not None:
            write_json(partial / EVALUATION_FILE, asdict(evaluation))
        write_json(partial / PROVENANCE_FILE, provenance.model_dump(mode="json"))
        card = model_card(description, calibration, provenance, evaluation)
        (partial / CARD_FILE).write_text(card, encoding="utf-8")
        content = _ClassifierFile(
            format=FORMAT, description=description, files=records_of(partial, _EXPLAIN)
        )
        write_json(partial / DESCRIPTION_FILE, content.model_dump(mode="json"))
    return load_classifier(out, check_weights=False)


@contextmanager
def whole_directory(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, beside ``out``, that takes its name after the block, or is gone after an
    error. ``replace``: what is at ``out`` may go. Raises DataError if it is taken, DiskFull."""
    if not replace and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists already; give another directory, or remove it first")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with naming_full_disk(partial):
            partial.mkdir(parents=True)
            yield partial
            if replace:
                shutil.rmtree(out, ignore_errors=True)
            partial.rename(out)
            sync_to_disk(out.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _refuse_parts(
    description: ClassifierDescription,
    calibration: Calibration,
    verdict_dir: Path | None,
    adapter_dir: Path | None,
    head: SavesFiles | None,
) -> None:
    """Raise ValueError unless there is exactly what the sources read."""
    sources, calibrator = description.sources, calibration.calibrator
    if set(sources) != set(calibrator.sources):
        raise ValueError(f"a calibrator of {calibrator.sources} for a classifier of {sources}")
    if calibrator.label_names != description.label_names:
        raise ValueError(f"a calibrator of labels other than {description.label_names}")
    verdicts = [part for part in (verdict_dir, adapter_dir) if part is not None]
    if len(verdicts) != ("verdict" in sources):
        raise ValueError(f"{len(verdicts)} verdicts for a classifier that reads {sources}")
    if (head is not None) != ("head" in sources):
        raise ValueError(f"head={head!r} for a classifier that reads {sources}")


def _read_description(file: Path) -> _ClassifierFile:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{file} is cut off or damaged ({error}); copy the directory again"
        ) from error
    written = values.get("format") if isinstance(values, dict) else None
    if written != FORMAT:
        raise DataError(
            f"{file} has the format {written!r}, expected {FORMAT}: another version of this "
            "program published it; use that version, or publish the classifier anew"
        )
    return read_part(_ClassifierFile, file)


def read_part(model: type[M], file: Path) -> M:
    """Read a JSON file of a classifier's directory. Raises DataError."""
    try:
        return validate(model, json.loads(file.read_text(encoding="utf-8")), str(file))
    except (OSError, ValueError, ConfigError) as error:
        raise DataError(f"{file} cannot be read: {error}; publish the classifier anew") from error


def _stage_order(run: Path) -> dict[str, int]:
    """Place of each stage that the recipe of a run declares; empty for the default chain, which has
    one calibration."""
    try:
        stages = json.loads((run / "run.json").read_text(encoding="utf-8")).get("stages") or ()
        return {stage["name"]: place for place, stage in enumerate(stages)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
