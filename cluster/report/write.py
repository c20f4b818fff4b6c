"""Writes report.html of a run directory, within a size and a time.

gather -> pictures of the most telling clips, until the page is full -> render -> file, by rename
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.driver.progress import console
from cluster.report.clips import ClipRecord
from cluster.report.gather import Report, gather
from cluster.report.groups import GroupRecord
from cluster.report.page import Texts, clip_values, group_values, render, to_json
from cluster.report.thumbs import Strip, strips
from wire.errors import ConfigError
from wire.whole_file import whole_file

MAX_CLIPS = 400
MAX_MB = 20.0
_SHARE_OF_GROUPS = 0.3
"""Share of the room for clips and groups that training groups may take."""
_SECONDS = 20.0
"""Time limit for decoding; later clips have no picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Written report: its path, size, and numbers of clips and groups."""

    path: Path
    size_mb: float
    num_clips: int
    num_groups: int


def write_report(
    run: Path, out: Path | None = None, *, max_clips: int = MAX_CLIPS, max_mb: float = MAX_MB
) -> Written:
    """Write the report of the run in ``run``, to ``run/report.html`` unless told otherwise.

    Raises UserError if there is no run, if the file cannot be written, or if ``max_mb`` is too
    small for a page without clips.
    """
    path = out or run / "report.html"
    report, pictures = _fill(gather(run, max_clips), max_mb)
    content = render(report, pictures).encode()
    if len(content) > max_mb * 1e6:
        raise ConfigError(
            f"the report of {run} takes {len(content) / 1e6:.1f} MB even without clips; "
            f"--max-mb is {max_mb:g}, give more"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise ConfigError(
            f"cannot write the report {path}: {error.strerror}; give --out the path of a file"
        ) from error
    return Written(
        path=path,
        size_mb=len(content) / 1e6,
        num_clips=len(report.clips),
        num_groups=len(report.groups),
    )


@contextmanager
def report_at_end(run: Path) -> Iterator[None]:
    """Write the report when the block ends, also if it failed (not if it was interrupted).

    Whatever goes wrong with the report is said, and ends nothing.
    """
    try:
        yield
    except Exception:
        _try_report(run)
        raise
    _try_report(run)


def _try_report(run: Path) -> None:
    if not (run / "archive").is_dir():
        return  # a check ended it before anything was run
    try:
        console.print(f"report: {write_report(run).path}")
    except Exception as error:  # noqa: BLE001
        # hours of training must not end as failed for the sake of a page
        console.print(f"no report: {error!r}; `deepintuit report {run} --debug` says more")


def _fill(report: Report, max_mb: float) -> tuple[Report, dict[str, Strip]]:
    """Report with as many clips and groups, in their order, as fit; and their pictures."""
    room = int(max_mb * 1e6) - len(render(replace(report, clips=(), groups=()), {}).encode())
    pictures: dict[str, Strip] = {}
    groups, used = _that_fit(report, report.groups, int(room * _SHARE_OF_GROUPS), pictures)
    clips, _ = _that_fit(report, report.clips, room - used, pictures)
    filled = replace(
        report,
        groups=tuple(one for one in groups if isinstance(one, GroupRecord)),
        clips=tuple(one for one in clips if isinstance(one, ClipRecord)),
    )
    return filled, pictures


def _that_fit(
    report: Report,
    records: Sequence[ClipRecord | GroupRecord],
    room: int,
    pictures: dict[str, Strip],
) -> tuple[list[ClipRecord | GroupRecord], int]:
    """First records that fit in ``room`` bytes with their pictures, which are added; and bytes."""
    texts, used, kept = Texts(), 0, []
    videos = list(dict.fromkeys(one.video for one in records if one.video))
    drawn = strips([video for video in videos if video not in pictures], report.video, _SECONDS / 2)
    for record in records:
        new = record.video is not None and record.video not in pictures
        picture = next(drawn)[1] if new else None
        before = sum(map(len, texts.values))
        values = (
            clip_values(record, texts, {})
            if isinstance(record, ClipRecord)
            else group_values(record, texts, {})
        )
        size = len(to_json(values).encode()) + sum(map(len, texts.values)) - before + 32
        size += len(picture.picture) + 200 if picture else 0
        if used + size > room:
            break
        used += size
        kept.append(record)
        if picture is not None and record.video is not None:
            pictures[record.video] = picture
    return kept, used
