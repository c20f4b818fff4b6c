"""Soak: GRPO on real engines under kills at random times, compared with a run that is left alone.

    python -m tests.soak --minutes 30 --seed 1 --json FILE

Kills come at exponential gaps, drawn from the seed; a worker is killed only while another serves.
Prints rows of value, unit and limit; the exit status is 1 if a limit is missed. Takes about twice
the minutes and a quarter of an hour: cold start, soak, and the same number of steps undisturbed.
"""

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.figures import Figure, report
from tests.faults.finished_run import problems_of, step_rows
from tests.soak.flatness import growth
from tests.soak.kills import recovery_times
from tests.soak.trial import (
    GROUPS,
    STALENESS,
    Disturbed,
    Size,
    Trial,
    accuracy,
    seconds_per_step,
)

_GROWN = (
    ("driver_mb", "MB", 64.0),
    ("driver_descriptors", "count", 16.0),
    ("ray_mb", "MB", 64.0),
    ("processes", "count", 3.0),
    ("shm_mb", "MB", 128.0),
    ("shm_files", "count", 8.0),
)
_MIN_ETTR = 0.8
_SHORT = 10
"""Minutes below which the start of an engine, on a busy machine, is most of a soak."""


def soak(size: Size, seed: int, folder: Path) -> Iterator[Figure]:
    """Run a soak. Yields its figures."""
    trial = Trial(folder, size, seed)
    trial.prepare()
    disturbed = trial.disturb()
    steps = step_rows(trial.killed)[-1]["step"]
    yield from _of_kills(trial, disturbed)
    for name, unit, limit in _GROWN:
        yield Figure(f"growth/{name}", growth(disturbed.samples, name), unit, limit, "below")
    problems = problems_of(trial.killed, steps=steps, groups=GROUPS, max_staleness=STALENESS)
    for problem in problems:
        sys.stderr.write(problem + "\n")
    yield Figure("problems", len(problems), "count", 0, "below")
    trial.calm_down(steps)
    yield from _beside(trial, disturbed, steps)


def _of_kills(trial: Trial, disturbed: Disturbed) -> Iterator[Figure]:
    seconds = recovery_times(trial.killed)
    yield Figure("kills", disturbed.num_hit, "count", 1)
    yield Figure("kills left out for want of a spare", disturbed.num_spared, "count")
    yield Figure("ends of the run", disturbed.num_ends, "count", 0, "below")
    yield Figure("heals seen", len(seconds), "count", 1)
    middle = statistics.median(seconds) if seconds else math.inf
    yield Figure("time to recover, median", middle, "s", 120, "below")
    yield Figure("time to recover, longest", max(seconds, default=math.inf), "s", 300, "below")


def _beside(trial: Trial, disturbed: Disturbed, steps: int) -> Iterator[Figure]:
    """Figures of both runs beside each other."""
    step_s = seconds_per_step(trial.calm)
    yield Figure("steps", steps, "count", 2)
    yield Figure("undisturbed step", step_s, "s")
    ratio, limit = steps * step_s / disturbed.seconds, None if trial.size.is_short else _MIN_ETTR
    yield Figure("effective training time ratio", ratio, "ratio", limit)
    killed, (low, high) = accuracy(trial.killed)[0], accuracy(trial.calm)[1]
    yield Figure("undisturbed accuracy", accuracy(trial.calm)[0], "share")
    yield Figure("undisturbed accuracy, upper end of its 95%", high, "share")
    yield Figure("accuracy", killed, "share", low)


def size_of(minutes: float, mean_s: float, workers: int) -> Size:
    """Size of a soak: a short one has fewer clips and a shorter cold start."""
    clips, epochs = (32, 2) if minutes < _SHORT else (192, 30)
    return Size(
        minutes=minutes,
        mean_s=mean_s,
        workers=workers,
        clips=clips,
        coldstart_epochs=epochs,
        is_short=minutes < _SHORT,
    )


def main() -> int:
    """Run the soak of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mean-s", type=float, default=90.0, help="between kills")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder for the runs")
    options = parser.parse_args()
    size = size_of(options.minutes, options.mean_s, options.workers)
    with tempfile.TemporaryDirectory() as made:
        folder = (options.keep or Path(made)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return report(soak(size, options.seed, folder), options.json)


if __name__ == "__main__":
    sys.exit(main())
