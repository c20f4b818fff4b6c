"""What ``--resume`` takes up, said before anything starts.

run.json, done.json, checkpoints, archive -> lines for the person
"""

import time
from collections.abc import Iterator, Sequence

from cluster.config import RunConfig
from cluster.grpo import FIRST_STEP, taking_up
from cluster.loop_state import LoopState
from cluster.run_dir import RunDir
from cluster.status import ago
from learner.checkpoint import MANIFEST, latest
from wire.archive import next_attempt
from wire.errors import UserError


def resume_lines(config: RunConfig, run_dir: RunDir, work: Sequence[str]) -> Iterator[str]:
    """Attempt, what has finished, from where the rest goes on, what the recipe changes."""
    yield f"resuming {run_dir.path}: attempt {next_attempt(run_dir.archive)}"
    done = [name for name in work if run_dir.result(name) is not None]
    if done:
        yield "finished: " + ", ".join(_with_accuracy(run_dir, name) for name in done)
    if todo := [name for name in work if name not in done]:
        yield _start_of(config, run_dir, todo[0])
        if len(todo) > 1:
            yield f"then: {', '.join(todo[1:])}"
    if run_dir.changes:
        changed = (f"{c.name} = {c.now!r} (was {c.before!r})" for c in run_dir.changes)
        yield "changed settings: " + ", ".join(changed)


def _with_accuracy(run_dir: RunDir, name: str) -> str:
    result = run_dir.result(name) or {}
    found = result.get("verdict") or result.get("evaluation") or result.get("head") or {}
    return f"{name} {found['accuracy']:.3f}" if "accuracy" in found else name


def _start_of(config: RunConfig, run_dir: RunDir, stage: str) -> str:
    folder = run_dir.checkpoints(stage)
    tag = latest(folder)
    try:
        state = LoopState() if tag is None else LoopState.read(folder / tag)
    except UserError as error:  # the start itself refuses it, and takes the one before
        return f"{stage}: {error}"
    if tag is None:
        start = f"{stage}: from its start, there is no checkpoint"
    else:
        age = ago(max(0.0, time.time() - (folder / tag / MANIFEST).stat().st_mtime))
        where = f"at step {state.step} of {config.grpo.num_steps}, from a checkpoint"
        if stage != "grpo":
            where = f"from the checkpoint after update {state.step},"
        start = f"{stage}: {where} {age} old"
    return start + (_taken_up(config, run_dir, state) if stage == "grpo" else "")


def _taken_up(config: RunConfig, run_dir: RunDir, state: LoopState) -> str:
    """What becomes of the groups that were archived after a checkpoint of the GRPO stage."""
    attempt = next_attempt(run_dir.archive)
    found = taking_up(config, run_dir, "grpo", FIRST_STEP, state, attempt)
    return (f"; {len(found.usable)} archived groups are taken up" if found.usable else "") + (
        f"; {found.num_others} are kept, and written anew: lost weights wrote them"
        if found.num_others
        else ""
    )
