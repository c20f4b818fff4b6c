"""Rules of resuming: which settings a resumed run may change, from when a change holds, and why the
others may not change.

    settings before and now + how far each stage is -> Changes, or ConfigError with the reasons

docs/resume.md shows these rules as a table (cluster/docs/resume_page.py).
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wire.errors import ConfigError

ORDER = "stages.order"
"""Setting that stands for the names of ``[[stages]]``, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A setting that a resumed run changes.

    Example:
        Change(name="grpo.num_steps", before=240, now=480, holds="grpo goes on after step 240")
    """

    name: str
    before: Any
    now: Any
    holds: str = "at once"
    """From when on it holds, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """How far a stage of a run is, by its files."""

    length: int | None = None
    """Steps or epochs that its result is of; None: it has not finished."""
    step: int | None = None
    """Step or update of its newest checkpoint."""
    can_go_on: bool = False
    """Whether its last checkpoint is there, with the optimiser's state."""
    has_policy: bool = False
    """Whether it has finished and left a policy, which another run can start from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Settings that one rule of resuming is for."""

    settings: str
    """In words, for the documentation."""
    pattern: str
    """Regular expression of their dotted names."""
    text: str
    """When a change holds, or why there may be none."""


_OF_STAGE = r"(?:grpo|coldstart|calibrate|stages\.\w+)\."

FREE = (
    Rule(
        settings="`cluster.*`, `logging.*`, `guards.*`, `controls.*`, `parity.*`, `deterministic`, "
        "`fleet_health.*`, `rollout_failure.*`, `watchdog.*`, timeouts, `transfer.port`",
        pattern=r"(?:cluster|fleet_health|rollout_failure|watchdog)\..*|logging(\..*)?|guards\..*|controls\..*|parity\..*|.*timeout_s|deterministic"
        r"|transfer\.port",
        text="at once",
    ),
    Rule(
        settings="`*.num_threads`, `*.num_cpus`, `rollout.num_workers`, `rollout.min_workers`, "
        "`rollout.max_workers`, `rollout.in_flight`, `rollout.max_concurrency`, "
        "`rollout.max_num_seqs`, `rollout.seeded_sampling`, `rollout.sleep`, "
        "`rollout.share_embeddings`, `learner.num_ranks`, `learner.max_restarts`, "
        "`learner.zero_stage`, `learner.offload_while_generating`",
        pattern=r".*num_threads|.*num_cpus|rollout\.(?:num|min|max)_workers|rollout\.in_flight|rollout\.max_concurrency"
        r"|rollout\.max_num_seqs|rollout\.seeded_sampling|rollout\.sleep|rollout\.share_embeddings|learner\.num_ranks|learner\.max_restarts"
        r"|learner\.zero_stage|learner\.offload_while_generating",
        text="at once",
    ),
    Rule(
        settings="`reward.max_failure_frac`, `reward.placement`, `data.check_clips`, "
        "`data.max_quarantine_frac`, `video.cache_*`, `video.decode_*`, `video.decoder`",
        pattern=r"reward\.max_failure_frac|reward\.placement|data\.check_clips|data\.max_quarantine_frac"
        r"|video\.cache_.*|video\.decode_.*|video\.decoder",
        text="at once",
    ),
    Rule(
        settings="`save_every`, `keep_last`, `keep_best` of a stage, `keep_final_checkpoints`, "
        "`stages.NAME.title`",
        pattern=r".*\.save_every|(grpo|stages\.\w+)\.keep_\w+|keep_final_checkpoints"
        r"|stages\.\w+\.title",
        text="from the next checkpoint on",
    ),
    Rule(
        settings="`validate.every`, `before_training`, `patience`, `min_delta`, of a stage, too",
        pattern=r"(?:.*\.)?validate\.(?:every|before_training|patience|min_delta)",
        text="from the next validation on; a stage that an early stop has ended goes on only if it "
        "is made longer, too",
    ),
)
"""Settings that change no result, and so may always change."""

LENGTH = Rule(
    settings="`grpo.num_steps`, `coldstart.epochs`, `calibrate.epochs`, the same of `[[stages]]`",
    pattern=_OF_STAGE + r"(?:num_steps|epochs)",
    text="more: the stage goes on after its last step, also when it has finished; fewer: as long "
    "as no more are done",
)
"""Length of a training."""

JUDGED = Rule(
    settings="`filters`, `closing`, `leak_patterns`, `min_kept_frac` of a stage that writes "
    "rationales",
    pattern=r"(?:rationales|stages\.\w+)\.(?:filters\.\w+|closing|leak_patterns|min_kept_frac)",
    text="until the stage has finished: the texts that are there are judged anew",
)
"""What a stage keeps of the texts that it wrote."""

