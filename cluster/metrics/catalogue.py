"""Catalogue of all figures that a run writes: name, unit, meaning, and verl's name.

A test holds the table against what runs write; docs/metrics.md is made from it (`make docs`).
"""

import functools
import math
from collections.abc import Iterable, Mapping
from statistics import fmean

from cluster.metrics.fleet_metrics import FLEET_METRICS
from cluster.metrics.metric import Metric, rows_of_area

METRICS: tuple[Metric, ...] = (
    *rows_of_area(
        "Reward",
        ("reward/mean", "reward", "sequence", "total reward, of scored traces",
         "critic/rewards/mean", "reward"),
        ("reward/std", "reward", "sequence", "its population deviation over the step",
         "", "reward_std"),
        ("reward/min", "reward", "step", "lowest total reward", "critic/rewards/min"),
        ("reward/max", "reward", "step", "highest total reward", "critic/rewards/max"),
        ("reward/frac_zero_std", "share", "group",
         "groups whose rewards are all equal: they teach nothing", "", "frac_reward_zero_std"),
        ("reward/failed_frac", "share", "sequence",
         "traces that a reward function failed on: masked, not zero"),
        ("reward/<part>/mean", "reward", "sequence", "one reward function, before weighting",
         "", "rewards/<part>/mean"),
        ("reward/<part>/std", "reward", "sequence", "its population deviation over the step",
         "", "rewards/<part>/std"),
        ("reward/not_applicable_frac", "share", "sequence",
         "traces to which no reward function applies, if there are any: masked"),
        ("reward/<part>/failed_frac", "share", "sequence",
         "traces that this function failed on, if there are any"),
        ("reward/<part>/latency_p50_s", "s", "step",
         "median of a user function's calls: of a trace (verl's), of a group (TRL's)"),
        ("reward/<part>/latency_p99_s", "s", "step", "their 99th percentile"),
        ("reward/<part>/num_started", "processes", "step",
         "processes started for a user function: more than its concurrency, and some were ended"),
        ("reward/<part>/num_split", "groups", "step",
         "groups that failed whole (TRL's) and were asked trace by trace"),
        ("reward/<part>/num_lost", "processes", "step",
         "processes of a user function that died, hung or wrote nonsense, and were replaced"),
        ("label/<label>/reward/<part>", "reward", "sequence",
         "one reward function, before weighting, on clips of this label"),
        ("label/<label>/accuracy", "share", "sequence",
         "right answers on clips of this label, if there is an accuracy reward"),
        ("label/<label>/reward", "reward", "sequence", "total reward on clips of this label"),
    ),
    *rows_of_area(
        "Guards against reward hacking (docs/rewards.md has formulas and limits)",
        ("guard/length_ratio", "ratio", "step",
         "response_length/mean over that of the first 5 steps"),
        ("guard/length_reward_corr", "correlation", "sequence",
         "of length and reward, both less their group's mean"),
        ("guard/format_only", "share", "sequence",
         "traces that keep the format, times 1 - guard/answer_kappa; 1: all keep it and guess"),
        ("guard/answer_kappa", "kappa", "sequence",
         "Cohen's agreement of their answers with the true labels; 0: chance"),
        ("guard/format_only_frac", "share", "sequence",
         "scored traces that keep the format and answer wrongly"),
        ("guard/format_signal_frac", "share", "group",
         "of groups whose rewards differ, those where the format differs and rightness does not"),
        ("guard/answer_entropy", "ratio", "sequence",
         "entropy of the answers over that of the true labels; 0: one answer for everything"),
        ("guard/top_answer_frac", "share", "sequence", "the most frequent answer"),
        ("guard/top_label_frac", "share", "sequence", "the most frequent true label"),
        ("guard/distinct_frac", "share", "group",
         "(distinct traces - 1) over (traces - 1), mean; 0: all traces of a group are the same"),
        ("guard/identical_frac", "share", "group", "groups whose traces are all the same"),
        ("guard/identical_wrong_frac", "share", "group",
         "the same, of the groups with a wrong trace"),
        ("guard/label_in_prompt", "share", "group",
         "prompts that name the true label and no other, less what chance would name"),
        ("guard/<signal>/flagged", "0 or 1", "step",
         "a signal has been beyond its limit for several steps in a row"),
    ),
    *rows_of_area(
        "Guards against learning nothing (from the first warning on; docs/troubleshooting.md)",
        ("learning/num_updates", "updates", "run", "of the stage so far"),
        ("learning/num_steps", "steps", "run", "of the stage so far (GRPO)"),
        ("learning/skipped", "updates", "run",
         "those left out so far, their gradient not finite"),
        ("learning/zero_gradient", "updates", "run", "those whose gradient was exactly 0"),
        ("learning/no_signal", "steps", "run",
         "those in which no group had signal: the traces of each clip earned the same"),
        ("learning/one_text", "steps", "run", "those whose traces were one text for all clips"),
        ("learning/<fault>_in_a_row", "updates or steps", "run", "one after another, up to now"),
    ),
    *rows_of_area(
        "Rollout",
        ("response_length/mean", "tokens", "sequence", "length of the traces",
         "response_length/mean", "completions/mean_length"),
        ("response_length/min", "tokens", "step", "shortest trace",
         "response_length/min", "completions/min_length"),
        ("response_length/max", "tokens", "step", "longest trace",
         "response_length/max", "completions/max_length"),
        ("prompt_length/mean", "tokens", "group", "length of the prompts, video included",
         "prompt_length/mean"),
        ("prompt_length/max", "tokens", "step", "longest prompt", "prompt_length/max"),
        ("truncated_frac", "share", "sequence", "traces cut at rollout.max_response_length",
         "response_length/clip_ratio", "completions/clipped_ratio"),
        ("finish_reason/<reason>", "share", "sequence", "why traces ended"),
        ("rollout/failed_groups_frac", "share", "group",
         "groups without a trace: decode, prompt or generation failed"),
        ("rollout/num_out_of_service", "workers", "step",
         "engines that did not prove the new weights"),
        ("rollout/next_place", "groups", "run",
         "the sampler's cursor: the place of the first group that no step has taken"),
        ("rollout/num_taken_up", "groups", "run",
         "groups of earlier attempts that this one has taken from the archive so far"),
        ("filter_groups/num_trained", "groups", "step",
         "groups with signal, with dynamic sampling"),
        ("filter_groups/num_replaced", "groups", "step",
         "groups without signal, others were asked in their stead"),
        ("filter_groups/replaced/<label>", "groups", "step", "those of a label"),
        ("quarantine/num_clips", "clips", "run", "clips left out so far (quarantine.jsonl)"),
        ("staleness/mean", "versions", "sequence",
         "how far the weights that wrote a trace lie behind those it trains"),
        ("staleness/max", "versions", "step", "the furthest"),
        ("off_policy/mixed_frac", "share", "sequence",
         "traces of which an update came in the middle: each token has its version"),
        ("off_policy/num_restarted_traces", "sequences", "step",
         "traces that an update had written anew (``rollout.in_flight = restart``)"),
        ("off_policy/num_dropped_traces", "sequences", "step",
         "traces left out of the update because they were too old when it came; their siblings "
         "were trained"),
        ("rollout/num_dropped_groups", "groups", "step",
         "groups that the fleet failed for good, after rollout_failure.max_infra_attempts tries"),
        ("cache/clip_hit_rate", "share", "clip",
         "clips that rollout workers found processed, of those they asked for in the step"),
        ("video/decoded_by_decord", "clips", "step",
         "clips that the rollout workers have decoded since the last step with this figure, by "
         "decord; supervised trainings have it in their first step"),
        ("video/decoded_by_pyav", "clips", "step",
         "those decoded by PyAV; the log names the first clip of each reason"),
        ("video/decoders_lost", "count", "step",
         "decoder processes of the rollout workers that died, hung or wrote nonsense since the "
         "last step with this figure; another took their clip"),
        ("cache/embedding_hit_rate", "share", "clip",
         "clips of the learner's rows that its frozen vision tower had seen before the step; no "
         "figure where the tower is trained or learner.embedding_cache is off"),
        ("cache/prefix_hit_rate", "share", "token",
         "prompt tokens that the engine had computed before"),
    ),
    *rows_of_area(
        "Policy",
        ("policy_loss", "loss", "update", "policy loss as loss_agg_mode has it",
         "actor/pg_loss", "loss"),
        ("nll", "nats", "token", "negative log-likelihood of the target (supervised stages)"),
        ("kl", "nats", "token",
         "KL to the policy before the step by k3 (verl: k1); 0 with one update per step",
         "actor/ppo_kl"),
        ("kl_ref", "nats", "token",
         "KL to the model that the stage started from by kl_loss_type, if a coefficient is not 0",
         "actor/kl_loss", "kl"),
        ("entropy", "nats", "token", "of the policy's next-token distribution",
         "actor/entropy", "entropy"),
        ("clip_frac/low", "share", "token", "clipped at 1 - clip_ratio_low",
         "actor/pg_clipfrac", "clip_ratio/low_mean"),
        ("clip_frac/high", "share", "token", "clipped at 1 + clip_ratio_high",
         "actor/pg_clipfrac", "clip_ratio/high_mean"),
        ("clip_frac/dual", "share", "token", "bounded by clip_ratio_c, negative advantages only",
         "actor/pg_clipfrac_lower"),
        ("grad_norm", "norm", "update", "of the whole gradient, before clipping",
         "actor/grad_norm", "grad_norm"),
        ("learning_rate", "rate", "update", "of this update", "actor/lr", "learning_rate"),
        ("learning_rate/<part>", "rate", "update",
         "of merger and vision_tower, where they train"),
        ("update_skipped", "share", "update", "updates left out, their gradient not finite"),
        ("shared_prefix/used", "0 or 1", "update",
         "groups were computed behind one prompt; 0: learner.shared_prefix is off, or found wrong"),
        ("shared_prefix/self_check", "share", "run",
         "logprobs of the first batch behind one prompt against repeated prompts: norm of the "
         "difference over the norm"),
        ("shared_prefix/self_check_float32", "share", "run",
         "the same batch in float32, whatever the precision of training: largest difference of a "
         "token's attention (values and gradients, kernels of training) or hidden state (a small "
         "model of the policy's class) from plain causal attention; above 1e-4 groups are "
         "computed with repeated prompts"),
    ),
    *rows_of_area(
        "Mismatch of engine and learner",
        ("rollout_is/mean", "ratio", "token", "importance weight learner / engine, before the cap",
         "rollout_corr/rollout_is_mean", "sampling/importance_sampling_ratio/mean"),
        ("rollout_is/max", "ratio", "step", "the largest",
         "rollout_corr/rollout_is_max", "sampling/importance_sampling_ratio/max"),
        ("rollout_is/seq_mean", "ratio", "sequence", "the same of whole responses, a product"),
        ("rollout_is/capped_frac", "share", "token",
         "weights above rollout_is_threshold, or outside of its band"),
        ("rollout_probs_diff/mean", "probability", "token", "|learner - engine| of sampled tokens",
         "training/rollout_probs_diff_mean"),
        ("rollout_probs_diff/max", "probability", "step", "the largest",
         "training/rollout_probs_diff_max"),
        ("parity/max_logprob_diff", "nats", "step", "largest |learner - engine| of a sampled token",
         "", "sampling/sampling_logp_difference/max"),
        ("parity/noise", "nats", "run",
         "in bfloat16: what engine or learner differ by from themselves over the probe's tokens "
         "(root mean square), with other tokens beside them; parity.noise_factor times as much is "
         "the limit of the probe"),
        ("parity/probe_max_logprob_diff", "nats / max(1, |logprob|)", "step",
         "of the probe after the weight update: engines beyond the limit do not serve"),
    ),
    *rows_of_area(
        "Time and throughput",
        ("timing_s/gen", "s", "step", "waiting for rollouts and rewards", "timing_s/gen"),
        ("timing_s/old_log_prob", "s", "step", "logprobs before the first of several updates",
         "timing_s/old_log_prob"),
        ("timing_s/ref", "s", "step", "logprobs of the reference model", "timing_s/ref"),
        ("timing_s/update_actor", "s", "step", "forward, backward and optimiser, of all updates",
         "timing_s/update_actor"),
        ("timing_s/wait_clips", "s", "update",
         "the slowest rank waiting for clips that were not ready on its node; part of "
         "timing_s/update_actor"),
        ("timing_s/update_weights", "s", "step", "weights to the engines, with the probe",
         "timing_s/update_weights"),
        ("timing_s/settle", "s", "step",
         "deterministic runs: waiting for groups to end before the weights change"),
        ("timing_s/sleep", "s", "step",
         "engines going to sleep before the updates, where the recipe wants it"),
        ("timing_s/validate", "s", "step",
         "waiting for a validation before its weights are replaced; what ran beside is not in it",
         "timing_s/testing"),
        ("weights/gb", "GB", "step", "weights sent to the engines"),
        ("weights/gb_per_s", "GB / s", "step",
         "the same over the time of the transfer, from the pause to the resume"),
        ("weights/gather_s", "s", "step",
         "rank 0 gathering ZeRO-3 shards, part of timing_s/update_weights (as those below)"),
        ("weights/pack_s", "s", "step", "copying those that are not in shared memory already"),
        ("weights/wait_s", "s", "step", "neither: waiting until engines had loaded"),
        ("weights/send_s", "s", "step", "the engines' turn, beside gathering and packing"),
        ("weights/load_s", "s", "step", "of that, the slowest engine loading what it was sent"),
        ("weights/lost_s", "s", "step",
         "tries of the update in which an engine failed; in the steps that had one"),
        ("timing_s/archive", "s", "step", "compacting the trace archive"),
        ("timing_s/save", "s", "step", "checkpoint of the step before, if it saved one",
         "timing_s/save_checkpoint"),
        ("timing_s/step", "s", "step", "from the end of the step before to the end of this one",
         "timing_s/step", "step_time"),
        ("perf/time_per_step", "s", "step", "the same, under verl's name for it",
         "perf/time_per_step"),
        ("perf/total_num_tokens", "tokens", "step", "prompt and response of every trace",
         "perf/total_num_tokens", "num_tokens"),
        ("perf/throughput", "tokens / s", "step",
         "perf/total_num_tokens over timing_s/step, all devices (verl: per GPU)",
         "perf/throughput"),
        ("perf/rollout_tokens_per_s", "tokens / s", "step",
         "response tokens over timing_s/gen; too high where rollouts run ahead"),
        ("perf/train_tokens_per_s", "tokens / s", "step",
         "tokens that the learner computed (a group's prompt once) over timing_s/update_actor"),
        ("perf/cpu_memory_used_gb", "GB", "step", "memory in use on the driver's node",
         "perf/cpu_memory_used_gb"),
        ("perf/max_memory_allocated_gb", "GB", "run", "peak of the learner's tensors, per GPU",
         "perf/max_memory_allocated_gb"),
        ("perf/max_memory_reserved_gb", "GB", "run", "peak that torch has reserved, per GPU",
         "perf/max_memory_reserved_gb"),
    ),
    *FLEET_METRICS,
    *rows_of_area(
        "Validation (while a stage trains; step: that of the weights, 0 before training)",
        ("val/accuracy", "share", "clip", "right answers on val; an unparsed one is wrong",
         "val-core/val/acc/mean@1"),
        ("val/macro_f1", "share", "clip", "mean F1 of the labels"),
        ("val/balanced_accuracy", "share", "clip", "mean recall of the labels"),
        ("val/unparsed_frac", "share", "clip", "answers that name no label"),
        ("val/failed_frac", "share", "clip", "clips without a trace: they count as wrong"),
        ("val/reward/mean", "reward", "clip", "total reward, of scored traces",
         "val-aux/val/reward/mean@1", "eval_reward"),
        ("val/reward/<part>/mean", "reward", "clip", "one reward function, before weighting",
         "", "eval_rewards/<part>/mean"),
        ("val/response_length/mean", "tokens", "clip", "length of the traces",
         "", "eval_completions/mean_length"),
        ("val/truncated_frac", "share", "clip", "traces cut at rollout.max_response_length",
         "", "eval_completions/clipped_ratio"),
        ("val/nll", "nats", "token",
         "negative log-likelihood of the val target: a teacher's trace, or the label's code",
         "", "eval_loss"),
        ("val/num_clips", "clips", "validation", "clips asked about"),
        ("val/seconds", "s", "validation", "from the first request to the last figure",
         "", "eval_runtime"),
    ),
    *rows_of_area(
        "Evaluation (stage ``eval``; step: version of the weights)",
        *(
            (f"<stage>/{name}", unit, "clip", meaning)
            for name, unit, meaning in (
                ("accuracy", "share", "right answers; an unparsed one is wrong"),
                ("macro_f1", "share", "mean F1 of the labels"),
                ("balanced_accuracy", "share", "mean recall of the labels"),
                ("ece", "share", "expected calibration error"),
                ("brier", "score", "Brier score, where there are probabilities"),
                ("unparsed_frac", "share", "answers that name no label"),
            )
        ),
        *(
            (f"<stage>/{name}", unit, "rationale", meaning)
            for name, unit, meaning in (
                ("kept_frac", "share", "rationales or captions that no filter drops"),
                ("answered_frac", "share", "those that end with a label"),
                ("right_frac", "share", "those that end with the clip's label"),
                ("other_named_frac", "share",
                 "those whose reasoning names other labels, and never the clip's"),
                ("mean_words", "words", "length of their reasoning"),
                ("empty_frac", "share", "texts without reasoning"),
                ("truncated_frac", "share", "texts cut at the stage's max_length"),
                ("leak_frac", "share", "texts that speak of the label that they were given"),
                ("parse_frac", "share", "texts that end with no label"),
                ("contradiction_frac", "share", "texts that end with another label"),
                ("duplicate_frac", "share", "texts that an earlier one of the same clip has"),
            )
        ),
        ("<stage>/num_taken_up", "groups", "stage",
         "groups of earlier attempts that it has taken from the archive; none: not written"),
    ),
)  # fmt: skip
"""Descriptions in the order of the page; the first that matches a name counts."""

