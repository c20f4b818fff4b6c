"""The main flow of an import.

    sources -> content -> records -> clips (join) -> videos on this machine -> splits -> rows
            -> manifest

Labels and splits are checked before anything is fetched, everything before the manifest is
written. Opens no clip, except zips of frames to convert.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rollout.addresses import is_remote, local_path
from rollout.importers import videos
from rollout.importers.content import open_content
from rollout.importers.fetch import MediaStore, Progress
from rollout.importers.formats import FORMATS, read, recognise
from rollout.importers.join import Clip, Source, SourcedRecord, join
from rollout.importers.labels import read_labels, read_names, with_name
from rollout.importers.media import Root
from rollout.importers.options import ImportOptions
from rollout.importers.pairing import (
    groups_of_clips,
    label_set,
    splits_of_clips,
    with_split_and_window,
)
from rollout.importers.record import LeftOut, Window
from rollout.importers.reply import speaks_of_hint
from rollout.importers.report import Report, Tally
from rollout.importers.warnings import warnings_of
from rollout.importers.write import write_import
from wire.errors import ConfigError, DataError
from wire.labels import Label, LabelSet
from wire.types import Split

HINTED = "traces dropped: they mention a label, text or option they were given"
TEST_TEXT = "side texts left out: a test clip gets none"
LATE_TEST_TRACE = "traces dropped: the ratio made it a test clip"

_SUFFIXES = (".jsonl", ".parquet")


def import_records(options: ImportOptions, progress: Progress | None = None) -> Report:
    """Write the manifest; returns what was done. Raises UserError, and has then written none.

    ``progress`` is told of the videos that are fetched.
    """
    _refuse_existing(options)
    tally = Tally()
    store = MediaStore(
        options.download or options.manifest.parent / f"{options.manifest.stem}-media",
        options.timeout_s,
    )
    with _writable():
        defined, records, recognised = _read(options, store, tally)
    names = [label.name for label in defined]
    clips = {clip.id: clip for clip in join(records, names, options.on_conflict, tally)}
    _refuse_empty(clips, tally)
    labels = label_set(defined, clips.values())
    places = videos.locate(clips, _roots(options, store), options.skip_missing, tally)
    videos.note_times(clips, places, tally)
    if not options.convert_frames:
        videos.refuse_zips(places)
    videos.check_shared(clips, places, options.on_conflict, tally)
    groups = groups_of_clips(clips, places, options)
    with _writable():
        files = videos.fetch(clips, places, store, options.skip_missing, tally, progress)
        splits = splits_of_clips(clips, groups, options) if clips else {}
        clips = {
            key: _final_texts(clip, splits[key], options, tally) for key, clip in clips.items()
        }
        out = options.manifest.parent / f"{options.manifest.stem}-clips"
        files = videos.convert(clips, files, out, options.fps, options.skip_missing, tally)
        _refuse_empty(clips, tally)
        rows = [_row(clip, splits[key], files[key], options) for key, clip in clips.items()]
        write_import(options.manifest, rows, options.labels_out, labels)
    return _report(rows, labels, recognised, options, tally)


def _refuse_existing(options: ImportOptions) -> None:
    if options.manifest.suffix not in _SUFFIXES:
        raise ConfigError(
            f"the manifest {options.manifest} must end in .jsonl or .parquet; it is the last path "
            "given, after all sources"
        )
    if options.labels_out and options.labels_out.resolve() == options.manifest.resolve():
        raise ConfigError(
            f"--labels-out {options.labels_out} is the manifest, too; give it a file of its own"
        )
    for path in (options.manifest, options.labels_out):
        if path and path.is_dir():
            raise ConfigError(f"{path} is a directory; give the path of a file")
        if path and path.exists() and not options.overwrite:
            raise ConfigError(f"{path} is there already; give --overwrite to replace it")


def _refuse_empty(clips: Mapping[str, Clip], tally: Tally) -> None:
    if not clips:
        raise DataError("no clip is left to write: " + "; ".join(map(str.strip, tally.lines())))


def _read(
    options: ImportOptions, store: MediaStore, tally: Tally
) -> tuple[list[Label], list[SourcedRecord], list[str]]:
    """Defined labels, records of all other sources, and the format that each was read as."""
    numbers = read_names(options.label_names) if options.label_names else {}
    defined = [Label(name=name) for name in numbers.values()]
    records: list[SourcedRecord] = []
    recognised: list[str] = []
    for argument in options.sources:
        split, address = _split_and_address(argument)
        _refuse_output(address, options)
        if labels := read_labels(address):
            defined += [label for label in labels if label not in defined]
            continue
        content = open_content(address, store, options.columns)
        name = options.format or recognise(content, options.columns)
        recognised.append(f"{content.name} read as {name} ({FORMATS[name].words})")
        source = Source(address=address, name=content.name, split=split)
        for record in read(content, name, numbers_have_names=bool(numbers)):
            if isinstance(record, LeftOut):
                tally.add(record.reason, record.id)
            else:
                record = with_split_and_window(with_name(record, numbers), source, options)
                records.append(SourcedRecord(source, record, content.base))
    if not records and not tally.lines():
        raise DataError("no records to import; give a file or folder of them")
    return defined, records, recognised


def _refuse_output(address: str, options: ImportOptions) -> None:
    outputs = {path.resolve() for path in (options.manifest, options.labels_out) if path}
    if not is_remote(address) and Path(local_path(address)).resolve() in outputs:
        raise ConfigError(f"{address} is a source and would be overwritten; write to another file")


def _split_and_address(argument: str) -> tuple[Split | None, str]:
    name, equals, address = argument.partition("=")
    split = Split(name) if equals and name in list(Split) else None
    address = address if split else argument
    if not address.strip():
        raise ConfigError(f"the source {argument!r} is empty; give the path of a file or folder")
    return split, address


def _roots(options: ImportOptions, store: MediaStore) -> Callable[[Clip], list[Root]]:
    """Clip -> the folders where its video is looked for, in order."""
    if options.media_root is not None:
        only = [Root(options.media_root, store)]
        return lambda clip: only
    others = [Root(options.manifest.parent, store), Root(Path.cwd(), store)]
    beside_source = functools.cache(lambda base: Root(base, store))
    return lambda clip: [beside_source(clip.base), *others]


def _final_texts(clip: Clip, split: Split, options: ImportOptions, tally: Tally) -> Clip:
    """Without what must not be shown: hinted traces if asked for, side text unless asked for."""
    if clip.trace and split is Split.TEST:
        tally.add(LATE_TEST_TRACE, clip.id)
        clip = replace(clip, trace=None)
    if clip.trace and options.drop_hinted_traces and speaks_of_hint(clip.trace):
        tally.add(HINTED, clip.id)
        clip = replace(clip, trace=None)
    if not options.with_side_text:
        return replace(clip, side_text={})
    if clip.side_text and split is Split.TEST:
        tally.add(TEST_TEXT, clip.id)
        clip = replace(clip, side_text={})
    return clip


@contextmanager
def _writable() -> Iterator[None]:
    """Turns what the system says of a file that cannot be written into an error of the user's."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write {error.filename}: {error.strerror}; give another place to write to"
        ) from error
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text {ascii(error.object)[:60]} holds half a character (a lone surrogate), which "
            "no manifest can; mend it in the source"
        ) from error