RATES = Rule(
    settings="`learning_rate`, `merger_learning_rate`, `vision_learning_rate`, `warmup_steps`, "
    "`warmup_frac`, `decay`, `min_lr_frac`, `weight_decay`, `betas`, `grad_clip` of a stage's "
    "`optim`; `calibrate.learning_rate`, `calibrate.warmup_frac`",
    pattern=_OF_STAGE + r"optim\.(?:learning_rate|merger_learning_rate|vision_learning_rate"
    r"|warmup_steps|warmup_frac|decay|min_lr_frac|weight_decay|betas|grad_clip)"
    r"|(?:calibrate|stages\.\w+)\.(?:learning_rate|warmup_frac)",
    text="from the step after the stage's checkpoint on; not for a stage that has finished and is "
    "not made longer",
)
"""Optimiser and schedule of a training."""

REFUSED = (
    Rule(
        settings="`model`",
        pattern=r"model",
        text="the checkpoints and results of this run belong to the weights that it started from",
    ),
    Rule(
        settings="`labels`",
        pattern=r"labels(\..*)?",
        text="the prompts, answers and figures so far are in the other labels",
    ),
    Rule(
        settings="`data.*`",
        pattern=r"data\..*",
        text="the order of the clips, and what was measured so far, belong to the other data",
    ),
    Rule(
        settings="`prompts.*`",
        pattern=r"prompts(\..*)?",
        text="the traces so far answer the other prompt: figures before and after would not "
        "compare",
    ),
    Rule(
        settings="`reward.*`",
        pattern=r"reward\..*",
        text="archived traces that wait to be trained were judged by the other reward",
    ),
    Rule(
        settings="`seed`",
        pattern=r"seed",
        text="the order of the clips comes from it: clips would be asked twice, others never",
    ),
    Rule(
        settings="`video.*`",
        pattern=r"video\..*",
        text="the traces so far are of clips that were shown in another way",
    ),
    Rule(
        settings="`rollout.*`, `evaluate.*`",
        pattern=r"(?:rollout|evaluate)\..*",
        text="traces and figures so far were made with the other setting and would not compare",
    ),
    Rule(
        settings="`learner.*` (parts that train, `lora`, precision), `transfer.*`",
        pattern=r"(?:learner|transfer)\..*",
        text="the checkpoints were written by the other kind of training",
    ),
    Rule(
        settings="all else of `validate`",
        pattern=r"(?:.*\.)?validate\..*",
        text="the validations so far would not compare with those to come",
    ),
    Rule(
        settings="`optim.kind`, `optim.decay_norms` of a stage",
        pattern=r".*\.optim\.\w+",
        text="the optimiser's saved state does not fit another optimiser",
    ),
    Rule(
        settings="`num_groups` of a stage that learns from its own traces",
        pattern=r"stages\.\w+\.num_groups",
        text="its examples are chosen from so many groups; where it follows grpo.num_steps, set it "
        "to what it was, or lengthen the GRPO stage alone (stages.NAME.num_steps)",
    ),
    Rule(
        settings="names and order of `[[stages]]`",
        pattern=ORDER.replace(".", r"\."),
        text="the results belong to the other chain of stages",
    ),
    Rule(
        settings="all else of a stage: objective, clips, groups and batches, where it starts from",
        pattern=r".*",
        text="a stage has one such setting from its first trace to its result",
    ),
)
"""Settings that may not change, with the reason; the first pattern that fits counts."""


def changes_of(
    old: Mapping[str, Any], new: Mapping[str, Any], progress: Mapping[str, StageProgress], run: str
) -> tuple[Change, ...]:
    """Changes from the settings ``old`` to ``new``, by dotted names.

    ``progress``: of each stage of the new chain; ``run``: the run directory, for messages. Raises
    ConfigError that names every setting which may not change, with the reason.
    """
    changes, refused = [], []
    for name in _differing(old, new):
        change = Change(name=name, before=old.get(name), now=new.get(name))
        stage = stage_of(name, progress)
        reason, holds = _judge(change, stage, progress.get(stage, StageProgress()), new)
        if reason:
            refused.append((change, reason))
        else:
            changes.append(Change(name=name, before=change.before, now=change.now, holds=holds))
    if refused:
        raise ConfigError(_refusal(refused, progress, run))
    return tuple(changes)


