"""Stage 2: trains the policy by GRPO, with the loops of cluster/loop.py.

version of the weights after step s = first version of the stage (cluster/config/chain.py) + s
"""

import logging
import time
from functools import partial
from typing import Any

from cluster.buffer import GroupBuffer
from cluster.config.guards import GuardsConfig
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.recipe import RunConfig
from cluster.driver.progress import console, progress_bar
from cluster.loop import rollout_loop, run_until_trained, train_loop
from cluster.metrics.effective_time import EffectiveTime
from cluster.metrics.learning_guards import LearningGuards, LearningState
from cluster.metrics.metrics_file import current_rows, read_rows
from cluster.resume.archived_groups import (
    ArchivedGroups,
    reusable_groups,
)
from cluster.resume.checkpoints import Checkpoints
from cluster.resume.loop_state import LoopState
from cluster.run_dir import RunDir
from cluster.run_files import read_history
from cluster.session import Session
from cluster.stages.evaluation import evaluate_policy
from cluster.stages.grpo.figures import (
    CacheHitRates,
)
from cluster.stages.grpo.step import GrpoLearner, GrpoParts
from cluster.stages.grpo.step_limits import StepLimits, replacing_of
from cluster.stages.grpo.training_groups import TrainingGroupWriter
from cluster.stages.hacking_guards import HackingGuards
from cluster.stages.longest_prompt import longest_prompt
from cluster.stages.stage import StageRun, best_kept_of
from cluster.stages.validation import Validation, restored_by
from cluster.stages.validators import grpo_validator
from cluster.weight_sync.turns import Turns
from rollout.sampler import Sampler
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import ConfigError

log = logging.getLogger(__name__)


async def run_grpo_stage(session: Session, run: StageRun) -> dict[str, Any]:
    """Train the policy by GRPO, keep its model, and measure it."""
    validated = await train_grpo(session, run)
    if run.exports:
        await session.learner.export(str(session.run_dir.model(run.name)))
    if session.engine_weights_step != run.last_step:  # it stopped early, or went back to the best
        await session.publish(run.last_step)
    samples = session.data.of(session.config.evaluate.split)
    temperature = session.config.evaluate.temperature
    measured = await evaluate_policy(session, run.name, samples, temperature, trained=True)
    return {**measured, **validated}


async def train_grpo(session: Session, run: StageRun) -> dict[str, Any]:
    """Train the start weights by GRPO; the result stays in the learner. Returns what done.json says
    of the validations."""
    grpo, config = run.of(GrpoStage), session.config
    samples = grpo.clips.of(session.data.samples)
    await session.start_training(run.start.model_dir, grpo.optim, grpo.loss)
    kept = [best_kept_of(grpo), restored_by(grpo.validation)]
    checkpoints = session.checkpoints(grpo.name, grpo.keep_last, kept)
    state = await checkpoints.resume()
    archived = await run_in_daemon_thread(
        _load_reusable_groups, config, session.run_dir, run, state, session.attempt
    )
    await session.preflight(
        grpo.name,
        prompt=await longest_prompt(config, samples, session.prompts),
        response=config.rollout.max_response_length,
        group_size=config.rollout.group_size,
        groups_per_update=grpo.groups_per_update or grpo.groups_per_step,
        refers=grpo.loss.needs_reference,
    )
    await session.publish(run.first_step + state.step)
    parts = _parts(session, run, state, checkpoints, archived)
    sampler = Sampler(samples, config.seed, balanced=grpo.class_balanced)
    writer = TrainingGroupWriter(
        session.writer, grpo.name, archived, config.rollout, seed=config.training_seed
    )
    await parts.cache_hits.of_step()  # what earlier stages asked for is no hit of the first step
    with progress_bar(grpo.name, grpo.num_steps) as bar:
        bar.resume(state.step)
        learner = GrpoLearner(run, parts, bar, state.step)
        async with parts.validation as validation:
            validation.start(state.step)
            count, steps = grpo.groups_per_step, learner.steps()
            replacing = replacing_of(grpo, config.rollout_failure)
            train = train_loop(parts.buffer, learner, steps, count, replacing)
            loops = range(parts.buffer.capacity)
            await run_until_trained(
                train, [rollout_loop(sampler.at, writer, parts.buffer) for _ in loops]
            )
    parts.learning.refuse({}, is_last=True)
    begin = partial(session.start_training, run.start.model_dir, grpo.optim, grpo.loss)
    left_step = await validation.restore_best(learner.step, checkpoints, begin)
    return validation.result(learner.step, left_step)