def _row(clip: Clip, split: Split, video: Path, options: ImportOptions) -> dict[str, Any]:
    folder = options.manifest.parent.absolute()
    inside = video.absolute().is_relative_to(folder)
    text = "\n".join(
        value if name == "text" else f"{name}: {value}" for name, value in clip.side_text.items()
    )
    window = _window(clip.window) if clip.window else {}
    return {
        "id": clip.id,
        "video": (video.absolute().relative_to(folder) if inside else video.absolute()).as_posix(),
        "label": clip.label,
        "split": split.value,
        "trace": clip.trace,
        "text": text or None,
        "source": ", ".join(clip.sources),
        **window,
        **clip.columns,
    }


def _window(window: Window) -> dict[str, float]:
    end = {} if math.isinf(window.end_s) else {"end_s": window.end_s}
    return {"start_s": window.start_s, **end}


def _report(
    rows: Sequence[Mapping[str, Any]],
    labels: LabelSet,
    recognised: Sequence[str],
    options: ImportOptions,
    tally: Tally,
) -> Report:
    return Report(
        manifest=options.manifest,
        labels=labels.names,
        recognised=tuple(recognised),
        rows=Counter((row["split"], row["label"]) for row in rows),
        traces=Counter(row["split"] for row in rows if row["trace"]),
        texts=Counter(row["split"] for row in rows if row["text"]),
        tally=tally,
        warnings=tuple(warnings_of(rows, labels.names)),
    )
