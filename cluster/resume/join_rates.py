"""Learning rates where a resumed training is joined to what it goes on from, in words.

old recipe, new recipe, newest checkpoint -> rate of the last update before, of the first one after
"""

from collections.abc import Iterator

from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.stage import Stage
from cluster.config.recipe import RunConfig
from cluster.config.trainings import Training, training_of
from cluster.resume_plan import newest_checkpoint
from cluster.run_dir import RunDir
from cluster.run_files import read_result


def rate_lines(config: RunConfig, run_dir: RunDir) -> Iterator[str]:
    """A line for each training in progress whose learning rate the recipe changes, or whose
    schedule it stretches."""
    before = run_dir.plan.before
    if before is None:
        return
    for stage in config.chain:
        step = newest_checkpoint(run_dir.path, stage.name)
        restarted = stage.name in run_dir.plan.restarted
        if not step or restarted or run_dir.result(stage.name) is not None:
            continue
        was, will = training_of(before.chain.get(stage.name, None)), training_of(stage)
        if was is not None and will is not None and was.curve != will.curve:
            yield f"{stage.name}: {_line(was, will, step, _updates_per_unit(run_dir, stage))}"


def _updates_per_unit(run_dir: RunDir, stage: Stage) -> float | None:
    """Updates per step or epoch of a stage; None: unknown before its rows are counted."""
    if isinstance(stage, GrpoStage):
        return stage.updates_per_step
    result = read_result(run_dir.path, stage.name) or {}
    last, length = result.get("last_step"), result.get("length")
    return last / length if last and length else None


def _line(was: Training, will: Training, step: int, per_unit: float | None) -> str:
    curve = f"{will.optim.decay} schedule of all {will.length} {will.unit}"
    if per_unit is None:
        return f"after update {step} the learning rate follows the {curve}"
    name, done = ("step", step * per_unit) if will.unit == "steps" else ("update", step)
    last = was.optim.learning_rate_at(round(done) - 1, round(was.length * per_unit))
    first = will.optim.learning_rate_at(round(done), round(will.length * per_unit))
    return (
        f"the learning rate goes from {last:.3g} at {name} {step} to {first:.3g} at {name} "
        f"{step + 1}, where the {curve} has it"
    )
