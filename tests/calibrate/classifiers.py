"""Builders of small classifiers, for tests. (No test file.)"""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from calibrate.calibration import (
    Calibration,
    SplitFigures,
    automatic_by_group,
    coverage_by_group,
)
from calibrate.calibrator import Calibrator, Source
from calibrate.classifier import Classifier, publish_classifier
from calibrate.conformal import fit_sets
from calibrate.description import (
    ArchiveFacts,
    ClassifierDescription,
    CodeVersion,
    PromptText,
    Provenance,
    SplitFacts,
)
from calibrate.figures import measure
from calibrate.metrics import Evaluation, evaluate
from calibrate.predictions import from_probabilities
from calibrate.risk import fit_threshold
from calibrate.selection import fit_candidates, plateau, select
from wire.labels import Label


def make_calibration(*sources: Source) -> Calibration:
    """A calibration without figures, of the sources' equal weights."""
    weights = dict.fromkeys(sources or ("policy", "verdict"), 0.8)
    return Calibration(calibrator=Calibrator(label_names=("abnormal", "normal"), weights=weights))


def make_description(**changes: Any) -> ClassifierDescription:
    values: dict[str, Any] = {
        "name": "calibrated",
        "sources": ("policy", "verdict"),
        "labels": (Label(name="abnormal", definition="something is wrong"), Label(name="normal")),
        "label_codes": {"abnormal": (7, 9), "normal": (8,)},
        "prompts": {
            "system": PromptText.of("", ""),
            "trace": PromptText.of("Decide.\n{definitions}", "1"),
            "verdict": PromptText.of("Review {reasoning}: {conclusion}", "1"),
            "label": PromptText.of("Label.", "1"),
        },
        "video": {"max_frames": 12, "fps": None},
        "rollout": {"dtype": "float32", "max_response_length": 40},
        "policy_version": "0.82",
    }
    return ClassifierDescription(**{**values, **changes})


def make_provenance(**changes: Any) -> Provenance:
    values: dict[str, Any] = {
        "archive": ArchiveFacts(name="my-run", attempts=(0,), num_groups=40, num_traces=160),
        "splits": {"cal": SplitFacts(clips=40, traces=160, use="learned from")},
        "seeds": {"run": 3},
        "settings": {"calibrate.epochs": 2},
        "code": CodeVersion(package="0.1.0", commit="98151cc"),
        "packages": {"torch": "2.13.0"},
        "created": "2026-11-30 10:30 UTC",
    }
    return Provenance(**{**values, **changes})


def write_model(folder: Path, weights: bytes = b"weights") -> Path:
    """Files with the names of a Hugging Face directory."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def write_adapter(folder: Path, base: Path) -> Path:
    """Files with the names of a peft adapter."""
    folder.mkdir(parents=True)
    config = {"r": 8, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"additions")
    return folder


def publish(tmp_path: Path, **changes: Any) -> Classifier:
    """A classifier of a run's policy and verdict, at ``tmp_path/out``."""
    run = tmp_path / "run" / "stages"
    if not run.exists():
        write_model(run / "grpo" / "model", b"policy")
        write_model(run / "calibrated" / "model", b"verdict")
        write_adapter(run / "calibrated" / "adapter", run / "grpo" / "model")
    values: dict[str, Any] = {
        "out": tmp_path / "out",
        "description": make_description(),
        "calibration": make_calibration(*changes.get("description", make_description()).sources),
        "provenance": make_provenance(),
        "policy_dir": run / "grpo" / "model",
        "verdict_dir": run / "calibrated" / "model",
    }
    return publish_classifier(**{**values, **changes})


@cache
def measured_calibration(num: int = 400, max_error: float = 0.3) -> Calibration:
    """A calibration with everything in it, fitted to random clips: of the new looks the classifier
    knows little."""
    draw = np.random.default_rng(0)
    names = make_description().label_names
    truth = draw.integers(2, size=num)
    looks = np.array(["old looks", "new looks"])[draw.integers(2, size=num)]
    logprobs: dict[Source, Any] = {}
    for source in ("policy", "verdict"):
        rows = draw.normal(size=(num, 2))
        rows[np.arange(num), truth] += np.where(looks == "old looks", 2.5, 0.0)
        logprobs[source] = rows
    ids = [f"clip-{n}" for n in range(num)]
    selection = select(fit_candidates(logprobs, truth, names, ids), truth, ids)
    calibrator = selection.candidate().calibrator
    probabilities = calibrator.probabilities(logprobs)
    known = looks == "old looks"
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    sets = [
        fit_sets(probabilities[known], truth[known], names, 0.9, kind)
        for kind in ("marginal", "class_conditional")
    ]
    before = calibrator.without_temperature()
    threshold = fit_threshold(confidence[known], right[known], max_error)
    return Calibration(
        calibrator=calibrator,
        sets=tuple(sets),
        thresholds=(threshold,),
        selection=selection,
        plateau=plateau([0, 10, 20, 30, 40], [1.2, 1.0, 0.9, 0.7, 0.5]),
        figures=(
            SplitFigures(
                split="test",
                before=measure(before.probabilities(logprobs), truth),
                after=measure(probabilities, truth),
            ),
        ),
        coverage=tuple(
            row
            for one in sets
            for row in coverage_by_group(one, probabilities, truth, looks.tolist())
        ),
        automatic=automatic_by_group(threshold, confidence, right, looks.tolist()),
        num_samples={"learned": 80, "held_out": int(known.sum()), "val": num, "test": num},
    )


def measured_evaluation() -> Evaluation:
    """Figures of some predictions, one of them without a trace."""
    labels = ["abnormal"] * 3 + ["normal"] * 2
    rows = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8], [0.4, 0.6]]
    names = make_description().label_names
    return evaluate(from_probabilities([*"abcde"], labels, rows, names), names, labels)


def published_result(**changes: Any) -> dict[str, Any]:
    """What done.json says of a published classifier, as it is read back."""
    values = {
        "method": "policy+verdict",
        "version": "5f0c8d9e1a2b3c",
        "policy_version": "0.82",
        "foreign": "",
        "not_attained": [],
        "calibration": measured_calibration().to_json(),
        "evaluation": asdict(measured_evaluation()),
    }
    return dict(json.loads(json.dumps({**values, **changes})))
