"""Score an archive again under another recipe, offline: what would the reward have said?

    RUN/archive -> groups not judged yet -> Scorer -> RUN/rescored/NAME-HASH/scores.jsonl -> Change

The archive is only read. NAME is the recipe's, HASH that of its reward, its labels, and the files
of its functions, so that a changed reward never goes on in the scores of another. A run may go on
meanwhile: what it writes later is scored by the next call.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import pyarrow.compute as pc

from cluster.config import RunConfig
from cluster.progress import Bar, progress_bar
from cluster.rewards.score_change import Change, change_of
from cluster.rewards.score_file import Key, Outcome, RescoredGroup, ScoreFile
from cluster.scoring import make_scorer, prompt_text
from reward.scorer import Scorer
from reward.spec import source_of
from reward.stats import refuse_too_many_failures
from wire.archive import read_groups, read_table
from wire.errors import DataError
from wire.types import Failure, Purpose, Score, Trace, TraceGroup, stable_hash
from wire.whole_file import write_json

_GROUPS_AT_ONCE = 64
_FEWEST_TRACES = 64  # of which the share that may fail is a share


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
    """Result of a rescore."""

    folder: Path
    num_before: int
    """Groups that an earlier call had scored."""
    num_judged: int
    """Groups that this call scored."""
    change: Change


async def rescore(
    run: Path, config: RunConfig, name: str, purpose: Purpose | None = None
) -> Rescored:
    """Score the archived groups that have no new score yet, compare all that have one; ``name``:
    the recipe's.

    Raises UserError if the recipe does not fit the archive or is scored by another process,
    ArchiveError if there is none, and TooManyFailures as a run does: what was judged is kept, and
    failures are asked again by the next call.
    """
    archive = run / "archive"
    columns, num_groups = _survey(archive, config, purpose)
    folder = run / "rescored" / f"{name}-{_hash_of(config)[:8]}"
    async with make_scorer(config, columns) as scorer:
        with ScoreFile(folder / "scores.jsonl") as scores:
            write_json(folder / "reward.json", config.reward.model_dump(mode="json"))
            num_before = sum(it.is_done for it in _of(scores, purpose))
            with progress_bar("rescore", num_groups) as bar:
                bar.resume(num_before)
                left = _not_judged(archive, purpose, scores)
                num_judged = await _judge_all(scorer, config, left, scores, bar)
            change = change_of(_of(scores, purpose))
            write_json(folder / "change.json", asdict(change))
    return Rescored(folder=folder, num_before=num_before, num_judged=num_judged, change=change)


def _not_judged(
    archive: Path, purpose: Purpose | None, scores: ScoreFile
) -> Iterator[tuple[Key, TraceGroup]]:
    for key, group in _numbered(archive, purpose):
        known = scores.judged.get(key)
        if group.traces and (known is None or not known.is_done):
            yield key, group


def _of(scores: ScoreFile, purpose: Purpose | None) -> list[RescoredGroup]:
    judged = scores.judged.values()
    return [it for it in judged if purpose is None or it.purpose == purpose.value]


async def _judge_all(
    scorer: Scorer,
    config: RunConfig,
    left: Iterator[tuple[Key, TraceGroup]],
    scores: ScoreFile,
    bar: Bar,
) -> int:
    """Score groups, some at once; each is on disk as soon as it is scored."""
    num_judged = 0
    while some := list(islice(left, _GROUPS_AT_ONCE)):

        async def one(key: Key, group: TraceGroup) -> TraceGroup:
            completions = [trace.completion for trace in group.traces]
            prompt = prompt_text(config, group.sample)
            outcomes = await scorer.score(group.sample, completions, prompt)
            now = tuple(Outcome.of(outcome) for outcome in outcomes)
            scores.append(RescoredGroup.join(key, group, now))
            bar.advance()
            return _with(group, outcomes)

        async with asyncio.TaskGroup() as tasks:
            done = [tasks.create_task(one(key, group)) for key, group in some]
        num_judged += len(some)
        _refuse_failures([task.result() for task in done], config.reward.max_failure_frac)
    return num_judged


def _with(group: TraceGroup, outcomes: Sequence[Score | Failure]) -> TraceGroup:
    traces = tuple(
        Trace(completion=trace.completion, outcome=outcome)
        for trace, outcome in zip(group.traces, outcomes, strict=True)
    )
    return replace(group, traces=traces)


def _refuse_failures(groups: Sequence[TraceGroup], max_failure_frac: float) -> None:
    num_traces = sum(len(group.traces) for group in groups)
    num_failed = sum(len(g.traces) - len(g.scored) for g in groups)
    if num_failed > max_failure_frac * max(num_traces, _FEWEST_TRACES):
        refuse_too_many_failures(groups, max_failure_frac)


def _numbered(archive: Path, purpose: Purpose | None) -> Iterator[tuple[Key, TraceGroup]]:
    """Groups, each with a key of its own."""
    seen: Counter[tuple[int, int, str]] = Counter()
    for group in read_groups(archive, purpose):
        version = group.policy_version
        alike = (version.attempt, version.step, group.group_id)
        yield (*alike, seen[alike]), group
        seen[alike] += 1


def _survey(
    archive: Path, config: RunConfig, purpose: Purpose | None
) -> tuple[frozenset[str], int]:
    """Further manifest columns, and the number of groups with traces. Raises DataError for a label
    that the recipe lacks."""
    table = read_table(archive, ["label", "sample_extra", "trace_index", "purpose"])
    table = table.filter(pc.field("trace_index") == 0)
    if purpose is not None:
        table = table.filter(pc.field("purpose") == purpose.value)
    if not table.num_rows:
        what = f" of purpose {purpose.value}" if purpose else ""
        raise DataError(f"{archive} holds no traces{what}; there is nothing to score")
    unknown = sorted(set(table["label"].unique().to_pylist()) - set(config.label_set.names))
    if unknown:
        raise DataError(
            f"the archive has the label {unknown[0]!r}, the recipe {list(config.label_set.names)}; "
            "give a recipe of the same task"
        )
    extras = table["sample_extra"].unique().to_pylist()
    return frozenset(column for extra in extras for column in json.loads(extra)), table.num_rows


def _hash_of(config: RunConfig) -> str:
    """Hash of everything that decides a score: the reward's settings, the labels, the text of its
    files."""
    reward = config.reward.model_dump(mode="json", exclude={"max_failure_frac"})
    for term in reward["terms"]:
        for name in ("timeout_s", "concurrency", "memory_mb", "max_processes"):
            term.pop(name)
    named = [term.function for term in config.reward.terms if not term.is_builtin]
    files = [file for function in named if (file := source_of(function))]
    texts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    labels = [label.model_dump() for label in config.labels]
    limit = config.rollout.max_response_length
    return stable_hash(reward, labels, texts, limit)
