"""Figures of a policy's answers on val clips, from the one trace that it wrote of each: what a
validation logs, and what the archive alone gives again.

    TraceGroups of one version -> answer_figures -> val/accuracy, val/reward/mean, ...
"""

from collections.abc import Sequence
from statistics import fmean

from calibrate.metrics import Evaluation, evaluate
from calibrate.traces import TraceSet
from calibrate.verdict import first_answers
from cluster.config.validation import PREFIX
from reward.stats import summarise
from wire.labels import LabelSet
from wire.types import TraceGroup

_SHARED = ("accuracy", "macro_f1", "balanced_accuracy")


def answer_figures(groups: Sequence[TraceGroup], labels: LabelSet) -> dict[str, float]:
    """Metrics of answers, rewards and lengths. An answer that is no label, and a clip without a
    trace, count as wrong."""
    evaluation = evaluate(first_answers(TraceSet.of(groups, labels)), labels.names)
    rewards = {
        name: value
        for name, value in summarise(groups).items()
        if name.startswith("reward/") and name.endswith("/mean")
    }
    figures = {
        **shared_figures(evaluation),
        "unparsed_frac": evaluation.unparsed_frac,
        "failed_frac": fmean(not group.traces for group in groups),
        **rewards,
    }
    completions = [trace.completion for group in groups for trace in group.traces]
    if completions:
        figures["response_length/mean"] = fmean(len(one.token_ids) for one in completions)
        figures["truncated_frac"] = fmean(one.finish_reason.is_truncated for one in completions)
    return {PREFIX + name: value for name, value in figures.items()}


def shared_figures(evaluation: Evaluation) -> dict[str, float]:
    """Figures that every validation has, by their names without ``val/``."""
    figures = {name: getattr(evaluation, name) for name in _SHARED}
    return {**figures, "num_clips": float(evaluation.num_samples)}