EVALUATION = "eval"
"""The stage under which evaluations are written: ``eval/<stage>/accuracy`` in dashboards."""


def describe(name: str, stage: str = "") -> Metric | None:
    """Description of a figure; None if ``METRICS`` has none, which a test refuses."""
    of_eval = stage == EVALUATION
    known = [metric for metric in METRICS if metric.area.startswith("Evaluation") == of_eval]
    exact = (metric for metric in known if metric.name == name)
    matching = (metric for metric in known if metric.pattern.fullmatch(name))
    return next(exact, None) or next(matching, None)


def pool(name: str, values: Iterable[float]) -> float:
    """One figure for several updates or steps: the largest or smallest of what is one, the last of
    a count so far, else the mean. NaN only where that figure of all is NaN, or the largest is."""
    given = list(values)
    known = [value for value in given if math.isfinite(value)]
    match _pooling(name):
        case "max":
            return max(known) if len(known) == len(given) else math.nan
        case "min":
            return min(known) if len(known) == len(given) else math.nan
        case "last":
            return given[-1]
        case _:
            return fmean(known) if known else math.nan


@functools.lru_cache(4096)
def _pooling(name: str) -> str:
    metric = describe(name)
    words = (metric.name if metric else name).rpartition("/")[2].split("_")
    for extreme in ("max", "min"):
        if extreme in words:
            return extreme
    if words[-1] == "flagged":
        return "max"
    return "last" if metric is not None and metric.per == "run" else "mean"


def verl_names(values: Mapping[str, float]) -> dict[str, float]:
    """Figures that verl has, too, under verl's names."""
    totals: dict[str, float] = {}
    for name, value in values.items():
        metric = describe(name)
        if metric is not None and metric.verl is not None:
            totals[metric.verl] = totals.get(metric.verl, 0.0) + value
    return totals
