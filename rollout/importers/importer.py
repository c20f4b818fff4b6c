"""The main flow of an import.

    sources -> records -> clips (join) -> videos on this machine -> splits -> rows -> manifest

Everything is checked before anything is written. Opens no clip, except zips of frames to convert.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rollout.importers.formats import Source, read
from rollout.importers.join import Clip, Found, OnConflict, join, settle_conflicts
from rollout.importers.media import convert_zips, find_video, is_zip
from rollout.importers.policy_info import read_labels
from rollout.importers.reply import speaks_of_hint
from rollout.importers.report import Report, Tally
from rollout.importers.split import divide
from rollout.importers.write import write_labels, write_manifest
from rollout.manifest import raise_if_any
from wire.errors import ConfigError, DataError
from wire.labels import Label, LabelSet
from wire.types import Split

MISSING = "clips left out: their video is missing"
BROKEN_ZIP = "clips left out: their zip of frames cannot be read"
HINTED = "traces dropped: they mention a label or text they were given"
TEST_TEXT = "side texts left out: a test clip gets none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the user asked for.

    Example:
        ImportOptions(sources=("train=labels.json", "test=test.json"), manifest=Path("m.jsonl"),
                      format="rbft")
    """

    sources: tuple[str, ...]
    """Files, each ``PATH`` or ``SPLIT=PATH``; a policy_info.json among them defines the labels."""
    manifest: Path
    format: str
    media_root: Path | None = None
    """Where videos are looked for; none: the folder of the manifest."""
    split: Split | None = None
    """Of sources that name none."""
    ratio: Mapping[Split, float] | None = None
    """Divides the clips of sources that name no split."""
    seed: int = 0
    on_conflict: OnConflict = "error"
    skip_missing: bool = False
    with_side_text: bool = False
    drop_hinted_traces: bool = False
    convert_frames: bool = False
    fps: Fraction = Fraction(1)
    """Frames per second of the videos made of zips."""
    labels_out: Path | None = None
    overwrite: bool = False


def import_records(options: ImportOptions) -> Report:
    """Write the manifest; returns what was done. Raises UserError, and has then written none."""
    _refuse_existing(options)
    tally = Tally()
    defined, found = _read(options)
    names = [label.name for label in defined]
    clips = {clip.id: clip for clip in join(found, names, options.on_conflict, tally)}
    labels = _label_set(defined, clips.values())
    videos = _find_videos(clips, options, tally)
    _check_shared_videos(clips, videos, options, tally)
    splits = _splits(clips, videos, options)
    clips = {name: _final_texts(clip, splits[name], options, tally) for name, clip in clips.items()}
    with _writable():
        videos = _convert(clips, videos, options, tally)
    if not clips:
        raise DataError("no clip is left to write: " + "; ".join(map(str.strip, tally.lines())))
    rows = [_row(clip, splits[name], videos[name], options) for name, clip in clips.items()]
    with _writable():
        write_manifest(options.manifest, rows)
        if options.labels_out:
            write_labels(options.labels_out, labels)
    return _report(rows, clips, labels, options, tally)


def _refuse_existing(options: ImportOptions) -> None:
    if options.manifest.suffix != ".jsonl":
        raise ConfigError(
            f"the manifest {options.manifest} must end in .jsonl; it is the last path given, after "
            "all sources"
        )
    for path in (options.manifest, options.labels_out):
        if path and path.is_dir():
            raise ConfigError(f"{path} is a directory; give the path of a file")
        if path and path.exists() and not options.overwrite:
            raise ConfigError(f"{path} is there already; give --overwrite to replace it")


def _read(options: ImportOptions) -> tuple[list[Label], list[Found]]:
    """The labels that a vocabulary file defines, and the records of all other sources."""
    defined: list[Label] = []
    found: list[Found] = []
    outputs = {path.resolve() for path in (options.manifest, options.labels_out) if path}
    for argument in options.sources:
        split, path = _split_and_path(argument)
        if path.resolve() in outputs:
            raise ConfigError(f"{path} is a source and would be overwritten; write to another file")
        if labels := read_labels(path):
            defined += labels
            continue
        split = split or options.split
        if split is None and options.ratio is None:
            known = ", ".join(each.value for each in Split)
            raise ConfigError(
                f"no split for the clips of {path}; write such as train={path} ({known}), or give "
                "--split or --ratio"
            )
        source = Source(path=path, format=options.format, split=split)
        found += [Found(source, record) for record in read(source)]
    if not found:
        raise DataError("no records to import; give a file of them")
    return defined, found


def _split_and_path(argument: str) -> tuple[Split | None, Path]:
    name, equals, path = argument.partition("=")
    if equals and name in list(Split):
        return Split(name), Path(path)
    return None, Path(argument)


def _label_set(defined: Sequence[Label], clips: Any) -> LabelSet:
    names = {label.name: label for label in defined}
    used = sorted({clip.label for clip in clips})
    if unknown := [name for name in used if defined and name not in names]:
        raise DataError(f"labels {unknown} are not among the defined ones: {', '.join(names)}")
    try:
        return LabelSet(labels=tuple(names.values()) or tuple(Label(name=name) for name in used))
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise DataError(
            f"the labels {used} make no task: {reason}; add records of the other labels, or a "
            "policy_info.json"
        ) from error


