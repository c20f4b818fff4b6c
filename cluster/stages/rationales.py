"""Rationales: the policy explains labelled clips, or describes them; what passes the filters is
kept for a later stage to learn from. RB-FT (arXiv 2511.15923; seeds.md 2).

    clips -> rollout workers -> archive (purpose "rationale") -> Judge
        -> stages/NAME/rationales.jsonl
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calibrate.traces import TraceSet
from cluster.config.kinds.rationales import RationalesStage
from cluster.driver.progress import console
from cluster.metrics.catalogue import EVALUATION
from cluster.run_files import rationales_outcome
from cluster.session import Session
from cluster.stages.stage import StageRun
from cluster.stages.trace_writer import RunTraceWriter
from rollout.rationales.judge import FilterCounts, Judge, Written
from rollout.rationales.rationale import Dropped, Rationale
from rollout.rationales.rationale_file import rationale_file, write_rationales
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import DataError
from wire.labels import LabelSet


async def run_rationales(session: Session, run: StageRun) -> dict[str, Any]:
    """Write, judge and keep the rationales of a stage's clips. Raises DataError if too few are
    kept; those that were written stay in the archive and in the file."""
    stage = run.of(RationalesStage)
    writer = RunTraceWriter.of(session, stage.name)
    traces = await writer.write_rationales(
        stage.clips.of(session.data.samples),
        stage.num_rationales,
        stage.temperature,
        ask=stage.ask,
        max_tokens=stage.max_length,
    )
    judge = judge_of(stage, session.config.label_set)
    path = rationale_file(session.run_dir.path, stage.name)
    await run_in_daemon_thread(write_rationales, path, _judged(judge, traces))
    counts = judge.counts
    figures = {f"{stage.name}/{name}": value for name, value in logged(counts).items()}
    session.metrics.write(EVALUATION, session.engine_weights_step, figures)
    result = {"rationales": {"task": stage.task, "hint": stage.names_label, **counts.figures()}}
    console.print(f"{stage.name}: {rationales_outcome(result)}", soft_wrap=True)
    _refuse_few(counts, stage, rationales_outcome(result), path)
    return {
        **result,
        "num_failed": traces.num_failed,
        "cost": {
            "num_rollouts": counts.num_written,
            "num_generated_tokens": sum(one.num_tokens for one in traces.facts),
        },
        **({"num_taken_up": writer.num_taken_up} if writer.num_taken_up else {}),
    }


def judge_of(stage: RationalesStage, labels: LabelSet) -> Judge:
    """The judge of what a stage writes."""
    on = stage.filters.model_dump()
    return Judge(
        labels,
        [reason for reason in Dropped if on.get(reason.value)],
        asks_label=stage.task == "rationale",
        closing=stage.closing,
        leak_patterns=stage.leak_patterns,
    )


def logged(counts: FilterCounts) -> dict[str, float]:
    """Figures of metrics.jsonl."""
    figures = counts.figures()
    shares = {f"{name}_frac": one["frac"] for name, one in figures["filters"].items()}
    names = ("kept_frac", "answered_frac", "right_frac", "other_named_frac", "mean_words")
    return shares | {name: figures[name] for name in names}


def _judged(judge: Judge, traces: TraceSet) -> Iterator[Rationale]:
    """Rationales in the order of the clips; groups are read as they are asked for."""
    for facts, group in zip(traces.facts, traces.groups, strict=True):
        completions = [trace.completion for trace in group.traces]
        written = [Written(one.text, one.finish_reason.is_truncated) for one in completions]
        yield from judge.judge(facts.sample, written, group.group_id)


def _refuse_few(counts: FilterCounts, stage: RationalesStage, outcome: str, path: Path) -> None:
    if counts.num_kept and counts.kept_frac >= stage.min_kept_frac:
        return
    raise DataError(
        f"stage {stage.name}: {outcome}; expected one or more, and a share of at least "
        f"stages.{stage.name}.min_kept_frac = {stage.min_kept_frac:g}. Read {path}, then change "
        "the filters or min_kept_frac and resume (nothing is written anew), or change the texts of "
        "[prompts] in a new run"
    )
