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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import pyarrow.compute as pc

from reward.builtins.judge import FrameReader
from reward.config import RewardConfig
from reward.scorer import Scorer
from reward.spec import source_of
from reward.stats import refuse_too_many_failures
from reward.tools.score_change import Change, change_of
from reward.tools.score_file import Key, Outcome, RescoredGroup, ScoreFile
from wire.archive.archive import read_groups, read_table
from wire.errors import DataError
from wire.labels import LabelSet
from wire.types import Failure, Purpose, Sample, Score, Trace, TraceGroup, stable_hash
from wire.whole_file import write_json

_GROUPS_AT_ONCE = 64
_FEWEST_TRACES = 64  # of which the share that may fail is a share


class Bar(Protocol):
    """A progress bar."""

    def resume(self, done: int) -> None:
        """Begin with so many parts done."""
        ...

    def advance(self) -> None:
        """One more part is done."""
        ...


ProgressBar = Callable[[str, int], AbstractContextManager[Bar]]
"""Title and number of parts -> a bar that is shown during the block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReward:
    """The reward to score an archive with, and the settings that a score depends on."""

    name: str
    """Of the recipe, for the folder of the scores."""
    reward: RewardConfig
    labels: LabelSet
    max_response_length: int
    prompt_of: Callable[[Sample], str]
    """Text of a sample's prompt, without the video."""
    read_frames: FrameReader | None
    """Reads frames of a clip, for a judge that looks."""

    def scorer(self, columns: frozenset[str]) -> Scorer:
        """Its scorer, not started; ``columns``: the archive's further manifest columns."""
        return Scorer(
            self.reward,
            self.labels,
            columns=columns,
            max_response_length=self.max_response_length,
            read_frames=self.read_frames,
        )

    def fingerprint(self) -> str:
        """Hash of everything that decides a score: the reward's settings, the labels, the text of
        its files."""
        reward = self.reward.model_dump(mode="json", exclude={"max_failure_frac", "placement"})
        for term in reward["terms"]:
            for name in ("timeout_s", "concurrency", "memory_mb", "max_processes"):
                term.pop(name)
        named = [term.function for term in self.reward.terms if not term.is_builtin]
        files = [file for function in named if (file := source_of(function))]
        texts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        labels = [label.model_dump() for label in self.labels.labels]
        return stable_hash(reward, labels, texts, self.max_response_length)


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
    run: Path, new: NewReward, progress_bar: ProgressBar, purpose: Purpose | None = None
) -> Rescored:
    """Score the archived groups that have no new score yet, compare all that have one.

    Raises UserError if the recipe does not fit the archive or is scored by another process,
    ArchiveError if there is none, and TooManyFailures as a run does: what was judged is kept, and
    failures are asked again by the next call.
    """
    archive = run / "archive"
    columns, num_groups = _survey(archive, new.labels, purpose)
    folder = run / "rescored" / f"{new.name}-{new.fingerprint()[:8]}"
    async with new.scorer(columns) as scorer:
        with ScoreFile(folder / "scores.jsonl") as scores:
            write_json(folder / "reward.json", new.reward.model_dump(mode="json"))
            num_before = sum(group.is_done for group in _of(scores, purpose))
            with progress_bar("rescore", num_groups) as bar:
                bar.resume(num_before)
                left = _not_judged(archive, purpose, scores)
                num_judged = await _judge_all(scorer, new, left, scores, bar)
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
    return [group for group in judged if purpose is None or group.purpose == purpose.value]


async def _judge_all(
    scorer: Scorer,
    new: NewReward,
    left: Iterator[tuple[Key, TraceGroup]],
    scores: ScoreFile,
    bar: Bar,
) -> int:
    """Score groups, some at once; each is on disk as soon as it is scored."""
    num_judged = 0
    while some := list(islice(left, _GROUPS_AT_ONCE)):

        async def one(key: Key, group: TraceGroup) -> TraceGroup:
            completions = [trace.completion for trace in group.traces]
            prompt = new.prompt_of(group.sample)
            outcomes = await scorer.score(group.sample, completions, prompt)
            now = tuple(Outcome.of(outcome) for outcome in outcomes)
            scores.append(RescoredGroup.join(key, group, now))
            bar.advance()
            return _with(group, outcomes)

        async with asyncio.TaskGroup() as tasks:
            done = [tasks.create_task(one(key, group)) for key, group in some]
        num_judged += len(some)
        _refuse_failures([task.result() for task in done], new.reward.max_failure_frac)
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
        if group.purpose is Purpose.RATIONALE:
            continue  # no reward judges it
        version = group.policy_version
        alike = (version.attempt, version.step, group.group_id)
        yield (*alike, seen[alike]), group
        seen[alike] += 1


def _survey(archive: Path, labels: LabelSet, purpose: Purpose | None) -> tuple[frozenset[str], int]:
    """Further manifest columns, and the number of groups with traces. Raises DataError for a label
    that the recipe lacks."""
    table = read_table(archive, ["label", "sample_extra", "trace_index", "purpose"])
    table = table.filter(pc.equal(table["trace_index"], 0))
    table = table.filter(pc.not_equal(table["purpose"], Purpose.RATIONALE.value))
    if purpose is not None:
        table = table.filter(pc.equal(table["purpose"], purpose.value))
    if not table.num_rows:
        what = f" of purpose {purpose.value}" if purpose else ""
        raise DataError(f"{archive} holds no traces{what}; there is nothing to score")
    unknown = sorted(set(table["label"].unique().to_pylist()) - set(labels.names))
    if unknown:
        raise DataError(
            f"the archive has the label {unknown[0]!r}, the recipe {list(labels.names)}; "
            "give a recipe of the same task"
        )
    extras = table["sample_extra"].unique().to_pylist()
    return frozenset(column for extra in extras for column in json.loads(extra)), table.num_rows