def _find_videos(clips: dict[str, Clip], options: ImportOptions, tally: Tally) -> dict[str, Path]:
    """Clip id -> its file; clips without one are removed if the user allows it."""
    root = options.media_root or options.manifest.parent
    videos, missing = {}, {}
    for name, clip in clips.items():
        paths = (find_video(written, root) for written in clip.videos)
        if path := next((path for path in paths if path), None):
            videos[name] = path
        else:
            missing[name] = f"{name}: {clip.videos[0]}"
    _remove(clips, missing, MISSING, options.skip_missing, tally, f"have no video under {root}")
    zips = [str(path) for path in videos.values() if is_zip(path)]
    if zips and not options.convert_frames:
        raise DataError(
            f"{len(zips)} of {len(videos)} videos are zips of frames, such as {zips[0]}; give "
            "--convert-frames to make mp4 files of them, or a --media-root with video files"
        )
    return videos


def _remove(
    clips: dict[str, Clip],
    faults: Mapping[str, str],
    reason: str,
    allowed: bool,
    tally: Tally,
    what: str,
) -> None:
    if not allowed:
        remedy = "give another --media-root, or leave them out with --skip-missing"
        raise_if_any(f"{len(faults)} of {len(clips)} clips {what}; {remedy}", list(faults.values()))
    for name in faults:
        tally.add(reason, name)
        del clips[name]


def _check_shared_videos(
    clips: dict[str, Clip], videos: Mapping[str, Path], options: ImportOptions, tally: Tally
) -> None:
    """One file under two ids is in one split, and has one label."""
    users = defaultdict(list)
    for name in clips:
        users[videos[name]].append(name)
    leaks: list[str] = []
    conflicts: dict[str, list[str]] = {}
    for path, names in users.items():
        told = " and ".join(
            f"{n} ({clips[n].label}, {clips[n].split or 'by ratio'})" for n in names
        )
        if len({clips[name].split for name in names}) > 1:
            leaks.append(f"{path} is {told}")
        if len({clips[name].label for name in names}) > 1:
            conflicts |= {name: [f"{path} is {told}"] for name in names}
    raise_if_any("a clip must be in one split only", leaks)
    settle_conflicts(clips, conflicts, options.on_conflict, tally)


def _splits(
    clips: Mapping[str, Clip], videos: Mapping[str, Path], options: ImportOptions
) -> dict[str, Split]:
    """Clip id -> split; ids that share a file stay together."""
    splits = {name: clip.split for name, clip in clips.items() if clip.split}
    rest = {name: clip for name, clip in clips.items() if not clip.split}
    if rest and options.ratio:
        first = {videos[name]: name for name in reversed(rest)}  # speaks for all ids of its file
        labels = {name: rest[name].label for name in first.values()}
        found = divide(labels, options.ratio, options.seed)
        splits |= {name: found[first[videos[name]]] for name in rest}
    return splits


def _final_texts(clip: Clip, split: Split, options: ImportOptions, tally: Tally) -> Clip:
    """Without what must not be shown: hinted traces if asked for, side text unless asked for."""
    if clip.trace and options.drop_hinted_traces and speaks_of_hint(clip.trace):
        tally.add(HINTED, clip.id)
        clip = replace(clip, trace=None)
    if not options.with_side_text:
        return replace(clip, side_text={})
    if clip.side_text and split is Split.TEST:
        tally.add(TEST_TEXT, clip.id)
        clip = replace(clip, side_text={})
    return clip


def _convert(
    clips: dict[str, Clip], videos: Mapping[str, Path], options: ImportOptions, tally: Tally
) -> dict[str, Path]:
    zips = {name: videos[name] for name in clips if is_zip(videos[name])}
    out = options.manifest.parent / f"{options.manifest.stem}-clips"
    made, faults = convert_zips(zips, out, options.fps)
    what = "have a zip of frames that cannot be read"
    _remove(clips, faults, BROKEN_ZIP, options.skip_missing, tally, what)
    return {**videos, **made}


@contextmanager
def _writable() -> Iterator[None]:
    """Turns what the system says of a file that cannot be written into an error of the user's."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write {error.filename}: {error.strerror}; give another place to write to"
        ) from error


def _row(clip: Clip, split: Split, video: Path, options: ImportOptions) -> dict[str, Any]:
    folder = options.manifest.parent.absolute()
    inside = video.absolute().is_relative_to(folder)
    text = "\n".join(f"{name}: {text}" for name, text in clip.side_text.items())
    return {
        "id": clip.id,
        "video": (video.absolute().relative_to(folder) if inside else video).as_posix(),
        "label": clip.label,
        "split": split.value,
        "trace": clip.trace,
        "text": text or None,
        "source": ", ".join(clip.sources),
    }


def _report(
    rows: Sequence[Mapping[str, Any]],
    clips: Mapping[str, Clip],
    labels: LabelSet,
    options: ImportOptions,
    tally: Tally,
) -> Report:
    return Report(
        manifest=options.manifest,
        labels=labels.names,
        rows=Counter((row["split"], row["label"]) for row in rows),
        traces=Counter(row["split"] for row in rows if row["trace"]),
        texts=Counter(row["split"] for row in rows if row["text"]),
        tally=tally,
        warnings=tuple(_warnings(rows, labels)),
    )


def _warnings(rows: Sequence[Mapping[str, Any]], labels: LabelSet) -> list[str]:
    warnings = []
    traces = [row["trace"] for row in rows if row["trace"]]
    if hinted := sum(map(speaks_of_hint, traces)):
        warnings.append(
            f"{hinted} of {len(traces)} traces mention a label or text they were given; "
            "--drop-hinted-traces leaves them out"
        )
    if texts := [row["text"] for row in rows if row["text"]]:
        names = "|".join(map(re.escape, labels.names))
        told = sum(bool(re.search(rf"\b(?:{names})\b", text, re.IGNORECASE)) for text in texts)
        warnings.append(
            f"a label word occurs in {told} of {len(texts)} side texts ({told / len(texts):.0%}); "
            "such texts can give the label away: measure without them too"
        )
    return warnings
