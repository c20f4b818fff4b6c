"""Watcher of a run with its parts: for the command, and for a job of the service."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from calibrate.config import Method
from cluster.fitting.cores import with_threads
from cluster.fitting.watch import CandidateFitter, Watcher
from cluster.fitting.watch_fit import RunCandidateFitter
from cluster.fitting.watch_log import only_watcher
from cluster.fitting.watch_run import open_watched, run_recipe_with, run_state
from wire.errors import ConfigError


@contextmanager
def open_watcher(
    source: Path,
    out: Path,
    *,
    stage: str | None,
    settings: Sequence[str],
    methods: Sequence[Method],
    num_versions: int,
    num_cores: int | None,
    poll_s: float,
    say: Callable[[str], None],
    debug: bool = False,
    around: Callable[[CandidateFitter], CandidateFitter] = lambda fit: fit,
    published: Callable[[Path], None] = lambda candidate: None,
) -> Iterator[Watcher]:
    """The watcher of a run's GRPO stage, the only one in ``out`` during the block.

    ``num_cores``: that fits keep to; ``around``: wraps the fitter; ``published``: is called with
    each candidate, also with those that an earlier watcher fitted. Raises ConfigError.
    """
    watched = open_watched(source, stage)
    if out.resolve() == watched.run:
        raise ConfigError(f"{out} is the run itself, which is only read; give another OUT")
    out.mkdir(parents=True, exist_ok=True)
    with only_watcher(out):
        config = run_recipe_with(watched.run, settings)
        fit = RunCandidateFitter(
            watched.run,
            watched.stage.name,
            with_threads(config, num_cores),
            methods=methods,
            debug=debug,
        )
        say(f"watching {watched.stage.name} of {watched.run}; candidates go to {out}")
        yield Watcher(
            watched,
            out,
            around(fit),
            state=lambda: run_state(watched.run),
            say=say,
            poll_s=poll_s,
            num_versions=num_versions,
            published=published,
        )
