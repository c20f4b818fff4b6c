"""Inputs of control arms: their clips, the policy's answers, their cost and their version steps."""

import asyncio
from collections.abc import Iterable, Sequence

from calibrate.predictions import Prediction, read_predictions
from cluster.config.controls import ARMS, ArmName
from cluster.config.recipe import RunConfig
from cluster.inputs.samples import SampleSplits
from cluster.session import Session
from cluster.stages.policy_versions import FIRST_STEP
from rollout.sampler import Sampler
from wire.archive import read_groups
from wire.errors import DataError
from wire.types import Purpose, Sample, Split, TraceGroup


def own_step(config: RunConfig, arm: ArmName) -> int:
    """First version step of the weights that an arm trains. Each arm has a range of its own after
    that of the stages, and as long. A stage's weights keep their step when an arm loads them."""
    num_steps_of_stages = FIRST_STEP + config.grpo.num_steps + 1
    return (1 + ARMS.index(arm)) * num_steps_of_stages


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
    return data.of(Split(config.calibrate.split))


def trained_clips(config: RunConfig, data: SampleSplits) -> list[Sample]:
    """Clips that GRPO trained on, in the order of its places; at most as many as the verdict was
    trained on."""
    sampler = Sampler(data.of(Split.TRAIN), config.seed, balanced=config.grpo.class_balanced)
    places = range(config.grpo.num_steps * config.grpo.groups_per_step)
    met = list({(sample := sampler.at(place)).id: sample for place in places}.values())
    return met[: len(calibration_clips(config, data))]


def readable(session: Session, samples: Sequence[Sample]) -> list[Sample]:
    """Samples whose clips no stage has found unreadable."""
    return [sample for sample in samples if sample.video not in session.quarantine]


async def policy_answers(session: Session) -> list[tuple[Prediction, TraceGroup | None]]:
    """Predictions of the refined policy on each evaluated clip, with the archived group of its
    trace; None without a trace.

    Raises DataError if the archive has lost a group.
    """
    by_trace: dict[tuple[str, str], TraceGroup] = {}
    for group in await asyncio.to_thread(archived, session, "grpo", Purpose.EVALUATION):
        if group.traces:
            by_trace[group.sample.id, group.traces[0].completion.text] = group
    path = session.run_dir.predictions("grpo")
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
    """Archived groups of a stage or arm; of a group written again after a crash, the last."""
    groups = read_groups(session.run_dir.archive, purpose)
    return list({g.group_id: g for g in groups if g.group_id.startswith(f"{name}/")}.values())
