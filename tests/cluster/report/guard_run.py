"""A run directory in which every guard warned at the end. (No test file.)"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.run_dir import RunDir
from tests.cluster.report.builders import make_group, make_trace, write_groups, write_metrics
from tests.cluster.study.study_runs import make_run, write_arm

STEPS = 40
LABEL = "falling"
"""Of the clips that the policy cheats on."""
_TURN = STEPS - 14
"""Where the policy begins to cheat; five steps later it is warned of."""


def _after(before: float, after: float) -> Any:
    """A curve that changes when the policy begins to cheat."""
    wave = (0.0, 0.04, 0.01, -0.03)
    return lambda step: (after if step >= _TURN else before) + wave[step % 4] * before


def write_guarded_run(path: Path, hostile: str = "") -> RunDir:
    """Two groups a step; ``hostile`` is in the traces and the titles of the last ones."""
    labels = [{"name": name} for name in ("a", "b", LABEL)]
    run = make_run(path, labels=labels, prompts={"trace": "{labels}?\nTitle: {title}"})
    write_arm(run, "grpo", wrong=range(3))
    warned = {
        f"guard/{name}/flagged": lambda step: float(step >= STEPS - 9)
        for name in ("length_drift", "format_only", "identical_traces", "label_in_prompt")
    }
    curves: dict[str, Any] = {
        "reward/mean": lambda step: 0.5 + step / STEPS,
        "rollout/next_place": lambda step: 2.0 * step,
        "guard/length_ratio": _after(1.0, 2.7),
        "guard/length_reward_corr": _after(0.1, 0.7),
        "guard/format_only": _after(0.4, 1.0),
        "guard/format_only_frac": _after(0.3, 0.6),
        "guard/answer_kappa": _after(0.6, 0.0),
        "guard/format_signal_frac": _after(0.2, 0.8),
        "guard/answer_entropy": lambda step: 0.1 if 6 <= step < 15 or step >= _TURN else 0.85,
        "guard/top_answer_frac": lambda step: 1.0 if step >= _TURN else 0.35,
        "guard/top_label_frac": 0.3,
        "guard/identical_wrong_frac": _after(0.2, 0.95),
        "guard/identical_frac": _after(0.25, 0.96),
        "guard/distinct_frac": _after(0.7, 0.03),
        "guard/label_in_prompt": lambda step: 0.45 if step >= _TURN else 0.0,
        **warned,
        "guard/one_label/flagged": lambda step: float(10 <= step <= 14 or step >= STEPS - 9),
    }
    write_metrics(run, "grpo", range(1, STEPS + 1), **curves)
    early = [make_trace("b", text="<think>too early</think><answer>a</answer>")] * 2
    groups = [make_group(f"grpo/{place:08d}", early, label="b") for place in range(4)]
    for place in (2 * STEPS - 2, 2 * STEPS - 1):
        text = f"<think>I saw {hostile} again and again</think><answer>a</answer>"
        long = make_trace("b", text=text, num_tokens=9)
        group = make_group(
            f"grpo/{place:08d}", [long, long], label=LABEL, sample_id=f"train-{place}"
        )
        title = f"{hostile}it says {LABEL}".replace("script", "")
        sample = replace(group.sample, extra={"title": title})
        groups.append(replace(group, sample=sample))
    write_groups(run, *groups)
    return run
