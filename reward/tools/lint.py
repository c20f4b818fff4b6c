"""Lint of a recipe's rewards: loads each as a run would, tries it on sample traces, reports faults.

    RewardUnderTest -> Scorer with one term -> a value or a failure per trace -> findings

Everything a run would refuse, mask or mislead itself with is a finding; nothing here trains.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from reward.config import RewardTerm
from reward.plugins.signature import Signature
from reward.scorer import Scorer
from reward.tools.arguments import Argument, arguments, explain_style
from reward.tools.sample_traces import (
    RIGHT,
    TYPICAL,
    WRONG,
    SampleTrace,
    as_completion,
    sample_traces,
)
from reward.tools.subject import RewardUnderTest
from wire.errors import UserError
from wire.finding import Area, Finding, Level, error, from_error, warning
from wire.types import Failure, FailureKind, Sample, Score

_MOST_SAMPLES = 3
_MOST_LATE = 3  # cases; then the others would be late, too
_CLOSE_TO_TIMEOUT = 0.5

Value = float | str | None
"""A reward, None (not applicable), or the reason of a failure."""

_Ask = Callable[[Sequence[SampleTrace]], Awaitable[list[Value]]]

_REMEDIES = (
    ("no answer within", "let it answer sooner, or raise the term's timeout_s"),
    ("expected a finite number", "return a finite number: 0 for a wrong answer, None where it "
     "does not apply"),
    ("expected a number, None", "return a number, None, or a dict with 'score'"),
    ("returned a dict without 'score'", "name the reward 'score' in the dict that it returns"),
    ("expected a list of one reward", "return a list with one reward for each completion"),
    ("rewards for", "return one reward for each completion, also for those it cannot read"),
    ("SystemExit", "return a reward instead of ending the process"),
    ("max_processes", "let it start fewer processes, or raise the term's max_processes"),
    ("memory_mb", "let it hold less, or raise the term's memory_mb"),
    ("needs [", "give that parameter a default, or fill the column in every row"),
    ("wrote on the runner's pipe", "let it write to files of its own, and to stdout"),
    ("its process ended", "mend the crash (what it printed last is on stderr)"),
    ("JudgeError", "see that the judge answers, and that it is told to give one score"),
)  # fmt: skip
_RAISES = "catch it: malformed output of the model is a wrong answer, return 0 for it"


@dataclass(frozen=True, slots=True, kw_only=True)
class TermReport:
    """Report about one term."""

    part: str
    function: str
    style: str
    """Whose signature it has, and why; or that it is built in."""
    arguments: tuple[Argument, ...]
    findings: tuple[Finding, ...]
    values: Mapping[str, Value]
    """Name of the sample trace -> its value, on the first sample."""
    slowest_s: float | None
    """The longest wait for one trace; None if none was tried."""


@dataclass(slots=True)
class _Trial:
    """All values that one term gave."""

    failed: dict[str, list[str]] = field(default_factory=dict)
    """Reason of a failure -> names of the sample traces."""
    values: list[dict[str, Value]] = field(default_factory=list)
    """Per sample: name of the sample trace -> value."""
    slowest_s: float = 0.0
    num_late: int = 0
    is_noisy: bool = False
    findings: list[Finding] = field(default_factory=list)


async def lint(subject: RewardUnderTest) -> list[TermReport]:
    """One report per term, in the recipe's order; the terms are tried one after another."""
    return [await _lint_term(subject, term) for term in subject.reward.terms]


async def _lint_term(subject: RewardUnderTest, term: RewardTerm) -> TermReport:
    trial = _Trial()
    signature: Signature | None = None
    try:
        async with subject.scorer(term) as scorer:
            signature = scorer.signatures.get(term.part)
            if why := subject.why_not_tried(term, signature):
                what, _, remedy = why.partition("; ")
                trial.findings.append(warning(Area.REWARD, what, remedy))
            else:
                await _try(scorer, term, subject, trial)
                _judge_trial(term, trial)
    except UserError as refused:
        way = " (here: --set style=verl)" if _is_ambiguous(str(refused), subject) else ""
        trial.findings.insert(0, from_error(Area.REWARD, f"{refused}{way}"))
    known = subject.num_with, subject.num_samples
    filled = arguments(term, signature, *known) if signature else []
    return TermReport(
        part=term.part,
        function=term.function,
        style=_style(term, signature),
        arguments=tuple(filled),
        findings=(*_gaps(filled, signature, *known), *trial.findings),
        values=trial.values[0] if trial.values else {},
        slowest_s=trial.slowest_s if trial.values else None,
    )


def _is_ambiguous(refused: str, subject: RewardUnderTest) -> bool:
    return subject.num_with is None and 'say which with style = "verl"' in refused


def _style(term: RewardTerm, signature: Signature | None) -> str:
    if term.is_builtin:
        return "built in"
    return explain_style(term, signature) if signature else "unknown: it could not be loaded"


def _gaps(
    filled: Sequence[Argument],
    signature: Signature | None,
    num_with: Mapping[str, int] | None,
    num_samples: int,
) -> Iterator[Finding]:
    """Findings about required columns that some rows lack."""
    for argument in filled:
        if signature is None or num_with is None or argument.name not in signature.required:
            continue
        if argument.column and (without := num_samples - num_with[argument.column]):
            what = f"needs column {argument.column}, which {without} of {num_samples} rows lack"
            remedy = "their traces would be masked: give it a default, or fill the column"
            yield error(Area.REWARD, what, remedy)


