"""Finds videos: from a source's name of a video to a file of this machine.

    clips -> path or URL (locate) -> no file under two labels or in two splits (check_shared)
          -> fetched -> zips of frames converted -> clip id -> Path

A clip without a video is an error, unless the user lets such clips be left out.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import TypeVar

from rollout.addresses import is_remote
from rollout.importers.fetch import MediaStore, Progress
from rollout.importers.join import Clip, OnConflict, settle_conflicts
from rollout.importers.media import Root, convert_zips, find_video, is_zip
from rollout.importers.report import Tally
from rollout.importers.rows import id_of
from rollout.manifest import raise_if_any
from wire.errors import DataError

S = TypeVar("S")

MISSING = "clips left out: their video is missing"
CONFUSED = "clips left out: only another clip's video of the same name is there"
UNFETCHED = "clips left out: their video cannot be fetched"
BROKEN_ZIP = "clips left out: their zip of frames cannot be read"
TIMES = "times ignored, the whole videos are the clips; with --windows, their parts are"
APART = "clips in another split than other windows of their file"

_ROOT = "give another --media-root, or leave them out with --skip-missing"
_AGAIN = "try again (what is here is not fetched again), or leave them out with --skip-missing"


def locate(
    clips: dict[str, Clip],
    roots: Callable[[Clip], Sequence[Root]],
    skip_missing: bool,
    tally: Tally,
) -> dict[str, str]:
    """Clip id -> path or URL. ``roots``: where the video of a clip is looked for, in order."""
    places: dict[str, str] = {}
    missing: dict[str, str] = {}
    searched: dict[str, None] = {}
    for name, clip in clips.items():
        options = roots(clip)
        searches = (find_video(video, root) for root in options for video in clip.videos)
        if place := next((place for place in searches if place), None):
            places[name] = place
        else:
            missing[name] = f"{name}: {clip.videos[0]}"
            searched |= {root.address: None for root in options}
    what = f"have no video under {' or '.join(searched)}; {_ROOT}"
    _remove(clips, missing, MISSING, skip_missing, tally, what)
    confused = _confused(clips, places)
    what = f"would share the file of another clip, which lies in another folder; {_ROOT}"
    _remove(clips, confused, CONFUSED, skip_missing, tally, what)
    return places


def _confused(clips: Mapping[str, Clip], places: Mapping[str, str]) -> dict[str, str]:
    """Clip id -> the file that was found for it by its last name alone, while another clip of that
    last name and another folder has it too."""
    users: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for name, place in places.items():
        if clips[name].window is None:
            users[place][name] = _last_parts(clips[name].videos[0])
    return {
        name: f"{name}: {clips[name].videos[0]} led to {place}"
        for place, written in users.items()
        if len({parts for parts in written.values() if len(parts) > 1}) > 1
        for name, parts in written.items()
        if parts != _last_parts(place)
    }


def _last_parts(path: str) -> tuple[str, ...]:
    """Folder and name of a video, without its suffix."""
    return PurePosixPath(id_of(path)).parts[-2:]


def note_times(clips: Mapping[str, Clip], places: Mapping[str, str], tally: Tally) -> None:
    """Count the clips whose whole video is taken, although their source names a part of it."""
    for name, clip in clips.items():
        if PurePosixPath(places[name]).stem in {
            id_of(each).rpartition("/")[2] for each in clip.untrimmed
        }:
            tally.add(TIMES, name)


def refuse_zips(places: Mapping[str, str]) -> None:
    """Raise DataError if a video is a zip of frames."""
    if zips := [place for place in places.values() if is_zip(place)]:
        raise DataError(
            f"{len(zips)} of {len(places)} videos are zips of frames, such as {zips[0]}; give "
            "--convert-frames to make mp4 files of them, or a --media-root with video files"
        )


def check_shared(
    clips: dict[str, Clip], places: Mapping[str, str], on_conflict: OnConflict, tally: Tally
) -> None:
    """Clips that show the same moments of one file are in one split, and have one label."""
    users = defaultdict(list)
    for name in clips:
        users[places[name]].append(name)
    leaks: list[str] = []
    conflicts: dict[str, list[str]] = {}
    for place, names in users.items():
        for one, other in combinations(names, 2) if len(names) > 1 else ():
            first, second = clips[one], clips[other]
            if not _share_moments(first, second):
                if first.split != second.split:
                    tally.add(APART, other)
                continue
            pair = f"{place} is {_named(first)} and {_named(second)}"
            if first.split != second.split:
                leaks.append(pair)
            if first.label != second.label:
                conflicts.setdefault(one, []).append(pair)
                conflicts.setdefault(other, []).append(pair)
    raise_if_any("a clip must be in one split only", leaks)
    settle_conflicts(clips, conflicts, on_conflict, tally)


def fetch(
    clips: dict[str, Clip],
    places: Mapping[str, str],
    store: MediaStore,
    skip_missing: bool,
    tally: Tally,
    progress: Progress | None,
) -> dict[str, Path]:
    """Clip id -> file of this machine."""

    def fetch_urls(urls: Mapping[str, str]) -> tuple[dict[str, Path], dict[str, str]]:
        made, reasons = store.fetch_all(urls.values(), progress) if urls else ({}, {})
        faults = {name: reasons[url] for name, url in urls.items() if url in reasons}
        return {name: made[url] for name, url in urls.items() if url in made}, faults

    urls = {name: places[name] for name in clips if is_remote(places[name])}
    what = f"have a video that cannot be fetched; {_AGAIN}"
    made = _make_files(clips, fetch_urls, urls, UNFETCHED, what, skip_missing, tally)
    return {name: made.get(name) or Path(places[name]) for name in clips}


def convert(
    clips: dict[str, Clip],
    videos: Mapping[str, Path],
    out: Path,
    fps: Fraction,
    skip_missing: bool,
    tally: Tally,
) -> dict[str, Path]:
    """The files, with an mp4 in ``out`` for each zip of frames taken at ``fps``."""
    zips = {name: videos[name] for name in clips if is_zip(videos[name])}
    what = f"have a zip of frames that cannot be read; {_ROOT}"
    step = partial(convert_zips, out=out, fps=fps)
    made = _make_files(clips, step, zips, BROKEN_ZIP, what, skip_missing, tally)
    return {**videos, **made}


def _make_files(
    clips: dict[str, Clip],
    step: Callable[[Mapping[str, S]], tuple[dict[str, Path], dict[str, str]]],
    sources: Mapping[str, S],
    reason: str,
    what: str,
    skip_missing: bool,
    tally: Tally,
) -> dict[str, Path]:
    """The files that ``step`` makes of the clips' videos (``sources``), by clip id.

    Clips with a fault instead of a file are left out for ``reason``; if that is not allowed, raises
    DataError, in which ``what`` says what is wrong with them.
    """
    made, faults = step(sources)
    _remove(clips, faults, reason, skip_missing, tally, what)
    return made


def _share_moments(one: Clip, other: Clip) -> bool:
    return one.window is None or other.window is None or one.window.overlaps(other.window)


def _named(clip: Clip) -> str:
    return f"{clip.id} ({clip.label}, {clip.split or 'by ratio'})"


def _remove(
    clips: dict[str, Clip],
    faults: Mapping[str, str],
    reason: str,
    allowed: bool,
    tally: Tally,
    what: str,
) -> None:
    if not allowed:
        raise_if_any(f"{len(faults)} of {len(clips)} clips {what}", list(faults.values()))
    for name in faults:
        tally.add(reason, name)
        del clips[name]
