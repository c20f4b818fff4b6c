"""Publishes the classifier that a fit has chosen, for a run's stage and for a fit from an archive.

CalibrationResult + what it was fitted from -> classifier directory, done.json["classifier"]
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrate.choice import lacks
from calibrate.classifier import publish_classifier
from calibrate.description import AnswerSettings, ArchiveFacts, Provenance, SplitFacts
from calibrate.fit import CalibrationResult, FitTraces
from calibrate.metrics import evaluate
from calibrate.predictions import Prediction
from calibrate.traces import TraceSet
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.recipe import RunConfig
from cluster.inputs.classifier_settings import describe, provenance_of
from learner.export import ADAPTER_FOLDER
from rollout.render import Renderer
from wire.types import PolicyVersion, Split

_USES = {
    "learned": "verdict and head",
    "held_out": "prediction sets and threshold; nothing learned from it",
    "val": "temperature, choice, early stop",
    "test": "figures only",
}


@dataclass(frozen=True, kw_only=True)
class FitInputs:
    """What a classifier was fitted from: settings, traces, the policy that wrote them."""

    config: RunConfig
    stage: CalibrateStage
    renderer: Renderer
    traces: FitTraces
    archive: str
    """Name of the run or archive, no path."""
    policy: PolicyVersion
    """The version that is served."""
    policy_dir: Path
    """Its weights."""
    foreign: str = ""
    """Mark of traces that another policy wrote, in words; empty: its own."""


def publish(
    out: Path,
    result: CalibrationResult,
    inputs: FitInputs,
    verdict: Path | None,
    predictions: Sequence[Prediction],
    *,
    replace: bool = False,
) -> dict[str, Any]:
    """Publish the chosen classifier as the directory ``out``, with what it reads and nothing else;
    ``verdict``: folder that the learner has exported its weights to, and with LoRA an adapter
    beside it; None where none was fitted; ``predictions``: of the test clips, if there are
    any; ``replace``: what is there may go. Returns what done.json
    says of it. Reads and hashes all its weights."""
    config, stage = inputs.config, inputs.stage
    sources = result.calibration.calibrator.sources
    model = verdict if "verdict" in sources else None
    lora = stage.lora or config.learner.lora
    served_as_adapter = model is not None and lora is not None and lora.handoff == "adapter"
    published = publish_classifier(
        out,
        describe(
            config,
            inputs.renderer.label_codes(config.label_set) if model else {},
            name=stage.name,
            sources=sources,
            policy=inputs.policy,
            answers=AnswerSettings(
                temperature=config.evaluate.temperature,
                seed=config.seed,
                num_votes=stage.num_traces if "vote" in sources else 0,
                vote_temperature=stage.temperature,
            ),
            head_features=stage.head_features if "head" in sources else "trace",
        ),
        calibration=result.calibration,
        provenance=_provenance(inputs),
        evaluation=evaluate(predictions, config.label_set.names) if predictions else None,
        policy_dir=inputs.policy_dir,
        verdict_dir=None if served_as_adapter else model,
        adapter_dir=model.with_name(ADAPTER_FOLDER) if model and served_as_adapter else None,
        head=result.head if "head" in sources else None,
        reference=result.reference,
        held_out=result.held_out,
        replace=replace,
    )
    return {
        "method": "+".join(sources),
        "version": published.version,
        "policy_version": str(inputs.policy),
        "foreign": inputs.foreign,
        "not_attained": lacks(result.calibration),
        "calibration": result.calibration.to_json(),
    }


def _use(name: str, part: TraceSet) -> str:
    """What the traces of a part were for; of training clips, that the policy knew them."""
    trained = any(facts.sample.split is Split.TRAIN for facts in part.facts)
    known = "; clips that the policy was trained on, which flatters it" if trained else ""
    return f"{_USES[name]}{known}"


def _provenance(inputs: FitInputs) -> Provenance:
    traces, stage = inputs.traces, inputs.stage
    parts: dict[str, TraceSet] = {
        "learned": traces.learned,
        "held_out": traces.held_out,
        "val": traces.val,
        "test": traces.test,
    }
    versions = Counter(str(version) for facts in traces.learned.facts for version in facts.versions)
    attempts = {int(version.partition(".")[0]) for version in versions}
    return provenance_of(
        inputs.config,
        stage,
        archive=ArchiveFacts(
            name=inputs.archive,
            attempts=tuple(sorted(attempts)),
            versions=dict(sorted(versions.items())),
            num_groups=len(traces.learned),
            num_traces=traces.learned.num_traces,
            foreign=inputs.foreign,
        ),
        splits={
            name: SplitFacts(clips=len(part), traces=part.num_traces, use=_use(name, part))
            for name, part in parts.items()
        },
    )