async def _try(scorer: Scorer, term: RewardTerm, subject: RewardUnderTest, trial: _Trial) -> None:
    """Score every sample trace alone; then the right one once more, and all of them as one
    group."""
    is_paid = term.function == "judge"  # every trace is a request
    asked = list(zip(subject.samples, subject.prompts, strict=True))
    for sample, prompt in asked[: 1 if is_paid else _MOST_SAMPLES]:
        ask = partial(_ask, scorer, term.part, sample, prompt)
        other = next(name for name in subject.labels.names if name != sample.label)
        tried = sample_traces(sample.label, other)
        values = await _alone(ask, tried, trial)
        trial.values.append(values)
        if trial.num_late:  # each further time would be waited for, too
            return
        if not is_paid:
            await _again(ask, tried[0], values[RIGHT], trial)
            await _together(ask, tried, trial)


async def _alone(ask: _Ask, tried: Sequence[SampleTrace], trial: _Trial) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for case in tried:
        begin = time.perf_counter()
        (value,) = await ask([case])
        trial.slowest_s = max(trial.slowest_s, time.perf_counter() - begin)
        values[case.name] = value
        if isinstance(value, str):
            trial.failed.setdefault(value, []).append(case.name)
            trial.num_late += "no answer within" in value
        if trial.num_late == _MOST_LATE:
            break
    return values


async def _again(ask: _Ask, case: SampleTrace, value: Value, trial: _Trial) -> None:
    (again,) = await ask([case])
    if again != value and not isinstance(value, str) and not trial.is_noisy:
        trial.is_noisy = True
        what = f"gave {_shown(value)}, then {_shown(again)} to the same trace"
        remedy = "seed what is random in it, or expect a noisy reward"
        trial.findings.append(warning(Area.REWARD, what, remedy, [case.name]))


async def _together(ask: _Ask, tried: Sequence[SampleTrace], trial: _Trial) -> None:
    values = await ask(tried)
    fresh = {value for value in values if isinstance(value, str) and value not in trial.failed}
    for reason in sorted(fresh):
        what = f"asked about {len(tried)} traces at once: {reason}"
        trial.findings.append(error(Area.REWARD, what, _remedy(reason)))
        trial.failed[reason] = []


async def _ask(
    scorer: Scorer, part: str, sample: Sample, prompt: str, tried: Sequence[SampleTrace]
) -> list[Value]:
    completions = [as_completion(c.text, is_truncated=c.is_truncated) for c in tried]
    return [_value(scored, part) for scored in await scorer.score(sample, completions, prompt)]


def _value(outcome: Score | Failure, part: str) -> Value:
    if isinstance(outcome, Score):
        return outcome.parts[part]
    return None if outcome.kind is FailureKind.NOT_APPLICABLE else outcome.reason


def _judge_trial(term: RewardTerm, trial: _Trial) -> None:
    for reason, where in trial.failed.items():
        if where:
            distinct = list(dict.fromkeys(where))
            trial.findings.append(error(Area.REWARD, reason, _remedy(reason), distinct))
    trial.findings.extend(_doubts(trial.values))
    close = trial.slowest_s > _CLOSE_TO_TIMEOUT * term.timeout_s
    if close and not trial.num_late and not term.is_builtin:
        what = f"took up to {trial.slowest_s:.2g} s for a trace; timeout_s is {term.timeout_s:g}"
        remedy = "raise timeout_s: a busy machine is slower than this one now"
        trial.findings.append(warning(Area.REWARD, what, remedy))


def _doubts(samples: Sequence[Mapping[str, Value]]) -> Iterator[Finding]:
    """Warnings about values that a run would accept, and what its policy would learn from them."""
    escaping = [
        name
        for values in samples
        for name, value in values.items()
        if value is None and name not in TYPICAL and values.get(RIGHT) is not None
    ]
    if escaping:
        what = "does not apply (None) to malformed traces that it could read otherwise"
        remedy = "return 0: what is masked costs a policy nothing, so it may learn to write it"
        yield warning(Area.REWARD, what, remedy, list(dict.fromkeys(escaping)))
    for values in samples:
        right, wrong = values.get(RIGHT), values.get(WRONG)
        if isinstance(right, float) and isinstance(wrong, float) and wrong > right:
            what = f"gives the wrong answer {_shown(wrong)}, the right one {_shown(right)}"
            remedy = "turn its sign, or give it a negative weight, unless that is meant"
            yield warning(Area.REWARD, what, remedy)
            break
    given = {value for values in samples for value in values.values()}
    if len(given) == 1 and not isinstance(value := given.pop(), str):
        what = f"gives {_shown(value)} to every trace that was tried"
        remedy = "see that it reads the completion: a constant teaches nothing"
        yield warning(Area.REWARD, what, remedy)


def _remedy(reason: str) -> str:
    return next((remedy for sign, remedy in _REMEDIES if sign in reason), _RAISES)


def _shown(value: Value) -> str:
    return f"{value + 0.0:g}" if isinstance(value, float) else str(value)  # no -0


def count(reports: Sequence[TermReport], level: Level) -> int:
    """Number of findings of a level, over all terms."""
    return sum(finding.level is level for report in reports for finding in report.findings)
