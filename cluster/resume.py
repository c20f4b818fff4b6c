"""What ``--resume`` takes up, said before anything starts.

run.json, done.json, checkpoints, archive -> lines for the person
"""

import time
from collections.abc import Iterator, Sequence

from cluster.config import RunConfig
from cluster.grpo import FIRST_STEP
from cluster.run_dir import RunDir
from cluster.status import ago
from learner.checkpoint import MANIFEST, latest
from wire.archive import next_attempt, read_table


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
    if tag is None:
        return f"{stage}: from its start, there is no checkpoint"
    step = int(tag.removeprefix("step-"))
    age = ago(max(0.0, time.time() - (folder / tag / MANIFEST).stat().st_mtime))
    if stage != "grpo":
        return f"{stage}: from the checkpoint after epoch {step}, {age} old"
    after = _archived_after(run_dir, step)
    return f"grpo: at step {step} of {config.grpo.num_steps}, from a checkpoint {age} old" + (
        f"; {after} groups archived after it are kept, and written anew" if after else ""
    )


def _archived_after(run_dir: RunDir, step: int) -> int:
    """Training groups of the GRPO stage written with weights after a checkpoint's."""
    table = read_table(run_dir.archive, ["group_id", "step"])
    ids, steps = table["group_id"].to_pylist(), table["step"].to_pylist()
    later = (name for name, of in zip(ids, steps, strict=True) if of >= FIRST_STEP + step)
    return len({name for name in later if name.startswith("grpo/0")})
