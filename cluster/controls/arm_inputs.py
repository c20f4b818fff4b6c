"""Inputs of control arms: their clips, the policy's answers, and their cost."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from calibrate.predictions import Prediction, iter_predictions
from calibrate.splits import ClipParts
from calibrate.traces import GroupFacts, TraceSet
from cluster.config.controls import calibration_of, grpo_of
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.recipe import RunConfig
from cluster.inputs.samples import SampleSplits
from cluster.resume.attempts import first_own_attempt
from cluster.session import Session
from rollout.sampler import Sampler
from wire.archive.archive import read_tables
from wire.archive.group_reader import GroupReader, GroupsOnDisk, Place, index_groups
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import DataError
from wire.types import Purpose, Sample, Split, TraceGroup, stable_hash

_COUNTED = ["group_id", "attempt", "purpose", "token_ids"]


def cost(
    num_rollouts: int = 0, num_generated_tokens: int = 0, num_updates: int = 0
) -> dict[str, int]:
    """Cost of an arm: its updates, and the traces it wrote, without those it is measured by."""
    return {
        "num_rollouts": num_rollouts,
        "num_updates": num_updates,
        "num_generated_tokens": num_generated_tokens,
    }


def written_cost(traces: TraceSet, num_updates: int = 0) -> dict[str, int]:
    """Cost of an arm that wrote these traces."""
    return cost(traces.num_traces, traces.num_tokens, num_updates)


def calibration_clips(config: RunConfig, data: SampleSplits) -> list[Sample]:
    """Clips that the verdict was trained on: without those held out."""
    return ClipParts.of(data.samples, calibration_of(config)).learned


def trained_clips(config: RunConfig, data: SampleSplits) -> list[Sample]:
    """Clips that GRPO trained on, in the order of its places; at most as many as the verdict was
    trained on."""
    grpo = grpo_of(config)
    clips = grpo.clips.of(data.samples) if isinstance(grpo, GrpoStage) else data.of(Split.TRAIN)
    sampler = Sampler(clips, config.seed, balanced=grpo.class_balanced)
    places = range(grpo.num_steps * grpo.groups_per_step)
    met = list({(sample := sampler.at(place)).id: sample for place in places}.values())
    return met[: len(calibration_clips(config, data))]


async def policy_answers(session: Session, policy: str) -> "PolicyAnswers":
    """The answers of the policy that a stage left on each evaluated clip, with its archived traces.

    Raises DataError if the archive has lost a group.
    """
    return await run_in_daemon_thread(_policy_answers, session, policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAnswers:
    """Answers of a policy, as they were measured, with the traces that gave them."""

    path: Path
    """File of its predictions."""
    traces: TraceSet
    """Of the clips that have a trace, in the order of the predictions."""
    num_without: int
    """Clips without a trace."""

    def with_groups(self) -> Iterator[tuple[Prediction, TraceGroup | None]]:
        """Each prediction with the group of its trace; None without one. Read as they are
        taken."""
        groups = iter(self.traces.groups)
        for prediction in iter_predictions(self.path):
            yield prediction, None if prediction.trace is None else next(groups)


def _policy_answers(session: Session, policy: str) -> PolicyAnswers:
    path, archive = session.run_dir.predictions(policy), session.run_dir.archive
    first = first_own_attempt(session.run_dir.path, policy)
    wanted: dict[tuple[str, str], str | None] = {}
    num_without = 0
    for prediction in iter_predictions(path):
        if prediction.trace is None:
            num_without += 1
        else:
            wanted[prediction.sample_id, stable_hash(prediction.trace)] = None
    places = dict[str, Place]()
    for entry in index_groups(archive, f"{policy}/{Purpose.EVALUATION}/"):
        if entry.version.attempt >= first:
            places[entry.group_id] = entry.place
    reader, labels = GroupReader(places), session.config.label_set
    facts = dict[str, GroupFacts]()
    for group_id in places:
        group = reader.group(group_id)
        if group.traces:
            key = (group.sample.id, stable_hash(group.traces[0].completion.text))
            if key in wanted:
                wanted[key] = group_id
                facts[group_id] = GroupFacts.of(group, labels)
    if lost := [sample_id for (sample_id, _), group_id in wanted.items() if group_id is None]:
        raise DataError(
            f"{path} has traces of {len(lost)} clips, such as {lost[0]!r}, that are not in "
            f"{archive}; restore the archive, or run the stages anew"
        )
    ids = [group_id for group_id in wanted.values() if group_id is not None]
    traces = TraceSet([facts[group_id] for group_id in ids], GroupsOnDisk(reader, ids))
    return PolicyAnswers(path=path, traces=traces, num_without=num_without)


def archived_cost(session: Session, name: str, num_updates: int) -> dict[str, int]:
    """Cost of a stage or arm by its archived training groups: of a group written again after a
    crash, the last; none of a training that a resume has replaced."""
    first = first_own_attempt(session.run_dir.path, name)
    counts: dict[str, tuple[int, int]] = {}
    for table in read_tables(session.run_dir.archive, _COUNTED):
        own = table.filter(
            pc.and_(
                pc.starts_with(table["group_id"], f"{name}/"),
                pc.and_(
                    pc.equal(table["purpose"], Purpose.TRAIN.value),
                    pc.greater_equal(table["attempt"], first),
                ),
            )
        )
        for group_id, rows in itertools.groupby(
            zip(
                own["group_id"].to_pylist(),
                pc.list_value_length(own["token_ids"]).to_pylist(),
                strict=True,
            ),
            key=lambda row: row[0],
        ):
            lengths = [length for _, length in rows if length is not None]
            counts[group_id] = (len(lengths), sum(lengths))
    return cost(
        sum(traces for traces, _ in counts.values()),
        sum(tokens for _, tokens in counts.values()),
        num_updates,
    )
