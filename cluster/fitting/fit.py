"""Fit of a classifier from traces that are in an archive: as a calibration stage, without a run.

    archive -> FitTraces -> calibrate/fit.py with a learner alone -> classifier directory, result

In a deterministic run the stage and a fit of its archive give the same classifier, to the bit.
"""

from collections.abc import Container
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from calibrate.fit import FitTraces, fit_classifiers
from calibrate.label_error_file import LABEL_ERRORS_FILE, write_label_errors
from calibrate.metrics import Evaluation, evaluate
from calibrate.predictions import Prediction, write_predictions
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.recipe import RunConfig
from cluster.config.stages import KEEP_LAST
from cluster.fitting.archived_traces import TraceQuery, find_traces
from cluster.fitting.fit_work import KeptScores, fingerprint, fit_work
from cluster.fitting.learner_session import LearnerSession
from cluster.inputs.from_run import weights_hash
from cluster.metrics.metrics_log import MetricsLog
from cluster.resume.checkpoints import Checkpoints
from cluster.stages.classifier_output import FitInputs, publish
from cluster.stages.label_codes import LabelCodes
from cluster.stages.supervised import SupervisedTrainer
from cluster.stages.validation import restored_by
from cluster.stages.validators import verdict_validator
from cluster.stages.verdict_trainer import RunPolicyReader, RunVerdictTrainer
from learner.config import OptimConfig
from wire.daemon_thread import run_in_daemon_thread
from wire.types import PolicyVersion, Purpose, Split

_SHOWN = 8  # versions in a mark


@dataclass(frozen=True, kw_only=True)
class FitOrder:
    """Order to fit one classifier.

    Example:
        FitOrder(archive=run / "archive", config=config, stage=stage, model=model, out=Path("out"),
                 policy=version, served=frozenset({version}), learn_from=frozenset({version}))
    """

    archive: Path
    config: RunConfig
    """Recipe of the run; of its settings a fit uses labels, prompts, video, learner, seed."""
    stage: CalibrateStage
    """What is fitted, and how; its name stands in the classifier."""
    model: Path
    """Weights of the policy that is served, a Hugging Face directory."""
    out: Path
    """The classifier directory to make: whole, or not at all. OUT.work beside it goes at the
    end; what an interrupt or a kill leaves in it, the same order takes up."""
    policy: PolicyVersion
    """The version that is served."""
    served: Container[PolicyVersion]
    """All versions that name its weights: their near-greedy traces answer val, held-out and test
    clips."""
    learn_from: Container[PolicyVersion]
    """Versions whose traces verdict and head learn from."""
    purpose: Purpose = Purpose.CALIBRATION
    """Of those traces; ``train``: GRPO's."""
    test: Split | None = Split.TEST
    """The split that is measured; None: none is, and no such clip is read (watch mode)."""
    foreign: str = ""
    """Mark of traces that another policy wrote, in words."""


async def fit_from_archive(session: LearnerSession, order: FitOrder) -> dict[str, Any]:
    """Fit the classifier of an order to archived traces, with a learner that is running
    (``open_learner``; it may serve several orders, one after another), and publish ``order.out``.

    Returns what a run's done.json says of a calibration: ``traces``, ``head``, ``verdict``,
    ``classifier`` with its figures on val and test. Raises DataError if the archive has no traces
    to learn from, if a clip cannot be read, or if ``out`` is taken.
    """
    query = TraceQuery(
        stage=order.stage.name,
        learn_from=order.learn_from,
        served=order.served,
        purpose=order.purpose,
        test=order.test,
    )
    traces = await run_in_daemon_thread(
        find_traces, order.archive, query, order.stage, order.config.label_set
    )
    return await fit_from_traces(session, order, traces)


async def fit_from_traces(
    session: LearnerSession, order: FitOrder, traces: FitTraces
) -> dict[str, Any]:
    """``fit_from_archive`` with traces that were chosen already."""
    mark = await run_in_daemon_thread(_fingerprint, order, traces)
    with fit_work(order.out, mark) as work, MetricsLog(work, 0, sinks=[]) as metrics:
        return await _fit(session, order, traces, work, metrics)


