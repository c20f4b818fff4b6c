"""Inputs of control arms: their clips, the policy's answers, and their cost."""

import asyncio
from collections.abc import Iterable

from calibrate.predictions import Prediction, read_predictions
from cluster.config.controls import calibration_of, grpo_of
from cluster.config.recipe import RunConfig
from cluster.config.stage_kinds import GrpoStage
from cluster.inputs.samples import SampleSplits
from cluster.resume.attempts import first_own_attempt
from cluster.session import Session
from rollout.sampler import Sampler
from wire.archive import read_groups
from wire.errors import DataError
from wire.types import Purpose, Sample, Split, TraceGroup


def cost(groups: Iterable[TraceGroup] = (), num_updates: int = 0) -> dict[str, int]:
    """Cost of an arm: its updates, and the traces it wrote, without those it is measured by."""
    completions = [trace.completion for group in groups for trace in group.traces]
    return {
        "num_rollouts": len(completions),
        "num_updates": num_updates,
        "num_generated_tokens": sum(len(c.token_ids) for c in completions),
    }


def calibration_clips(config: RunConfig, data: SampleSplits) -> list[Sample]:
    """Clips that the verdict was trained on."""
    return data.of(Split(calibration_of(config).split))


def trained_clips(config: RunConfig, data: SampleSplits) -> list[Sample]:
    """Clips that GRPO trained on, in the order of its places; at most as many as the verdict was
    trained on."""
    grpo = grpo_of(config)
    clips = grpo.clips.of(data.samples) if isinstance(grpo, GrpoStage) else data.of(Split.TRAIN)
    sampler = Sampler(clips, config.seed, balanced=grpo.class_balanced)
    places = range(grpo.num_steps * grpo.groups_per_step)
    met = list({(sample := sampler.at(place)).id: sample for place in places}.values())
    return met[: len(calibration_clips(config, data))]


async def policy_answers(
    session: Session, policy: str
) -> list[tuple[Prediction, TraceGroup | None]]:
    """Predictions of the policy that a stage left on each evaluated clip, with the archived group
    of its trace; None without a trace.

    Raises DataError if the archive has lost a group.
    """
    by_trace: dict[tuple[str, str], TraceGroup] = {}
    for group in await asyncio.to_thread(archived, session, policy, Purpose.EVALUATION):
        if group.traces:
            by_trace[group.sample.id, group.traces[0].completion.text] = group
    path = session.run_dir.predictions(policy)
    predictions = read_predictions(path)
    wanted = [None if p.trace is None else (p.sample_id, p.trace) for p in predictions]
    if lost := [key[0] for key in wanted if key is not None and key not in by_trace]:
        raise DataError(
            f"{path} has traces of {len(lost)} clips, such as {lost[0]!r}, that are not in "
            f"{session.run_dir.archive}; restore the archive, or run the stages anew"
        )
    groups = [None if key is None else by_trace[key] for key in wanted]
    return list(zip(predictions, groups, strict=True))


def archived(session: Session, name: str, purpose: Purpose) -> list[TraceGroup]:
    """Archived groups of a stage or arm; of a group written again after a crash, the last; none of
    a training that a resume has replaced."""
    first = first_own_attempt(session.run_dir.path, name)
    groups = [
        group
        for group in read_groups(session.run_dir.archive, purpose)
        if group.group_id.startswith(f"{name}/") and group.policy_version.attempt >= first
    ]
    return list({group.group_id: group for group in groups}.values())
