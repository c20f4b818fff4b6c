"""Registered classifier: an immutable version, with the figures that people compare.

published directory -> registered_values -> row of the registry -> RegisteredClassifier
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from calibrate.calibration import Calibration
from calibrate.classifier import CALIBRATION_FILE, EVALUATION_FILE, Classifier
from wire.errors import DataError
from wire.strict_json import finite, from_json


@dataclass(frozen=True, kw_only=True)
class RegisteredClassifier:
    """Classifier that the service holds. Equal versions are equal in every byte that answers
    depend on.

    Example:
        registry.get("champion").version == 3
    """

    version: int
    """1, 2, 3, ...; never used again."""
    path: Path
    """Its directory below the state directory."""
    hash: str
    """Of its description and files (calibrate/classifier.py)."""
    name: str
    method: str
    """Sources that it reads of a clip, such as ``policy+verdict``."""
    policy_version: str
    source: str
    """Where it was registered from, in words: a path, a fit's id."""
    created_at: str
    """When it was registered, UTC."""
    created_by: str
    label_names: tuple[str, ...]
    figures: dict[str, Any]
    """``headline``: numbers by name; the rest are its evaluation and calibration, whole."""

    @cached_property
    def calibration(self) -> Calibration:
        """Its calibration, read once. Raises DataError if its file cannot be read."""
        file = self.path / CALIBRATION_FILE
        try:
            return Calibration.from_json(file.read_bytes())
        except OSError as error:
            raise DataError(
                f"{file} cannot be read ({error}): the state directory was changed; put the folder "
                "back, or promote another version"
            ) from error

    def as_json(self, *, whole: bool = True) -> dict[str, Any]:
        """Its fields by name, without the path. Not ``whole``: of the figures the headline."""
        figures = self.figures if whole else {"headline": self.figures["headline"]}
        return {
            "version": self.version,
            "hash": self.hash,
            "name": self.name,
            "method": self.method,
            "policy_version": self.policy_version,
            "source": self.source,
            "created_at": self.created_at,
            "created_by": self.created_by,
            "label_names": list(self.label_names),
            "figures": figures,
        }


def registered_values(classifier: Classifier) -> dict[str, Any]:
    """What the registry's row has of a classifier itself. Raises DataError if its evaluation cannot
    be read."""
    description = classifier.description
    figures = _figures(classifier.calibration, _evaluation(classifier))
    return {
        "hash": classifier.version,
        "name": description.name,
        "method": "+".join(description.sources),
        "policy_version": description.policy_version,
        "label_names": json.dumps(description.label_names),
        "figures": json.dumps(finite(figures), allow_nan=False),
    }


def _evaluation(classifier: Classifier) -> dict[str, Any] | None:
    if EVALUATION_FILE not in classifier.files:
        return None
    file = classifier.path / EVALUATION_FILE
    try:
        return dict(from_json(file.read_bytes()))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{file} is no evaluation ({error}); publish the classifier anew"
        ) from error


def _figures(calibration: Calibration, evaluation: dict[str, Any] | None) -> dict[str, Any]:
    sets = calibration.sets[0] if calibration.sets else None
    threshold = calibration.thresholds[0] if calibration.thresholds else None
    selection = calibration.selection
    return {
        "headline": _headline(calibration, evaluation),
        "evaluation": evaluation,
        "splits": [asdict(one) for one in calibration.figures],
        "coverage": [asdict(one) for one in calibration.coverage],
        "automatic": [asdict(one) for one in calibration.automatic],
        "prediction_sets": asdict(sets) | {"explanation": sets.explanation} if sets else None,
        "threshold": asdict(threshold) | {"explanation": threshold.explanation}
        if threshold
        else None,
        "selection": {"by": selection.by, "explanation": selection.explanation}
        if selection
        else None,
        "num_samples": calibration.num_samples,
    }


_HEADLINE = ("num_samples", "accuracy", "accuracy_low", "accuracy_high", "macro_f1", "ece", "nll")


def _headline(calibration: Calibration, evaluation: dict[str, Any] | None) -> dict[str, Any]:
    """Numbers that are put side by side; null: not measured."""
    measured = {name: (evaluation or {}).get(name) for name in (*_HEADLINE, "brier")}
    coverage = next((one.measured for one in calibration.coverage if one.group == "all"), None)
    automatic = next((one.measured for one in calibration.automatic if one.group == "all"), None)
    threshold = calibration.thresholds[0] if calibration.thresholds else None
    return {
        **measured,
        "set_coverage": coverage.share if coverage else None,
        "mean_set_size": coverage.mean_size if coverage else None,
        "threshold": threshold.value if threshold else None,
        "automatic_share": threshold.coverage if threshold else None,
        "automatic_error": automatic.error if automatic else None,
    }
