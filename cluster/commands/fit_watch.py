"""The option --watch of the command fit: candidates of a run that is still training."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.base import say
from wire.errors import ConfigError, UserError

if TYPE_CHECKING:
    from cluster.fitting.watch import WatchSummary

_OF_ONE_FIT = ("recipe", "model", "stage", "versions", "allow_foreign", "json")


def add_watch(command: Any) -> None:
    """Add the options of watch mode."""
    group = command.add_argument_group("watch mode")
    group.add_argument(
        "--watch",
        action="store_true",
        help="follow a run that is still training: fit a candidate at each new version of its "
        "policy that is measured better on val, until the run ends (docs/watch.md)",
    )
    group.add_argument(
        "--watch-stage", metavar="NAME", help="the GRPO stage to watch; default: the last one"
    )
    group.add_argument(
        "--last",
        type=int,
        default=4,
        metavar="N",
        help="learn from the training traces of the last N versions; default: 4",
    )
    group.add_argument(
        "--poll-s", type=float, default=5.0, metavar="S", help="seconds between looks; default: 5"
    )
    group.add_argument(
        "--num-cpus", type=int, metavar="N", help="cores that the fits may use; default: all"
    )


def watch(source: Path, out: Path, options: argparse.Namespace) -> None:
    """Watch the run of ``source`` until it has ended, with candidates in ``out``."""
    from cluster.driver.interrupts import run_interruptibly
    from cluster.fitting.open_watcher import open_watcher

    _refuse_others(options)
    _refuse_numbers(options)
    _keep_to(options.num_cpus)
    with open_watcher(
        source,
        out,
        stage=options.watch_stage,
        settings=fit_settings(options),
        methods=tuple(options.methods or ()),
        num_versions=options.last,
        num_cores=options.num_cpus,
        poll_s=options.poll_s,
        say=say,
        debug=options.debug,
    ) as watcher:
        summary = run_interruptibly(watcher.run(), say, lambda: None)
    for line in summary_lines(summary):
        say(line)
    if summary.fault is not None:
        raise UserError(f"{summary.fault}, and give the same command again to go on")


def summary_lines(summary: "WatchSummary") -> Iterator[str]:
    """A summary in words."""
    yield f"the run has {summary.state}"
    yield f"{summary.num_versions} versions measured, {len(summary.fitted)} fitted"
    best = summary.best
    if best is None:
        yield "no candidate was fitted: watch.jsonl has the reasons"
    elif best.value is not None:
        yield (
            f"the best is {best.candidate}: {best.metric} {best.value:.3f} at step {best.step}; it "
            "was chosen by these val clips, so only test clips tell how good it is"
        )


def fit_settings(options: argparse.Namespace) -> tuple[str, ...]:
    """Settings over the recipe, of ``--set`` and of the flags for single ones."""
    without = ("calibrate.label_errors=false",) if options.no_label_errors else ()
    return (*options.set, *without)


def _refuse_others(options: argparse.Namespace) -> None:
    """Raise ConfigError for an option of a single fit: a watcher knows by itself what it sets."""
    for name in _OF_ONE_FIT:
        if getattr(options, name):
            flag = name.replace("_", "-")
            raise ConfigError(
                f"--{flag} is of a single fit: --watch takes the run's own recipe, policies and "
                "training traces; leave one of the two out"
            )


def _refuse_numbers(options: argparse.Namespace) -> None:
    for name, least in (("last", 1), ("poll_s", 0.1), ("num_cpus", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} {value}: expected {least} or more")


def _keep_to(num_cpus: int | None) -> None:
    """Keep this process, and those that it starts, to some cores and behind the run."""
    from cluster.fitting.cores import keep_to

    cores = None
    if num_cpus is not None:
        all_cores = sorted(os.sched_getaffinity(0))
        if num_cpus > len(all_cores):
            raise ConfigError(f"--num-cpus {num_cpus}: this process may use {len(all_cores)} cores")
        cores = all_cores[-num_cpus:]  # runs begin with the first ones
    keep_to(cores)
