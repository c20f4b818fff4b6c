"""Guards against a training that learns nothing: count skipped updates, zero gradients, steps
without signal, one text for everything; warn, and end the training beyond a limit.

    an update's figures, a step's groups -> LearningGuards -> figures learning/... , warnings
                                               |
                                               +-> LearnsNothing beyond the limits of [guards]
    figures of a stage's last line -> learning_warnings -> status, report, done.json, summary.json

Counts are of the whole stage: LearningState is in each checkpoint, so that a resumed stage counts
on. A fault has figures once it has been warned of; the figures alone say what was wrong.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cluster.config.guards import GuardsConfig
from wire.errors import LearnsNothing
from wire.types import TraceGroup

log = logging.getLogger(__name__)

Figures = Mapping[str, float | None]

_MIN_GROUPS = 16
"""Groups without signal, one after another, before a warning: a few may be chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to learn nothing.

    Example:
        Fault(name="skipped", unit="updates", says=lambda figures: "...", remedy="...",
              limit="max_skipped_in_a_row")
    """

    name: str
    unit: str
    """Counted in "updates" or "steps"."""
    says: Callable[[Figures], str]
    """Describes the fault in words, after "N of M UNIT"."""
    remedy: str
    limit: str
    """Setting of [guards]: how many one after another end the stage."""

    @property
    def count(self) -> str:
        """Name of the figure that counts the fault in the stage."""
        return f"learning/{self.name}"

    @property
    def streak(self) -> str:
        """Name of the figure that counts how many came one after another, up to now."""
        return f"learning/{self.name}_in_a_row"


def _skipped(figures: Figures) -> str:
    rate = figures.get("learning_rate")
    at = "" if rate is None else f"; the learning rate is {rate:g}"
    return f"were left out, because their gradient was not finite (NaN, infinity){at}"


def _no_signal(figures: Figures) -> str:
    lowest, highest = figures.get("reward/min"), figures.get("reward/max")
    if lowest is not None and lowest == highest:
        return f"no group had signal: every trace earned {lowest:g}"
    if figures.get("truncated_frac") == 1:
        return "no group had signal: every trace was cut at rollout.max_response_length"
    return "no group had signal: the traces of each clip earned the same"


_ONE_TEXT = Fault(
    name="one_text",
    unit="steps",
    says=lambda _: "had one text for all traces, whatever the clip",
    remedy="the policy has collapsed: start again from an earlier checkpoint or stage with a lower "
    "learning rate, a higher rollout.temperature, or grpo.loss.entropy_coeff above 0",
    limit="max_steps_without_signal",
)

FAULTS = (
    Fault(
        name="skipped",
        unit="updates",
        says=_skipped,
        remedy="lower the learning rate (optim.learning_rate), warm up longer (optim.warmup_steps) "
        "and clip the gradient (optim.grad_clip); spoilt weights do not mend, so start the "
        "stage again; where the first update is left out, look for NaN in the model's weights",
        limit="max_skipped_in_a_row",
    ),
    Fault(
        name="zero_gradient",
        unit="updates",
        says=lambda _: "had a gradient of exactly 0",
        remedy="let something train that the loss depends on (learner.freeze_..., "
        "learner.lora.target_modules), and see that its tokens count (grpo.loss.mask_truncated, "
        "rollout_is_threshold); where nll is 0, the examples are learnt by heart: fewer epochs",
        limit="max_zero_gradients_in_a_row",
    ),
    Fault(
        name="no_signal",
        unit="steps",
        says=_no_signal,
        remedy="where all is wrong, give easier clips, a cold start, or a reward of more than two "
        "values (`deepintuit reward lint` finds a constant one); where all is right, end here or "
        "give harder clips; a larger rollout.group_size or rollout.temperature makes traces differ",
        limit="max_steps_without_signal",
    ),
    _ONE_TEXT,
)
"""All faults, in the order in which they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningState:
    """State of the guards after some updates and steps of a stage.

    Example:
        LearningState(updates=40, steps=20, counts={"skipped": 9}, in_a_row={"skipped": 9},
                      warned=("skipped",))
    """

    updates: int = 0
    steps: int = 0
    """Steps of GRPO."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Fault -> updates or steps that had it."""
    in_a_row: Mapping[str, int] = field(default_factory=dict)
    """Fault -> the same, one after another, up to the last."""
    warned: tuple[str, ...] = ()
    """Faults that were warned of."""

    def after(self, unit: str, shown: Mapping[str, bool]) -> "LearningState":
        """The state after one more update or step; ``shown``: fault -> whether it had it."""
        counts, in_a_row = dict(self.counts), dict(self.in_a_row)
        for name, shows in shown.items():
            if shows:
                counts[name] = counts.get(name, 0) + 1
            in_a_row[name] = in_a_row.get(name, 0) + 1 if shows else 0
        changed = replace(self, counts=counts, in_a_row=in_a_row)
        if unit == "updates":
            return replace(changed, updates=self.updates + 1)
        return replace(changed, steps=self.steps + 1)


