"""The commands archive compact, verify, gc, copy and delete, which keep an archive sound."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.commands.base import add_archive_command, say, write_json_file
from wire.remote_path import place_of

_MB = 1_000_000
_MOST = 1 << 62  # one more is still a number of rows for Arrow


def _compact(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cluster.archive.deletion import is_running, remove_from_run
    from cluster.archive.place import archive_directory
    from wire.archive.compaction import compact_archive
    from wire.archive.deletion import read_deletions

    directory = archive_directory(options.archive)
    with _progress("compacting") as at:
        report = compact_archive(
            directory, int(options.target_mb * _MB), at, is_running=is_running(directory)
        )
    changed = [] if report.has_writer else remove_from_run(directory, read_deletions(directory))
    say(
        f"{report.files_before} files of {_size(report.bytes_before)} are now "
        f"{report.files_after} of {_size(report.bytes_after)}, each with its index"
    )
    for number, what in (
        (report.migrated, "files of an older schema were written anew"),
        (report.recovered, "journals of attempts that had ended were moved into files"),
        (report.removed, "rows of deleted videos were removed"),
    ):
        if number:
            say(f"{number} {what}")
    _say_changed(changed)
    if report.has_writer and read_deletions(directory):
        say("a run is writing here: what was deleted is hidden, and goes with a compact after it")
    if options.json is not None:
        write_json_file(options.json, asdict(report) | {"changed": [str(path) for path in changed]})


def _verify(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cluster.archive.deletion import left_in_run
    from cluster.archive.place import archive_directory
    from cluster.check.table import print_findings
    from wire.archive.verify import verify_archive
    from wire.errors import ArchiveError
    from wire.finding import Area, Level, error

    directory = archive_directory(options.archive)
    with _progress("reading") as at:
        findings = verify_archive(directory, options.videos, at)
    left: list[Path] = []
    with suppress(ArchiveError):  # tombstones that cannot be read have a finding
        left = left_in_run(directory)
    if left:
        findings.append(
            error(
                Area.ARCHIVE,
                f"{len(left)} other files of the run hold deleted videos still",
                "deepintuit archive compact removes them",
                [str(path) for path in left],
            )
        )
    print_findings(findings)
    errors = [finding for finding in findings if finding.level is Level.ERROR]
    if options.json is not None:
        content = {"passed": not errors, "findings": [asdict(finding) for finding in findings]}
        write_json_file(options.json, content)
    if errors:
        raise ArchiveError(
            f"{len(errors)} of {len(findings)} findings are errors; do what is said beside each"
        )


def _gc(options: argparse.Namespace) -> None:
    from cluster.archive.deletion import is_running
    from cluster.archive.place import archive_directory
    from wire.archive.garbage import find_garbage, remove_garbage

    directory = archive_directory(options.archive)
    running = is_running(directory)
    garbage = find_garbage(directory, is_running=running)
    for one in garbage:
        say(f"{_size(one.num_bytes):>10}  {one.path.relative_to(directory)}  {one.why}")
    total = _size(sum(one.num_bytes for one in garbage))
    if not garbage:
        say("nothing to remove")
    elif options.delete:
        remove_garbage(directory, is_running=running)
        say(f"removed {len(garbage)} files, {total}")
    else:
        say(f"{len(garbage)} files, {total}; remove them with --delete")


def _delete(options: argparse.Namespace) -> None:
    from cluster.archive.deletion import delete
    from cluster.archive.place import archive_directory
    from wire.errors import ConfigError

    if not options.video_hash and not options.video:
        raise ConfigError("name the videos to delete: --video-hash HASH or --video FILE")
    directory = archive_directory(options.archive)
    hashes = [one.strip().lower() for one in options.video_hash]
    report = delete(directory, hashes, options.video)
    for content_hash, video in report.videos.items():
        say(
            f"{content_hash[:16]}: {len(video.groups)} groups, {video.num_traces} traces, "
            f"{len(video.samples)} samples are hidden from now on"
        )
    _say_changed(report.changed)
    if report.unknown:
        say(
            f"{len(report.unknown)} videos of traces without a hash are not there to be hashed, so "
            f"these may be of a deleted one: {', '.join(sorted(report.unknown)[:5])}"
        )
    say(
        f"remove them from the files with: deepintuit archive compact {options.archive}\n"
        f"prove it with:                   deepintuit archive verify {options.archive}\n"
        "not reached: the video files and the manifest (take the clips out of it, or a resume "
        "answers them again), exports, other nodes' caches, embeddings in the clip cache, and "
        "weights that learned from them"
    )


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar whose total is known when the work begins."""
    from cluster.driver.progress import Bar, progress_bar

    bars: list[Bar] = []
    before = [0]
    with ExitStack() as stack:

        def at(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(progress_bar(title, total)))
            bars[0].advance(done - before[0])
            before[0] = done

        yield at


