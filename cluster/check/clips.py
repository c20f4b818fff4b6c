"""Scans every clip of a manifest: opens, decodes and hashes it, and keeps the facts on disk.

    files -> facts kept by an earlier check
          -> threads: hash, decode (video/pool.py) -> facts -> SQLite, as they come -> findings

A second check reads size and time of change of each file, and nothing else. A clip that cannot be
read is scanned again each time: the fault may not have been the file's.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.check import clip_facts as facts_file
from cluster.check.clip_facts import ClipFacts, FactsFile
from cluster.config.recipe import RunConfig
from cluster.driver.progress import progress_bar
from video.address import Address
from video.config import VideoConfig
from video.opened_clips import OpenedClips
from video.pool import DecodePool
from wire.errors import ClipError
from wire.finding import Area, Finding, error, ok, warning
from wire.types import Sample

_REASONS = 3
"""Reasons for PyAV that are listed."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Scan of a clip that cannot be used, with the reason."""

    reason: str


ClipScan = ClipFacts | Unreadable
ClipScans = Mapping[str, ClipScan]
"""Scans by file, without time window and view."""


def file_of(sample: Sample) -> str:
    """The file of a sample's clip, without its time window and view."""
    return str(Address.parse(sample.video).path)


def scan_clips(samples: Iterable[Sample], config: VideoConfig, facts: Path) -> dict[str, ClipScan]:
    """Scan each file once. After an interrupt the next check continues where this one stopped.

    ``facts``: the file that keeps the scans.
    """
    files = list(dict.fromkeys(file_of(sample) for sample in samples))
    with FactsFile(facts, config) as known, progress_bar("clips", len(files)) as bar:
        scans: dict[str, ClipScan] = {file: kept for file in files if (kept := known.get(file))}
        bar.resume(len(scans))
        left = [file for file in files if file not in scans]
        workers = max(1, min(len(left), len(os.sched_getaffinity(0))))
        pool = DecodePool(config.model_copy(update={"decode_workers": workers}))
        for file, scan in in_threads(partial(scan_clip, pool=pool), left, workers, pool):
            scans[file] = scan
            if isinstance(scan, ClipFacts):
                known.put(file, scan)
            bar.advance()
    return scans


def scan_clip(file: str, *, pool: DecodePool) -> ClipScan:
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
        seconds=clip.seconds,
        not_by_decord=clip.not_by_decord,
    )


def in_threads(
    scan: Callable[[str], ClipScan], files: Sequence[str], workers: int, pool: DecodePool
) -> Iterator[tuple[str, ClipScan]]:
    """Each file with its scan, as scans end; closes the pool."""
    with ThreadPoolExecutor(workers) as threads, closing(pool):
        running = {threads.submit(scan, file): file for file in files}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for a clip


def clip_findings(config: RunConfig, samples: Sequence[Sample], scans: ClipScans) -> list[Finding]:
    """Findings on clips that cannot be used, and on the lengths of the others."""
    videos = dict.fromkeys(sample.video for sample in samples)
    bad = [reason for video in videos if (reason := _fault(video, scans)) is not None]
    good = [scan for scan in scans.values() if isinstance(scan, ClipFacts)]
    findings = [_quarantined(config, bad, len(videos))] if bad else []
    return [*findings, ok(Area.CLIPS, _measures(good))] if good else findings


def remember_opened(opened: OpenedClips, scans: ClipScans) -> None:
    """Spare a run the opening of clips that this check has decoded."""
    good = [Address(path=Path(file)) for file, scan in scans.items() if isinstance(scan, ClipFacts)]
    for address in opened.unknown(good):
        opened.add(address)
    opened.save()


def _fault(video: str, scans: ClipScans) -> str | None:
    address = Address.parse(video)
    scan = scans.get(str(address.path))
    if isinstance(scan, Unreadable):
        return scan.reason
    if scan and address.window and address.window.start_s >= scan.seconds:
        return f"{video}: the clip is over after {scan.seconds:.3g} s"
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
    seconds = sorted(scan.seconds for scan in good)
    frames = [scan.frames for scan in good]
    return (
        f"{len(good)} clips decode: {seconds[0]:.3g} to {seconds[-1]:.3g} s, median "
        f"{seconds[len(seconds) // 2]:.3g} s; {min(frames)} to {max(frames)} frames are sampled"
        f"{_decoders(good)}"
    )


def _decoders(good: Sequence[ClipFacts]) -> str:
    """Who decodes, and why not decord where PyAV does, most frequent reasons first."""
    reasons = Counter(scan.not_by_decord for scan in good if scan.not_by_decord is not None)
    by_decord = len(good) - reasons.total()
    if not reasons:
        return "; decord decodes all"
    listed = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(_REASONS))
    others = reasons.total() - sum(number for _, number in reasons.most_common(_REASONS))
    rest = f", {others} for other reasons" if others else ""
    return f"; decord decodes {by_decord}, PyAV {reasons.total()} ({listed}{rest})"
