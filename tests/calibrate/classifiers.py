"""Builders of small classifiers, for tests. (No test file.)"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibrate.classifier import Classifier, publish_classifier
from calibrate.description import (
    ArchiveFacts,
    ClassifierDescription,
    CodeVersion,
    PromptText,
    Provenance,
    SplitFacts,
)
from wire.labels import Label


class PlainCalibration:
    """Fitted state of any content."""

    def __init__(self, **values: Any) -> None:
        self.values = {"format": 1, **values}

    def to_json(self) -> Mapping[str, Any]:
        return self.values


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
        "calibration": PlainCalibration(temperature=1.5),
        "provenance": make_provenance(),
        "policy_dir": run / "grpo" / "model",
        "verdict_dir": run / "calibrated" / "model",
    }
    return publish_classifier(**{**values, **changes})
