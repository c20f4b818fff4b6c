"""The run that a watcher is given: its recipe, the stage to watch, whether it still goes on."""

from collections.abc import Sequence
from pathlib import Path

from cluster.config.kinds.grpo import GrpoStage
from cluster.config.migration.hint import hint
from cluster.config.recipe import RunConfig
from cluster.fitting.watch_weights import WatchedStage
from cluster.run_files import RECIPE_FILE, read_recipe_file, read_run_recipe
from cluster.status.heartbeat import State
from cluster.status.run_status import read_status
from wire.config import apply_override, validate
from wire.errors import ConfigError


def open_watched(source: Path, stage: str | None = None) -> WatchedStage:
    """The GRPO stage to watch, of a run or of the archive in one; ``stage``: its name, or the last
    one of the run.

    Raises ConfigError for what cannot be watched: no run, no GRPO, no validation.
    """
    run = _run_of(source)
    config = read_run_recipe(run)
    chosen = _stage_of(config, stage)
    validation = chosen.validation
    if not validation.is_on:
        raise ConfigError(
            f"{chosen.name} of {run} is not validated (validate.every = 0), and a watcher fits the "
            f"versions that are measured better on val; resume the run with [{chosen.name}"
            ".validate] every = N, where save_every divides N"
        )
    return WatchedStage(run=run, config=config, stage=chosen)


def run_recipe_with(run: Path, settings: Sequence[str]) -> RunConfig:
    """The recipe of a run with ``a.b=c`` over it, for fits beside it. Raises ConfigError."""
    values = read_recipe_file(run)
    for setting in settings:
        apply_override(values, setting)
    return validate(RunConfig, values, str(run / RECIPE_FILE), hint)


def run_state(run: Path) -> tuple[State, str]:
    """The state of a run, and why it does not go on."""
    status = read_status(run, with_size=False)
    return status.state, status.why


def _run_of(source: Path) -> Path:
    source = source.resolve()
    for folder in (source, source.parent):
        if (folder / RECIPE_FILE).is_file():
            return folder
    if not source.exists():
        raise ConfigError(f"there is no {source}; give the --run-dir of a run to watch")
    raise ConfigError(
        f"{source} is no run, nor the archive in one: watch mode follows a run, whose checkpoints "
        "have the weights of its versions; give its --run-dir, or fit without --watch"
    )


def _stage_of(config: RunConfig, name: str | None) -> GrpoStage:
    stages = {stage.name: stage for stage in config.chain if isinstance(stage, GrpoStage)}
    if not stages:
        raise ConfigError("the run has no GRPO stage, so there are no versions to watch")
    if name is not None and name not in stages:
        raise ConfigError(f"--stage {name}: the run's GRPO stages are {', '.join(stages)}")
    return stages[name] if name is not None else list(stages.values())[-1]
