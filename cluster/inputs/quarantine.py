"""Clips to leave out: those that earlier attempts left out, and those that cannot be opened."""

from pathlib import Path

from cluster.config.recipe import RunConfig
from cluster.driver.progress import console
from cluster.inputs.samples import SampleSplits
from cluster.run_dir import RunDir
from rollout.manifest import unreadable_clips
from video.disk_cache.location import cache_folder
from video.opened_clips import OpenedClips
from video.quarantine import Quarantine
from wire.errors import DataError, TooManyFailures
from wire.types import stable_hash

_OPENED = "opened-clips.json"


def open_quarantine(config: RunConfig, run_dir: RunDir, data: SampleSplits) -> Quarantine:
    """Open the quarantine: clips to leave out, from earlier attempts and because they cannot be
    opened.

    Raises DataError if there are more than the recipe allows.
    """
    path = run_dir.path / "quarantine.jsonl"
    if not run_dir.archive.exists():
        path.unlink(missing_ok=True)  # left by a check alone; the clips may have been mended
    videos = {sample.video: sample.id for sample in reversed(data.samples)}
    allowed = int(config.data.max_quarantine_frac * len(videos))
    quarantine = Quarantine(path, allowed)
    if config.data.check_clips:
        opened = opened_clips(config, run_dir.path / _OPENED)
        unreadable = unreadable_clips(data.samples, config.video, opened)
        opened.save()
        for video, reason in unreadable.items():
            quarantine.add(video, videos[video], reason)
        if unreadable:
            console.print(
                f"{len(unreadable)} of {len(videos)} clips cannot be read and are left out; "
                f"see {path}"
            )
    try:
        quarantine.refuse_too_many()
    except TooManyFailures as error:
        raise DataError(str(error)) from error
    return quarantine


def opened_clips(config: RunConfig, *more: Path) -> OpenedClips:
    """Clips of a manifest that an earlier start or check on this node opened. ``more``: files that
    remember them too."""
    manifest = stable_hash(str(config.data.manifest))[:16]
    of_node = cache_folder(config.video) / f"opened-clips-{manifest}.json"
    return OpenedClips((of_node, *more), config.video.decoder)
