"""Stage 3, intuition calibration: trains classifiers on the refined policy's own traces, and
measures them.

    cal clips -> k traces each, kept right or wrong, archived -> verdict (the VLM itself) and head
    (linear)
    test clips -> one trace each -> both classifiers -> figures

Traces and verdict on real engines are in cluster/stages/verdict_trainer.py.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calibrate import head as linear_head
from calibrate.compare import count_flips
from calibrate.predictions import Prediction
from calibrate.verdict import (
    VerdictExample,
    refuse_foreign_traces,
    report_traces,
    trace_agreement,
    training_rows,
)
from cluster.driver.progress import console
from cluster.session import Session
from cluster.stages.evaluation import (
    measure,
    num_failed,
    policy_predictions,
    write_evaluation_traces,
)
from cluster.stages.failure_limits import refuse_failures
from cluster.stages.trace_writer import RunTraceWriter
from cluster.stages.verdict_trainer import RunVerdictTrainer, label_predictions
from learner.config import OptimConfig
from learner.shared_prefix.rows import Row, supervised_row
from wire.types import Purpose, Split, TraceGroup
from wire.whole_file import write_json

STAGE = "calibrated"


async def run_calibration(session: Session, policy_dir: Path) -> dict[str, Any]:
    """Train and measure the classifiers. ``policy_dir``: the weights that the engines have
    loaded."""
    config, labels = session.config.calibrate, session.config.label_set
    samples = session.data.of(Split(config.split))
    written = await RunTraceWriter(session, STAGE).write(
        samples, config.num_traces, config.temperature, Purpose.CALIBRATION
    )
    refuse_failures(written, session.config.reward.max_failure_frac)
    refuse_foreign_traces(written, session.version(session.engine_weights_step))
    examples = training_rows(written, labels.names)
    evaluated = await write_evaluation_traces(session, STAGE)
    policy = policy_predictions(evaluated, labels, session.renderer)
    result: dict[str, Any] = {
        "traces": asdict(report_traces(written, labels)),
        "num_failed": num_failed(evaluated),
    }
    if "head" in config.methods:
        predictions = await _head(session, policy_dir, written, evaluated)
        result["head"] = asdict(measure(session, "head", predictions))
    if "verdict" in config.methods:
        predictions = await _verdict(session, policy_dir, examples, evaluated)
        result["verdict"] = asdict(measure(session, STAGE, predictions))
        result["flips"] = asdict(count_flips(policy, predictions))
        result["agreement"] = trace_agreement(predictions, labels)
    write_json(
        session.run_dir.model(STAGE).parent / "classifier.json",
        {
            "label_names": labels.names,
            "label_codes": session.renderer.label_codes(labels),
            "policy_version": str(written[0].policy_version),
        },
    )
    return result


async def _verdict(
    session: Session,
    policy_dir: Path,
    examples: Sequence[VerdictExample],
    evaluated: Sequence[TraceGroup],
) -> list[Prediction]:
    verdict = RunVerdictTrainer(session, STAGE, policy_dir)
    await verdict.train(examples, session.config.calibrate)
    await session.learner.export(str(session.run_dir.model(STAGE)))
    asked = training_rows(evaluated, session.config.label_set.names)
    return await verdict.predict(asked, [group.sample for group in evaluated])


async def _head(
    session: Session,
    policy_dir: Path,
    written: Sequence[TraceGroup],
    evaluated: Sequence[TraceGroup],
) -> list[Prediction]:
    """A linear classifier over the policy's hidden state after video and trace."""
    await session.start_training(policy_dir, OptimConfig())
    names = session.config.label_set.names
    known = training_rows(written, names)
    console.print(f"head: hidden states of {len(known)} traces")
    features = await session.learner.features(_trace_rows(written))
    head = linear_head.fit(
        features, [e.label for e in known], names, sample_ids=[e.sample.id for e in known]
    )
    head.save(session.run_dir.model(STAGE).parent / "head")
    asked = training_rows(evaluated, names)
    features = await session.learner.features(_trace_rows(evaluated))
    samples = [group.sample for group in evaluated]
    return label_predictions(session, asked, head.probabilities(features), samples)


def _trace_rows(groups: Sequence[TraceGroup]) -> list[Row]:
    """One row per trace, in the order of ``training_rows``: video, trace prompt, trace."""
    return [
        supervised_row(group.prompt, group.sample.video, trace.completion.token_ids)
        for group in groups
        for trace in group.traces
        if group.prompt is not None
    ]
