"""Calibration stage: the policy's traces, written with the run's engines; classifiers fitted to
them; the best one, calibrated and published.

    cal clips                 -> k traces each, kept right or wrong, archived
    val, held-out, test clips -> one trace each, as in use
        -> verdict (VLM), head (linear) -> the best of them and of the policy's answer -> figures

The order of the work is in calibrate/fit.py, which knows no run: `deepintuit fit` does the same
from the archive (cluster/fitting/).
"""

from dataclasses import asdict, replace
from typing import Any

from calibrate.classifier import FOLDER
from calibrate.compare import count_flips
from calibrate.fit import CalibrationResult, fit_classifiers, write_traces
from calibrate.label_error_file import LABEL_ERRORS_FILE, write_label_errors
from calibrate.splits import ClipParts
from calibrate.verdict import first_answers
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.inputs import policies
from cluster.metrics.inference_cost import TokenCount
from cluster.session import Session
from cluster.stages.classifier_output import FitInputs, publish
from cluster.stages.evaluation import EvaluationWriter, taken_up
from cluster.stages.label_codes import LabelCodes
from cluster.stages.stage import StageRun
from cluster.stages.trace_writer import RunTraceWriter
from cluster.stages.validators import verdict_validator
from cluster.stages.verdict_trainer import RunPolicyReader, RunVerdictTrainer
from wire.daemon_thread import run_in_daemon_thread
from wire.types import PolicyVersion


async def run_calibration(session: Session, run: StageRun) -> dict[str, Any]:
    """Fit, measure and publish the classifiers of the policy that the engines have loaded."""
    config, labels = run.of(CalibrateStage), session.config.label_set
    policy = session.version(session.engine_weights_step)
    await run_in_daemon_thread(_note_policy, session, policy, run)
    writer = RunTraceWriter.of(session, run.name)
    measured = session.config.evaluate.split
    clips = ClipParts.of(session.data.samples, config, measured)
    traces = await write_traces(clips, writer, config, policy)
    verdict = None
    if config.asks_labels:
        codes, seed = LabelCodes.of(session), session.config.seed
        validator = verdict_validator(config.validated, traces.val, codes, labels.names, seed)
        start = run.start.model_dir
        verdict = RunVerdictTrainer.of(
            session, run.name, start, config.validated, validator, config.lora
        )
    reader = RunPolicyReader.of(session, run.start.model_dir, config.head_features)
    fitted = await fit_classifiers(
        traces,
        config=config,
        labels=labels,
        verdict=verdict,
        features=reader,
        policy=reader,
        test_name=measured.value,
    )
    inputs = FitInputs(
        config=session.config,
        stage=config,
        renderer=session.renderer,
        traces=traces,
        archive=session.run_dir.path.name,
        policy=policy,
        policy_dir=run.start.model_dir,
    )
    return {
        "traces": asdict(fitted.report),
        "num_failed": fitted.evaluated.num_failed,
        "num_rollouts": clips.num_rollouts(config),
        **await _inference(session, fitted, writer, verdict),
        **taken_up(writer),
        **(verdict.validated if verdict else {}),
        **await _leave(session, run, fitted, inputs),
    }


async def _inference(
    session: Session,
    fitted: CalibrationResult,
    writer: RunTraceWriter,
    verdict: RunVerdictTrainer | None,
) -> dict[str, Any]:
    """Cost of a verdict: that of the trace, and of the pass that reads it; none without one."""
    traces = fitted.evaluated
    if verdict is None or verdict.asked is None or not traces.num_traces:
        return {}
    count = TokenCount(session.renderer.around_clip)
    await run_in_daemon_thread(count.add_groups, traces.groups)
    written = count.cost(traces.num_traces, None)
    assert written is not None, "there are traces"
    if (seconds := writer.evaluation_seconds) is not None:
        written = replace(written, seconds=seconds / writer.num_evaluated)
    return {"inference": asdict(written + verdict.asked)}


def _note_policy(session: Session, policy: PolicyVersion, run: StageRun) -> None:
    """Note in the archive whose weights a version names, for a fit without the run."""
    chain = session.config.chain
    parent = chain.parent(run.name)
    policies.note_policy(session.run_dir.archive, policy, parent, run.start.model_dir)


async def _leave(
    session: Session, run: StageRun, fitted: CalibrationResult, inputs: FitInputs
) -> dict[str, Any]:
    """Write models, predictions and figures, and publish. Returns their part of done.json."""
    config, step = run.of(CalibrateStage), inputs.policy.step
    folder, evaluations = session.run_dir.model(run.name).parent, EvaluationWriter.of(session)
    result: dict[str, Any] = {}
    if fitted.head is not None:
        fitted.head.save(folder / "head")
        if (errors := fitted.label_errors) is not None:
            write_label_errors(folder / LABEL_ERRORS_FILE, errors)
        head = await evaluations.write(config.head_name, fitted.plain["head"], step)
        result["head"] = asdict(head.figures)
    model = None
    if config.asks_labels:
        model = session.run_dir.model(run.name)
        await session.learner.export(str(model))
        written = await evaluations.write(run.name, fitted.plain["verdict"], step)
        result["verdict"] = asdict(written.figures)
        answers = first_answers(fitted.evaluated)
        result["flips"] = asdict(count_flips(answers, written.predictions))
        result["agreement"] = written.agreement
    published = await evaluations.write(config.classifier_name, fitted.published, step)
    about = await run_in_daemon_thread(
        lambda: publish(folder / FOLDER, fitted, inputs, model, published.predictions, replace=True)
    )
    return {**result, "classifier": {"evaluation": asdict(published.figures), **about}}