class LearningGuards:
    """Guards of one training, of a stage or control arm."""

    def __init__(
        self,
        name: str,
        limits: GuardsConfig,
        state: LearningState,
        *,
        num_updates: int,
        groups_per_step: int = 1,
    ) -> None:
        """``state``: where the checkpoint stood; ``num_updates``: of the whole training."""
        self.state = state
        """State after the last update or step, for the checkpoint."""
        self._name, self._limits, self._num_updates = name, limits, num_updates
        self._warn_at = {fault.name: 1 for fault in FAULTS}
        self._warn_at["no_signal"] = -(-_MIN_GROUPS // groups_per_step)

    def observe_update(self, figures: Figures, *, has_signal: bool = True) -> None:
        """Count an update; ``has_signal``: whether its gradient may be expected not to be 0."""
        skipped = bool(figures.get("update_skipped"))
        shown = {"skipped": skipped}
        if has_signal and not skipped:
            shown["zero_gradient"] = figures.get("grad_norm") == 0
        self.state = self.state.after("updates", shown)

    def observe_step(self, groups: Sequence[TraceGroup], *, has_signal: bool) -> None:
        """Count a step of GRPO; ``has_signal``: whether a group of it moves the policy."""
        shown = {"no_signal": not has_signal, "one_text": is_one_text(groups)}
        self.state = self.state.after("steps", shown)

    def warn(self, figures: Figures) -> dict[str, float]:
        """Warn of each fault that has begun, once; ``figures``: of the step. Returns the figures
        ``learning/...`` of the faults that were warned of so far."""
        state = self.state
        for fault in FAULTS:
            begun = state.in_a_row.get(fault.name, 0) >= self._warn_at[fault.name]
            if begun and fault.name not in state.warned:
                state = replace(state, warned=(*state.warned, fault.name))
                sentence = _sentence(fault, {**figures, **_figures(state)})
                log.warning("%s: %s; %s", self._name, sentence, fault.remedy)
        self.state = state
        return _figures(state)

    def refuse(self, figures: Figures, *, is_last: bool = False) -> None:
        """Raise LearnsNothing if the training is beyond a limit; call it when the step's figures
        are written. ``is_last``: no update follows, the training is over or was stopped early."""
        state, limits = self.state, self._limits
        skipped, most = state.counts.get("skipped", 0), limits.max_skipped_frac
        if skipped > most * (state.updates if is_last else self._num_updates):
            raise self._error(FAULTS[0], figures, f"max_skipped_frac = {most:g}")
        for fault in FAULTS:
            limit = getattr(limits, fault.limit)
            if 0 < limit <= state.in_a_row.get(fault.name, 0):
                raise self._error(fault, figures, f"{fault.limit} = {limit}")

    def _error(self, fault: Fault, figures: Figures, limit: str) -> LearnsNothing:
        in_a_row = self.state.in_a_row.get(fault.name, 0)
        state = replace(self.state, warned=(fault.name,))
        sentence = _sentence(fault, {**figures, **_figures(state)})
        last = f", the last {in_a_row} one after another" if in_a_row > 1 else ""
        return LearnsNothing(
            f"{self._name} learns nothing: {sentence}{last} (guards.{limit}); {fault.remedy}"
        )


def is_one_text(groups: Iterable[TraceGroup]) -> bool:
    """Whether all traces are one text, although the clips have different labels."""
    first: str | None = None
    labels = set[str]()
    for group in groups:
        for trace in group.traces:
            first = trace.completion.text if first is None else first
            if trace.completion.text != first:
                return False
            labels.add(group.sample.label)
    return len(labels) > 1


def one_text_warnings(stage: str, groups: Sequence[TraceGroup]) -> list[str]:
    """Warnings of a measured policy that writes one text for everything; also logged, with the
    remedy."""
    if not is_one_text(groups):
        return []
    line = f"all traces of the {len(groups)} measured clips are one text"
    log.warning("%s: %s; %s", stage, line, _ONE_TEXT.remedy)
    return [line]


def learning_warnings(figures: Figures) -> Iterator[str]:
    """Warnings of a stage in words, from the figures of a line of metrics.jsonl."""
    for fault in FAULTS:
        if figures.get(fault.count):
            yield _sentence(fault, figures)


def _figures(state: LearningState) -> dict[str, float]:
    """Figures of the faults that were warned of; none: all is well."""
    figures = {}
    for fault in FAULTS:
        if fault.name in state.warned:
            whole = state.updates if fault.unit == "updates" else state.steps
            figures[f"learning/num_{fault.unit}"] = float(whole)
            figures[fault.count] = float(state.counts[fault.name])
            figures[fault.streak] = float(state.in_a_row[fault.name])
    return figures


def _sentence(fault: Fault, figures: Figures) -> str:
    count, whole = figures.get(fault.count) or 0, figures.get(f"learning/num_{fault.unit}") or 0
    verb = "in " if fault.name == "no_signal" else ""
    return f"{verb}{count:.0f} of {whole:.0f} {fault.unit} {fault.says(figures)}"