def stage_of(name: str, stages: Mapping[str, Any]) -> str:
    """The stage that a setting is of; empty for a setting of the whole run, or of a section that
    only gives defaults to ``[[stages]]``."""
    first, _, rest = name.partition(".")
    if first == "stages":
        return rest.partition(".")[0]
    stage = "calibrated" if first == "calibrate" else first
    return stage if stage in stages else ""


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names of settings that differ; of stages that both recipes have: the order names the
    others."""
    both = set(old.get(ORDER, ())) & set(new.get(ORDER, ()))
    parts = {name: name.split(".") for name in sorted(old.keys() | new.keys())}
    return [
        name
        for name, (first, *rest) in parts.items()
        if old.get(name) != new.get(name)
        and (name == ORDER or first != "stages" or rest[0] in both)
    ]


def _judge(
    change: Change, stage: str, progress: StageProgress, new: Mapping[str, Any]
) -> tuple[str, str]:
    """Why a change may not be, or else empty, and when it holds."""
    for rule in FREE:
        if re.fullmatch(rule.pattern, change.name):
            return "", rule.text
    if re.fullmatch(LENGTH.pattern, change.name):
        return _judge_length(change, stage, progress)
    if re.fullmatch(JUDGED.pattern, change.name):
        return _judge_filter(stage, progress)
    if re.fullmatch(RATES.pattern, change.name):
        return _judge_rate(stage, progress, new)
    rule = next(rule for rule in REFUSED if re.fullmatch(rule.pattern, change.name))
    return rule.text, ""


def _judge_length(change: Change, stage: str, progress: StageProgress) -> tuple[str, str]:
    if 0 in (change.before, change.now):
        return "0 epochs leave the stage out, and the results belong to the other chain", ""
    if not stage:
        return "", "at once"
    unit, step = change.name.rpartition(".")[2].removeprefix("num_"), progress.step
    if progress.length is not None:
        if change.now < progress.length:
            return f"{stage} has finished {progress.length} {unit} already", ""
        if change.now > progress.length and not progress.can_go_on:
            return f"{stage} has finished, and the checkpoint that it could go on from is gone", ""
        if change.now == progress.length:
            return "", f"{stage} stays as it has finished"
        return "", f"{stage} goes on after {progress.length} {unit}"
    if step is not None and change.now < (step if unit == "steps" else change.before):
        return (
            f"{stage} has a checkpoint of {unit[:-1] if unit == 'steps' else 'update'} {step}",
            "",
        )
    return "", f"from step {step + 1} of {stage}" if step else f"from the start of {stage}"


def _judge_filter(stage: str, progress: StageProgress) -> tuple[str, str]:
    if stage and progress.length is not None:
        return f"{stage} has finished, and later stages may have learned from what it kept", ""
    return "", f"{stage} judges its texts anew" if stage else "at once"


def _judge_rate(stage: str, progress: StageProgress, new: Mapping[str, Any]) -> tuple[str, str]:
    if not stage:
        return "", "at once"
    if progress.length is not None and _length_in(new, stage) <= progress.length:
        return (
            f"{stage} has finished with the other setting, and nothing of it is left to train; "
            "make it longer to go on, or leave the setting as it was",
            "",
        )
    step = progress.step
    return "", f"from step {step + 1} of {stage}" if step else f"from the start of {stage}"


def _length_in(settings: Mapping[str, Any], stage: str) -> int:
    section = "calibrate" if stage == "calibrated" else stage
    for start in (f"stages.{stage}", section):
        for key in ("num_steps", "epochs"):
            if isinstance(length := settings.get(f"{start}.{key}"), int):
                return length
    return 0


def _refusal(
    refused: Sequence[tuple[Change, str]], progress: Mapping[str, StageProgress], run: str
) -> str:
    reasons: dict[str, list[Change]] = {}
    for change, reason in refused:
        reasons.setdefault(reason, []).append(change)
    faults = "; ".join(
        f"another {', '.join(map(_named, changes))}: {reason}"
        for reason, changes in reasons.items()
    )
    policies = [stage for stage, state in progress.items() if state.has_policy]
    way_out = "start a new run"
    if policies:
        start = shlex.quote(f"{run}:{policies[-1]}")
        way_out += f" from a stage of this one (--from {start} --run-dir NEW)"
    return (
        f"the run in {run} was started with {faults}; resume it with its own recipe, or {way_out}"
    )


def _named(change: Change) -> str:
    values = [repr(value) for value in (change.before, change.now)]
    if any(len(value) > 40 for value in values):
        return change.name
    return f"{change.name} ({values[0]}, now {values[1]})"


def documented() -> Iterator[tuple[str, str, str]]:
    """Rows of the documentation: settings, whether they may change, and when or why not."""
    for rule in (LENGTH, RATES, JUDGED, *FREE):
        yield rule.settings, "yes", rule.text
    for rule in REFUSED:
        yield rule.settings, "no", rule.text
