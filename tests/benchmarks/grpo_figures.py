"""What grpo_step.py measured -> whether it was equal work -> rows to print."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tests.benchmarks.grpo_material import Size
from tests.benchmarks.grpo_ours import OurStep
from tests.benchmarks.grpo_trl import Mode, TrlStep

_GOAL = 3.0


@dataclass(frozen=True)
class Row:
    name: str
    value: float
    unit: str
    limit: float | None = None
    goal: Literal["above", "below"] = "above"

    @property
    def holds(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.goal == "above" else self.value <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All steps of one size, warm-up included."""

    size: Size
    ours: list[OurStep]
    trl: dict[Mode, list[TrlStep]]
    changed: dict[str, float]
    """Largest change of a weight, by side."""
    busy_while_waiting: dict[str, float]
    """Cores that a side uses while another makes its step."""
    settings: dict[str, Any]
    """TRL's, and ours."""


def check_fair(measured: Measured) -> None:
    """Both sides did the same work, and learnt by it."""
    size = measured.size
    for name, change in measured.changed.items():
        assert change > 0, f"{name} has trained nothing"
    tokens = size.rollouts * size.response
    for step in [*measured.ours, *(s for steps in measured.trl.values() for s in steps)]:
        assert step.response_tokens == tokens, f"{step} instead of {tokens} response tokens"
        assert step.prompt_tokens == measured.ours[0].prompt_tokens, f"{step}: another prompt"
        assert math.isfinite(step.loss), f"{step}: no loss"
        assert step.reward_std > 0, f"{step}: nothing to learn from"


def rows_of(measured: Measured) -> list[Row]:
    """The figures of one size, without its warm-up."""
    size, name, ours = measured.size, measured.size.name, measured.ours[1:]
    rows = [
        Row(f"{name}/ours/rollouts_per_s", size.rollouts / _median(ours, "seconds"), "1/s"),
        *[
            Row(f"{name}/ours/{part}", _median(ours, part), "s")
            for part in ("seconds", "generation", "learning", "handoff")
        ],
        Row(f"{name}/ours/busy_in_trl_s_turn", measured.busy_while_waiting["ours"], "cores"),
    ]
    for mode, all_steps in measured.trl.items():
        steps, side = all_steps[1:], f"{name}/trl_{mode}"
        rows += [
            Row(f"{side}/rollouts_per_s", size.rollouts / _median(steps, "seconds"), "1/s"),
            *[
                Row(f"{side}/{part}", _median(steps, part), "s")
                for part in ("seconds", "generation", "old_logprobs", "preparation", "learning")
            ],
            Row(f"{side}/ratio", _ratio(steps, ours, "seconds"), "x", _GOAL),
            Row(f"{side}/ratio_of_learning", _ratio(steps, ours, "learning"), "x"),
            Row(f"{side}/ratio_of_generation", _ratio(steps, ours, "generation"), "x"),
        ]
        if _median(steps, "old_logprobs"):
            spared = [
                (t.seconds - t.old_logprobs) / o.seconds for t, o in zip(steps, ours, strict=True)
            ]
            ratio = statistics.median(spared)
            rows.append(Row(f"{side}/ratio_without_old_logprobs", ratio, "x"))
    for side, change in measured.changed.items():
        rows.append(Row(f"{name}/{side}/largest_weight_change", change, ""))
    return rows


def _median(steps: Sequence[Any], part: str) -> float:
    return statistics.median(getattr(step, part) for step in steps)


def _ratio(theirs: Sequence[TrlStep], ours: Sequence[OurStep], part: str) -> float:
    pairs = zip(theirs, ours, strict=True)
    return statistics.median(getattr(one, part) / getattr(other, part) for one, other in pairs)


def describe(measured: Measured) -> str:
    """What was compared."""
    size, first = measured.size, measured.ours[0]
    lines = [
        f"{size.name}: {size.groups} groups of {size.group_size} a step, prompts of "
        f"{first.prompt_tokens} tokens, {size.vision_tokens} of them vision, responses of "
        f"{size.response}; ours {size.frames} frames of {size.side} px as video, TRL "
        f"{size.images} of them as images",
        f"  ours: {' '.join(measured.settings['ours'].split())}",
    ]
    for mode, steps in measured.trl.items():
        settings = ", ".join(f"{k}={v}" for k, v in measured.settings[mode].items())
        gap = statistics.median(step.logprob_gap for step in steps)
        lines.append(f"  TRL, {mode}: {settings}; sampler and trainer differ by {gap:.2g} nats")
    return "\n".join(lines)


def line_of(row: Row) -> str:
    """As it is printed."""
    text = f"{row.name:42} {row.value:10.3f} {row.unit:6}"
    if row.limit is None:
        return text
    sign = ">=" if row.goal == "above" else "<="
    return f"{text} {sign} {row.limit:g}  {'ok' if row.holds else 'MISSED'}"