def _copy(options: argparse.Namespace) -> None:
    from cluster.archive.place import archive_directory
    from cluster.inputs.policies import POLICIES_FILE
    from wire.archive.store import copy_archive

    source = archive_directory(options.archive)
    with _progress("copying") as at:
        copied = copy_archive(source, options.target / "archive", at, [POLICIES_FILE])
    say(f"{len(copied)} files are in {options.target / 'archive'}")


def _say_changed(changed: Any) -> None:
    if not changed:
        return
    shown = ", ".join(str(path) for path in changed[:5])
    rest = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    say(f"removed from {shown}{rest}")
    if any(path.name == "report.html" for path in changed):
        say("the report showed them and is gone: `deepintuit report RUN` writes it anew")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / _MB:,.1f} MB"


def _target(text: str) -> float:
    number = float(text)
    if not 1 <= number <= 4096:
        raise argparse.ArgumentTypeError(f"give megabytes from 1 to 4096, got {text}")
    return number


def whole_number(text: str, least: int = 0) -> int:
    """A whole number from ``least`` on, of an argument."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number < _MOST:
        raise argparse.ArgumentTypeError(f"give a whole number from {least} on, got {text}")
    return number


def add(parts: Any) -> None:
    """Register on the sub-commands of ``archive``."""
    text = "merge small files into large ones, migrate old ones, remove what was deleted; also "
    compact = add_archive_command(parts, "compact", text + "while a run writes", _compact)
    compact.add_argument(
        "--target-mb",
        type=_target,
        default=256.0,
        help="size of a merged file, such as 128 to 512; default: 256",
    )
    compact.add_argument("--json", type=Path, metavar="FILE", help="write the report there, too")
    text = "read every file and journal: damage, doubled groups, the index, deleted videos"
    verify = add_archive_command(parts, "verify", text, _verify)
    verify.add_argument(
        "--videos",
        type=whole_number,
        default=0,
        metavar="N",
        help="hash N of its videos and compare",
    )
    verify.add_argument("--json", type=Path, metavar="FILE", help="write all findings there, too")
    gc = add_archive_command(
        parts, "gc", "list what killed runs and compactions left, and its size", _gc
    )
    gc.add_argument("--delete", action="store_true", help="remove it")
    copy = add_archive_command(
        parts, "copy", "copy an archive to a folder or a store, or back", _copy
    )
    copy.add_argument(
        "target",
        type=place_of,
        metavar="TARGET",
        help="a place that is not there: s3://BUCKET/NAME",
    )
    text = "delete videos: their traces are hidden at once, and compact removes them"
    delete = add_archive_command(parts, "delete", text, _delete)
    delete.add_argument(
        "--video-hash",
        nargs="+",
        action="extend",
        default=[],
        metavar="SHA256",
        help="hashes of the videos' content, as in the column video_hash",
    )
    delete.add_argument(
        "--video", nargs="+", action="extend", default=[], metavar="FILE", help="the videos"
    )
