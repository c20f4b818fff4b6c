"""Calibration stage: fits classifiers to the policy's own traces with the run's engines, and
measures them.

    cal clips  -> k traces each, kept right or wrong, archived -> verdict (VLM) and head (linear)
    test clips -> one trace each -> both classifiers -> figures

The order of the work is in calibrate/fit.py, which knows no run.
"""

from dataclasses import asdict
from typing import Any

from calibrate.compare import count_flips
from calibrate.fit import fit_classifiers
from calibrate.verdict import first_answers
from cluster.config.stage_kinds import CalibrateStage
from cluster.session import Session
from cluster.stages.evaluation import EvaluationWriter, taken_up
from cluster.stages.stage import StageRun
from cluster.stages.trace_writer import RunTraceWriter
from cluster.stages.validators import verdict_validator
from cluster.stages.verdict_trainer import RunFeatureReader, RunVerdictTrainer
from wire.whole_file import write_json


async def run_calibration(session: Session, run: StageRun) -> dict[str, Any]:
    """Train and measure the classifiers of the policy that the engines have loaded."""
    config, labels = run.of(CalibrateStage), session.config.label_set
    policy = session.version(session.engine_weights_step)
    validation = config.validated, verdict_validator(session, run)
    verdict = (
        RunVerdictTrainer.of(session, run.name, run.start.model_dir, *validation, lora=config.lora)
        if config.asks_labels
        else None
    )
    writer = RunTraceWriter.of(session, run.name)
    fitted = await fit_classifiers(
        config.clips.of(session.data.samples),
        session.data.of(session.config.evaluate.split),
        config=config,
        labels=labels,
        policy=policy,
        writer=writer,
        verdict=verdict,
        features=RunFeatureReader.of(session, run.start.model_dir),
    )
    folder, evaluations = session.run_dir.model(run.name).parent, EvaluationWriter.of(session)
    result: dict[str, Any] = {
        "traces": asdict(fitted.report),
        "num_failed": fitted.evaluated.num_failed,
        **taken_up(writer),
        **(verdict.validated if verdict else {}),
    }
    if fitted.head is not None:
        fitted.head.head.save(folder / "head")
        head = await evaluations.write(config.head_name, fitted.head.predictions, policy.step)
        result["head"] = asdict(head.figures)
    if fitted.verdict is not None:
        await session.learner.export(str(session.run_dir.model(run.name)))
        written = await evaluations.write(run.name, fitted.verdict, policy.step)
        result["verdict"] = asdict(written.figures)
        answers = first_answers(fitted.evaluated)
        result["flips"] = asdict(count_flips(answers, written.predictions))
        result["agreement"] = written.agreement
    write_json(
        folder / "classifier.json",
        {
            "label_names": labels.names,
            "label_codes": session.renderer.label_codes(labels) if config.asks_labels else None,
            "policy_version": str(policy),
        },
    )
    return result