def _fingerprint(order: FitOrder, traces: FitTraces) -> str:
    """Of all that a fit's result depends on."""
    settings = {
        "config": order.config.model_dump(mode="json"),
        "stage": order.stage.model_dump(mode="json", by_alias=True),
        "weights": weights_hash(order.model),
        "policy": str(order.policy),
        "purpose": order.purpose,
        "test": order.test,
        "foreign": order.foreign,
    }
    parts = [traces.learned, traces.val, traces.held_out, traces.test]
    votes = [traces.votes[name] for name in sorted(traces.votes)]
    return fingerprint(settings, [*parts, *votes])


async def _fit(
    session: LearnerSession, order: FitOrder, traces: FitTraces, work: Path, metrics: MetricsLog
) -> dict[str, Any]:
    stage, labels = order.stage, order.config.label_set
    verdict = _verdict(session, order, traces, work, metrics) if stage.asks_labels else None
    load = partial(session.start_training, order.model, OptimConfig())
    prompts = session if stage.head_features == "video" else None
    reader = KeptScores(
        RunPolicyReader(session.learner, load, session.renderer, labels, work, prompts), work
    )
    fitted = await fit_classifiers(
        traces,
        config=stage,
        labels=labels,
        verdict=verdict,
        features=reader,
        policy=reader,
        test_name=(order.test or Split.TEST).value,
    )
    result: dict[str, Any] = {
        "traces": asdict(fitted.report),
        "num_failed": fitted.evaluated.num_failed,
        **(verdict.validated if verdict else {}),
    }
    model, figures = None, None
    kept: list[Prediction] = []
    if verdict is not None:
        model = work / "model"
        await session.learner.export(str(model))
    if len(traces.test):
        for name, predictions in fitted.plain.items():
            result[name] = asdict(evaluate(list(predictions), labels.names))
        kept = await run_in_daemon_thread(
            write_predictions, work / "classifier.parquet", fitted.published
        )
        figures = evaluate(kept, labels.names)
    inputs = FitInputs(
        config=order.config,
        stage=stage,
        renderer=session.renderer,
        traces=traces,
        archive=archive_name(order.archive),
        policy=order.policy,
        policy_dir=order.model,
        foreign=order.foreign or mark_of_others(traces, order.served),
    )
    about = await run_in_daemon_thread(publish, order.out, fitted, inputs, model, kept)
    if fitted.label_errors is not None:
        write_label_errors(order.out / LABEL_ERRORS_FILE, fitted.label_errors)
    return result | {"classifier": {**_evaluation(figures), **about}}


def mark_of_others(traces: FitTraces, served: Container[PolicyVersion]) -> str:
    """Mark of traces learned from that other versions wrote than those served; empty: none did."""
    wrote = {version for facts in traces.learned.facts for version in facts.versions}
    others = sorted(version for version in wrote if version not in served)
    if not others:
        return ""
    shown = ", ".join(map(str, others[:_SHOWN])) + (" ..." if len(others) > _SHOWN else "")
    return f"it learned from traces of versions {shown}, and another version is served"


def _evaluation(figures: Evaluation | None) -> dict[str, Any]:
    return {} if figures is None else {"evaluation": asdict(figures)}


def _verdict(
    session: LearnerSession, order: FitOrder, traces: FitTraces, work: Path, metrics: MetricsLog
) -> RunVerdictTrainer:
    config, stage = order.config, order.stage
    codes = LabelCodes(session.renderer.label_codes(config.label_set), session, session.learner)
    names = config.label_set.names
    trainer = SupervisedTrainer(
        stage.name,
        session,
        session.learner,
        Checkpoints(
            work / "checkpoints" / stage.name,
            session.learner,
            _NothingArchived(),
            0,
            KEEP_LAST,
            [restored_by(stage.validated)],
            prompts=config.prompt_set.versions,
        ),
        metrics,
        seed=config.seed,
        limits=config.guards,
        validate=stage.validated,
        validator=verdict_validator(stage.validated, traces.val, codes, names, config.seed),
    )
    return RunVerdictTrainer(codes, trainer, order.model, work, stage.lora)


class _NothingArchived:
    """A fit archives no group."""

    num_groups = 0


def archive_name(archive: Path) -> str:
    """Name of a run or of a bare archive, no path."""
    archive = archive.resolve()
    return archive.parent.name if archive.name == "archive" else archive.name
