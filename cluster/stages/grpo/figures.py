"""Metrics of a GRPO step: traces, dynamic sampling, throughput, cache hits."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import fmean

import psutil

from cluster.loop import StepGroups
from cluster.metrics.catalogue import pool
from wire.types import FinishReason, TraceGroup


class CacheHitRates:
    """Hit rates of the workers' clip caches and the engines' prefix caches, and traces that updates
    had written anew, by step."""

    def __init__(
        self,
        clip_counts: Callable[[], Awaitable[Mapping[str, int]]],
        token_counts: Mapping[str, int],
    ) -> None:
        """``clip_counts``: of all workers since their start; ``token_counts``: prompt tokens so
        far, and the cached ones among them."""
        self._clip_counts, self._token_counts = clip_counts, token_counts
        self._before: Counter[str] = Counter()

    async def of_step(self) -> dict[str, float]:
        """Hit rates since the last call. A rate without a request is left out."""
        counts = await self._clip_counts()
        now = Counter(counts) + Counter(self._token_counts)
        new, self._before = now - self._before, now
        clips, tokens = new["clip_hits"] + new["clip_misses"], new["prompt_tokens"]
        figures = {}
        if clips:
            figures["cache/clip_hit_rate"] = new["clip_hits"] / clips
        if tokens:
            figures["cache/prefix_hit_rate"] = new["cached_prompt_tokens"] / tokens
        if "restarted_traces" in counts:
            figures["off_policy/num_restarted_traces"] = float(new["restarted_traces"])
        return figures


def filter_figures(taken: StepGroups) -> dict[str, float]:
    """Metrics of dynamic sampling: groups trained, and groups left out by label."""
    labels = Counter(group.sample.label for group in taken.replaced)
    return {
        "filter_groups/num_trained": float(len(taken.trained)),
        "filter_groups/num_replaced": float(len(taken.replaced)),
        **{f"filter_groups/replaced/{name}": float(n) for name, n in sorted(labels.items())},
    }


def trace_figures(groups: Sequence[TraceGroup], trained_from: int) -> dict[str, float]:
    """Metrics of a step's traces: lengths, ends, failures, and staleness in versions."""
    completions = [trace.completion for group in groups for trace in group.traces]
    failed = [group for group in groups if not group.traces]
    figures = {
        "rollout/failed_groups_frac": len(failed) / len(groups),
        "rollout/num_dropped_groups": float(sum(group.is_dropped for group in groups)),
    }
    if not completions:
        return figures
    lengths = [len(completion.token_ids) for completion in completions]
    prompts = [len(group.prompt.token_ids) for group in groups if group.prompt and group.traces]
    lags = [trained_from - completion.policy_version.step for completion in completions]
    ends = [completion.finish_reason for completion in completions]
    return (
        figures
        | {f"finish_reason/{end}": fmean(e is end for e in ends) for end in FinishReason}
        | {
            "response_length/mean": fmean(lengths),
            "response_length/min": float(min(lengths)),
            "response_length/max": float(max(lengths)),
            "prompt_length/mean": fmean(prompts),
            "prompt_length/max": float(max(prompts)),
            "truncated_frac": fmean(end.is_truncated for end in ends),
            "off_policy/mixed_frac": fmean(bool(one.version_changes) for one in completions),
            "staleness/mean": fmean(lags),
            "staleness/max": float(max(lags)),
        }
    )


def of_updates(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics of a step from those of its updates. Updates that were left out enter a mean only by
    their finite figures, and a figure that some updates lack is of the others."""
    names = dict.fromkeys(name for figures in updates for name in figures)
    return {name: pool(name, (f[name] for f in updates if name in f)) for name in names}


def throughput(
    taken: StepGroups, seconds: Mapping[str, float], epochs: int = 1
) -> dict[str, float]:
    """Metrics of speed: tokens per second of a step and its phases; memory of this node.
    ``epochs``: passes of the learner over the groups that it trained."""
    groups = taken.all
    responses = sum(len(t.completion.token_ids) for group in groups for t in group.traces)
    prompts = [(group.prompt, len(group.traces)) for group in groups if group.prompt]
    total = responses + sum(len(prompt.token_ids) * count for prompt, count in prompts)
    computed = epochs * sum(
        len(group.prompt.token_ids) + sum(len(t.completion.token_ids) for t in group.scored)
        for group in taken.trained
        if group.prompt and group.scored
    )
    step = seconds["timing_s/step"]
    figures = {
        "perf/time_per_step": step,
        "perf/total_num_tokens": float(total),
        "perf/throughput": total / max(step, 1e-9),
        "perf/rollout_tokens_per_s": responses / max(seconds["timing_s/gen"], 1e-9),
        "perf/cpu_memory_used_gb": psutil.virtual_memory().used / 1e9,
    }
    if "timing_s/update_actor" in seconds:
        rate = computed / max(seconds["timing_s/update_actor"], 1e-9)
        figures["perf/train_tokens_per_s"] = rate
    return figures
