"""Every clip of a manifest opened, decoded and hashed, with a memory on disk.

    files -> facts known from an earlier check
          -> threads: hash, decode (video/pool.py) -> facts -> SQLite, as they come -> findings

A second check asks the file system for size and time of change, and nothing else. A clip that
cannot be read is looked at again each time: what was wrong may not have been the file.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.checks import facts_file
from cluster.checks.facts_file import ClipFacts, FactsFile
from cluster.checks.finding import Area, Finding, error, ok, warning
from cluster.config import RunConfig
from cluster.progress import progress_bar
from video.address import Address
from video.config import VideoConfig
from video.pool import DecodePool
from wire.errors import ClipError
from wire.types import Sample


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a clip cannot be used."""

    reason: str


Look = ClipFacts | Unreadable
Looks = Mapping[str, Look]
"""By file, without time window and view."""


def file_of(sample: Sample) -> str:
    """The file of a sample's clip, without its time window and view."""
    return str(Address.parse(sample.video).path)


def look_at_clips(samples: Iterable[Sample], config: VideoConfig, facts: Path) -> dict[str, Look]:
    """Look at each file once. Interrupted, the next check goes on from what this one has seen.

    ``facts``: where results are kept. Raises OSError if they cannot be.
    """
    files = list(dict.fromkeys(file_of(sample) for sample in samples))
    with FactsFile(facts, config) as known, progress_bar("clips", len(files)) as bar:
        seen: dict[str, Look] = {file: found for file in files if (found := known.get(file))}
        bar.resume(len(seen))
        left = [file for file in files if file not in seen]
        workers = max(1, min(len(left), len(os.sched_getaffinity(0))))
        pool = DecodePool(config.model_copy(update={"decode_workers": workers}))
        for file, look in in_threads(partial(look_at, pool=pool), left, workers, pool):
            seen[file] = look
            if isinstance(look, ClipFacts):
                known.put(file, look)
            bar.advance()
    return seen


def look_at(file: str, *, pool: DecodePool) -> Look:
    """Read, hash and decode one file as a run would."""
    try:
        stat = facts_file.stat_of(file)
        clip = pool.decode(Path(file))
        with Path(file).open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except (ClipError, OSError) as problem:
        return Unreadable(str(problem))
    frames, height, width, _ = clip.frames.shape
    return ClipFacts(
        stat=stat,
        digest=digest,
        frames=frames,
        height=height,
        width=width,
        seconds=clip.total_frames / clip.native_fps,
    )


def in_threads(
    look: Callable[[str], Look], files: Sequence[str], workers: int, pool: DecodePool
) -> Iterator[tuple[str, Look]]:
    """Each file with what was seen, as they come; closes the pool."""
    with ThreadPoolExecutor(workers) as threads, closing(pool):
        running = {threads.submit(look, file): file for file in files}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for a clip


def clip_findings(config: RunConfig, samples: Sequence[Sample], looks: Looks) -> list[Finding]:
    """Clips that cannot be used, and the length of the others."""
    videos = dict.fromkeys(sample.video for sample in samples)
    bad = [reason for video in videos if (reason := _fault(video, looks)) is not None]
    good = [look for look in looks.values() if isinstance(look, ClipFacts)]
    findings = [_quarantined(config, bad, len(videos))] if bad else []
    return [*findings, ok(Area.CLIPS, _measures(good))] if good else findings


def _fault(video: str, looks: Looks) -> str | None:
    address = Address.parse(video)
    look = looks.get(str(address.path))
    if isinstance(look, Unreadable):
        return look.reason
    if look and address.window and address.window.start_s >= look.seconds:
        return f"{video}: the clip is over after {look.seconds:.3g} s"
    return None


def _quarantined(config: RunConfig, reasons: Sequence[str], num_clips: int) -> Finding:
    what = f"{len(reasons)} of {num_clips} clips cannot be used"
    limit = config.data.max_quarantine_frac
    if len(reasons) > int(limit * num_clips):
        return error(
            Area.CLIPS,
            f"{what}: more than data.max_quarantine_frac = {limit:g} allows, and a run ends",
            "replace or remove them",
            reasons,
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
