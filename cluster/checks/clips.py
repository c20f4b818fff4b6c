"""Every clip of a manifest opened, decoded and hashed, in processes, with a memory on disk.

    files -> facts known from an earlier check
          -> a pool of processes: read, hash, decode -> facts -> SQLite, as they come -> findings

A second check asks the file system for size and time of change, and nothing else. A clip that
cannot be read is looked at again each time: what was wrong may not have been the file.
"""

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from cluster.checks import facts_file
from cluster.checks.facts_file import ClipFacts, FactsFile
from cluster.checks.finding import Area, Finding, error, ok, warning
from cluster.config import RunConfig
from cluster.progress import progress_bar
from video.config import VideoConfig
from video.view import split_view
from wire.errors import ClipError
from wire.types import Sample, Split

_AHEAD = 4  # files given to each process before it asks for more


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a clip cannot be used."""

    reason: str
    refused: bool
    """Not even its first frame: `run` opens that of every clip, and refuses to start."""


Look = ClipFacts | Unreadable
Looks = Mapping[str, Look]
"""By file, without the view."""


def file_of(sample: Sample) -> str:
    """The file of a sample's clip, without its view."""
    return str(split_view(sample.video)[0])


def look_at_clips(samples: Iterable[Sample], config: VideoConfig, facts: Path) -> dict[str, Look]:
    """Look at each file once. Interrupted, the next check goes on from what this one has seen.

    ``facts``: where results are kept. Raises OSError if they cannot be.
    """
    files = list(dict.fromkeys(file_of(sample) for sample in samples))
    with FactsFile(facts, config) as known, progress_bar("clips", len(files)) as bar:
        seen: dict[str, Look] = {file: found for file in files if (found := known.get(file))}
        bar.resume(len(seen))
        left = [file for file in files if file not in seen]
        workers = min(len(left), len(os.sched_getaffinity(0)))
        for file, look in in_processes(partial(look_at, config=config), left, workers):
            seen[file] = look
            if isinstance(look, ClipFacts):
                known.put(file, look)
            bar.advance()
    return seen


def look_at(file: str, *, config: VideoConfig) -> Look:
    """Read, hash and decode one file as a run would."""
    from rollout.manifest import clip_fault
    from video.decode import decode

    try:
        stat = facts_file.stat_of(file)
        with Path(file).open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        clip = decode(file, config)
    except (ClipError, OSError, ValueError) as problem:
        return Unreadable(str(problem), clip_fault(file, config) is not None)
    frames, height, width, _ = clip.frames.shape
    return ClipFacts(
        stat=stat,
        digest=digest,
        frames=frames,
        height=height,
        width=width,
        seconds=clip.total_frames / clip.native_fps,
    )


def in_processes(
    look: Callable[[str], Look], files: Sequence[str], workers: int
) -> Iterator[tuple[str, Look]]:
    """Each file with what was seen, as they come. One whose decoder takes the process down is
    found out and named; the others are looked at all the same."""
    left = iter(files)
    while suspects := (yield from _until_crash(look, left, workers, workers * _AHEAD)):
        one_by_one = iter(suspects)
        while culprit := (yield from _until_crash(look, one_by_one, 1, 1)):
            reason = f"cannot decode {culprit[0]}: the decoder crashed on it"
            yield culprit[0], Unreadable(reason, True)


def _until_crash(
    look: Callable[[str], Look], left: Iterator[str], workers: int, in_work: int
) -> Generator[tuple[str, Look], None, list[str]]:
    """Look at ``left``, so many files at a time; returns those that were in work when a process
    died, or none."""
    first = list(islice(left, in_work))
    if not first:
        return []
    # spawned: a forked child would inherit the locks of our threads
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, initializer=_ignore_interrupt)
    try:
        running = {pool.submit(look, file): file for file in first}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                if isinstance(future.exception(), BrokenProcessPool):
                    return list(running.values())
                yield running.pop(future), future.result()
                for file in islice(left, 1):
                    if not _submit(pool, look, file, running):
                        return [*running.values(), file]
        return []
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()  # Ctrl-C does not wait for a clip


def _submit(
    pool: ProcessPoolExecutor,
    look: Callable[[str], Look],
    file: str,
    running: dict[Future[Look], str],
) -> bool:
    try:
        running[pool.submit(look, file)] = file
    except BrokenProcessPool:
        return False
    return True


def _ignore_interrupt() -> None:
    """Ctrl-C reaches the whole process group: the parent alone answers it."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def clip_findings(config: RunConfig, samples: Sequence[Sample], looks: Looks) -> list[Finding]:
    """Clips that cannot be read, and the length of the others."""
    bad = {file: look for file, look in looks.items() if isinstance(look, Unreadable)}
    refused = {file: look for file, look in bad.items() if look.refused and config.data.check_clips}
    findings = []
    if refused:
        findings.append(
            error(
                Area.CLIPS,
                f"{len(refused)} of {len(looks)} clips cannot be read, and a run refuses to start",
                "replace or remove them (data.check_clips = false would quarantine them instead)",
                [look.reason for look in refused.values()],
            )
        )
    if rest := [look.reason for file, look in bad.items() if file not in refused]:
        findings.append(_quarantined(config, samples, looks, rest))
    if good := [look for look in looks.values() if isinstance(look, ClipFacts)]:
        findings.append(ok(Area.CLIPS, _measures(good)))
    return findings


def _quarantined(
    config: RunConfig, samples: Sequence[Sample], looks: Looks, reasons: Sequence[str]
) -> Finding:
    train = [sample for sample in samples if sample.split is Split.TRAIN]
    lost = sum(isinstance(looks.get(file_of(sample)), Unreadable) for sample in train)
    what = f"{len(reasons)} of {len(looks)} clips open, but cannot be decoded"
    if not config.data.check_clips:
        what = f"{len(reasons)} of {len(looks)} clips cannot be decoded"
    limit = config.reward.max_failure_frac
    if train and lost > limit * len(train):
        share = f"{lost} of {len(train)} train clips: more than reward.max_failure_frac = {limit:g}"
        return error(
            Area.CLIPS, f"{what} ({share}, which ends a run)", "replace or remove them", reasons
        )
    return warning(
        Area.CLIPS, f"{what}: a run goes on without them", "replace or remove them", reasons
    )


def _measures(good: Sequence[ClipFacts]) -> str:
    seconds = sorted(look.seconds for look in good)
    frames = [look.frames for look in good]
    return (
        f"{len(good)} clips decode: {seconds[0]:.3g} to {seconds[-1]:.3g} s, median "
        f"{seconds[len(seconds) // 2]:.3g} s; {min(frames)} to {max(frames)} frames are sampled"
    )