def _parts(
    session: Session,
    run: StageRun,
    state: LoopState,
    checkpoints: Checkpoints,
    archived: ArchivedGroups,
) -> GrpoParts:
    """The parts of a run's training that goes on from ``state``."""
    grpo, config = run.of(GrpoStage), session.config
    # and the places of replaced groups; those that lie in the archive are among them
    num_places = (grpo.num_steps - state.step) * grpo.groups_per_step
    capacity = (grpo.max_staleness + 1) * grpo.groups_per_step
    guards = HackingGuards(
        config.reward,
        config.prompt_set,
        session.renderer,
        grpo.name,
        state.guards,
        groups_per_step=grpo.groups_per_step,
    )
    validation = Validation(
        grpo.name,
        grpo.validation,
        grpo_validator(session, run),
        session.metrics,
        last_step=grpo.num_steps,
        done=state.validations,
        also=grpo.keep_best_by,
    )
    return GrpoParts(
        learner=session.learner,
        publish=session.publish,
        turns=Turns(config, session.rollouts, session.learner),
        buffer=GroupBuffer(capacity, state.next_index, num_places),
        archived=archived,
        archive=session.archive,
        checkpoints=checkpoints,
        scorer=session.scorer,
        guards=guards,
        learning=_learning_guards(grpo, config.guards, state.learning),
        cache_hits=CacheHitRates(session.rollouts.cache_counts, session.writer.token_counts),
        decoded_clips=session.decoded_clips,
        quarantine=session.quarantine,
        validation=validation,
        metrics=session.metrics,
        timeline=session.timeline,
        workers=lambda: session.rollouts.names,
        fleet=session.fleet_figures,
        effective=_effective_time(session.run_dir, grpo.name, state.step),
        events=session.events,
        limits=StepLimits.of(config, grpo, session.attempt),
        deterministic=config.deterministic,
    )


def _effective_time(run_dir: RunDir, stage: str, step: int) -> EffectiveTime:
    """Time of a training that goes on after ``step``, from the steps that the run has logged."""
    beginnings = read_history(run_dir.path).beginnings
    rows = current_rows(read_rows(run_dir.path / "metrics.jsonl"), beginnings)
    return EffectiveTime.resumed(rows, stage, step, time.time())


def _learning_guards(grpo: GrpoStage, limits: GuardsConfig, state: LearningState) -> LearningGuards:
    return LearningGuards(
        grpo.name,
        limits,
        state,
        num_updates=grpo.num_steps * grpo.updates_per_step,
        groups_per_step=grpo.groups_per_step,
    )


def _load_reusable_groups(
    config: RunConfig, run_dir: RunDir, run: StageRun, state: LoopState, attempt: int
) -> ArchivedGroups:
    """Read the reusable groups. Raises ConfigError if a deterministic run has lost some."""
    grpo = run.of(GrpoStage)
    reusable = reusable_groups(config, run_dir, grpo, run.first_step, state, attempt, run.archived)
    if reusable.num_lost:
        lost = f"{run_dir.archive} lacks {reusable.num_lost} groups that the checkpoint counts on"
        if config.deterministic:
            raise ConfigError(
                f"{lost}: the run cannot go on to the bit; restore them, or set deterministic = "
                "false to go on without"
            )
        log.warning("%s; their places are written anew", lost)
    if reusable.usable or reusable.num_others:
        console.print(
            f"{run.name}: {len(reusable.usable)} archived groups are taken up, "
            f"{reusable.num_others} written anew"
        )
    return ArchivedGroups.of(run_dir.archive, reusable)
