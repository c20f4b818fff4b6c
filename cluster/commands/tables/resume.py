"""Summary of a resumed run, printed before anything starts.

run.json, done.json, checkpoints, archive -> lines for the user
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.config.arm_names import ARMS
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.recipe import RunConfig
from cluster.driver.units import format_duration
from cluster.resume.archived_groups import ReusableGroups, reusable_groups
from cluster.resume.join_rates import rate_lines
from cluster.resume.loop_state import LoopState
from cluster.run_dir import RunDir
from cluster.run_files import read_result, replaced_folder, result_figures
from learner.checkpoint import MANIFEST, latest
from wire.archive.archive import next_attempt
from wire.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeSummary:
    """What a resumed run takes up."""

    lines: tuple[str, ...]
    """Attempt, what has finished, from where the rest goes on, what the recipe changes."""
    archived: ReusableGroups | None
    """The archived groups for GRPO, if that is what goes on; for ``run_stages``."""


def summarise_resume(config: RunConfig, run_dir: RunDir, work: Sequence[str]) -> ResumeSummary:
    """Read what a run left of its stages ``work``, and its archive if GRPO goes on."""
    lines = [f"resuming {run_dir.path}: attempt {next_attempt(run_dir.archive)}"]
    archived = None
    done = [name for name in work if run_dir.result(name) is not None]
    if done:
        lines.append("finished: " + ", ".join(_with_accuracy(run_dir, name) for name in done))
    if todo := [name for name in work if name not in done]:
        start, archived = _start_of(config, run_dir, todo[0])
        lines.append(start)
        if len(todo) > 1:
            lines.append(f"then: {', '.join(todo[1:])}")
    lines += _change_lines(run_dir)
    lines += rate_lines(config, run_dir)
    return ResumeSummary(lines=tuple(lines), archived=archived)


def _change_lines(run_dir: RunDir) -> Iterator[str]:
    """What the recipe changes and from when on, and what is done anew because of it."""
    plan = run_dir.plan
    for change in plan.changes:
        yield f"changed: {change.name} = {change.now!r} (was {change.before!r}), {change.holds}"
    left = [name for name in plan.restarted if read_result(run_dir.path, name) is not None]
    if left:
        attempt = next_attempt(run_dir.archive)
        arms = [name for name in left if name in ARMS]
        yield (
            f"done anew, as {' and '.join(plan.reopened)} will leave other weights: "
            f"{', '.join(left)}; what they left goes to {replaced_folder(run_dir.path, attempt)}"
            + ("; `deepintuit controls` runs the arms again" if arms else "")
        )


def _with_accuracy(run_dir: RunDir, name: str) -> str:
    figures = result_figures(run_dir.result(name) or {})
    return f"{name} {figures['accuracy']:.3f}" if "accuracy" in figures else name


def _start_of(config: RunConfig, run_dir: RunDir, stage: str) -> tuple[str, ReusableGroups | None]:
    folder, grpo = run_dir.checkpoints(stage), config.chain.get(stage, None)
    tag = latest(folder)
    try:
        state = LoopState() if tag is None else LoopState.read(folder / tag)
    except UserError as error:  # the start itself refuses it, and takes the one before
        return f"{stage}: {error}", None
    if tag is None:
        start = f"{stage}: from its start, there is no checkpoint"
    else:
        age = format_duration(max(0.0, time.time() - (folder / tag / MANIFEST).stat().st_mtime))
        where = f"from the checkpoint after update {state.step},"
        if isinstance(grpo, GrpoStage):
            where = f"at step {state.step} of {grpo.num_steps}, from a checkpoint"
        start = f"{stage}: {where} {age} old"
    if not isinstance(grpo, GrpoStage):
        return start, None
    first_step, attempt = config.chain.first_step(stage), next_attempt(run_dir.archive)
    archived = reusable_groups(config, run_dir, grpo, first_step, state, attempt)
    return start + _taken_up(archived), archived


def _taken_up(groups: ReusableGroups) -> str:
    """What becomes of the groups that were archived after a checkpoint of a GRPO stage."""
    return (f"; {len(groups.usable)} archived groups are taken up" if groups.usable else "") + (
        f"; {groups.num_others} are kept, and written anew: lost weights wrote them"
        if groups.num_others
        else ""
    )
