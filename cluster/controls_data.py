"""What control arms work on, what they cost, and the versions of the weights they make."""

import asyncio
from collections.abc import Iterable, Sequence

from calibrate.predictions import Prediction, read_predictions
from cluster.config import ARMS, ArmName, RunConfig
from cluster.data import Data
from cluster.grpo import FIRST_STEP
from cluster.sampler import Sampler
from cluster.session import Session
from wire.archive import read_groups
from wire.errors import DataError
from wire.types import Purpose, Sample, Split, TraceGroup


def own_step(config: RunConfig, arm: ArmName) -> int:
    """The first version step of the weights that an arm makes: a range of its own, as long as that
    of the stages, behind it. A stage's weights keep their step when an arm loads them."""
    num_steps_of_stages = FIRST_STEP + config.grpo.num_steps + 1
    return (1 + ARMS.index(arm)) * num_steps_of_stages


def cost(groups: Iterable[TraceGroup] = (), num_updates: int = 0) -> dict[str, int]:
    """What an arm spent: the traces it wrote, other than those it is measured by, and updates."""
    completions = [trace.completion for group in groups for trace in group.traces]
    return {
        "num_rollouts": len(completions),
        "num_updates": num_updates,
        "num_generated_tokens": sum(len(c.token_ids) for c in completions),
    }


def calibration_clips(config: RunConfig, data: Data) -> list[Sample]:
    """The clips that the verdict was trained on."""
    return data.of(Split(config.calibrate.split))


def trained_clips(config: RunConfig, data: Data) -> list[Sample]:
    """Clips that GRPO trained on, in the order in which it met them; at most as many as the verdict
    was trained on."""
    sampler = Sampler(data.of(Split.TRAIN), config.seed, balanced=config.grpo.class_balanced)
    places = range(config.grpo.num_steps * config.grpo.groups_per_step)
    met = list({(sample := sampler.at(place)).id: sample for place in places}.values())
    return met[: len(calibration_clips(config, data))]


def readable(session: Session, samples: Sequence[Sample]) -> list[Sample]:
    """Samples whose clips no stage has found unreadable."""
    return [sample for sample in samples if sample.video not in session.quarantine]


async def policy_answers(session: Session) -> list[tuple[Prediction, TraceGroup | None]]:
    """What the refined policy said of each evaluated clip, with the archived trace that says it;
    None where there is no trace.

    Raises DataError if the archive has lost one.
    """
    found: dict[tuple[str, str], TraceGroup] = {}
    for group in await asyncio.to_thread(archived, session, "grpo", Purpose.EVALUATION):
        if group.traces:
            found[group.sample.id, group.traces[0].completion.text] = group
    path = session.run_dir.predictions("grpo")
    predictions = read_predictions(path)
    wanted = [None if p.trace is None else (p.sample_id, p.trace) for p in predictions]
    if lost := [key[0] for key in wanted if key is not None and key not in found]:
        raise DataError(
            f"{path} has traces of {len(lost)} clips, such as {lost[0]!r}, that are not in "
            f"{session.run_dir.archive}; restore the archive, or run the stages anew"
        )
    groups = [None if key is None else found[key] for key in wanted]
    return list(zip(predictions, groups, strict=True))


def archived(session: Session, name: str, purpose: Purpose) -> list[TraceGroup]:
    """The groups that a stage or arm wrote; of those written again after a crash, the last."""
    groups = read_groups(session.run_dir.archive, purpose)
    return list({g.group_id: g for g in groups if g.group_id.startswith(f"{name}/")}.values())
