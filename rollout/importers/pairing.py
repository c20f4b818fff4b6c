"""Label set, groups and splits of the clips of an import.

    record -> with its split and window; clips -> label set, group and split by clip id

Splits come from the source or the options; clips that neither decides are divided by the ratio, and
clips of one group stay together.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pydantic import ValidationError

from rollout.importers.join import Clip, Source
from rollout.importers.options import ImportOptions
from rollout.importers.record import Record
from rollout.importers.split import divide, link
from wire.errors import ConfigError, DataError
from wire.labels import Label, LabelSet
from wire.types import Split


def with_split_and_window(record: Record, source: Source, options: ImportOptions) -> Record:
    """The record with its final split, none if the ratio decides, and with its window if asked."""
    if source.split and record.split not in (None, source.split):
        raise ConfigError(
            f"{record.where} says split {record.split}, but the source was given as "
            f"{source.split}={source.address}; write it without {source.split}= to keep its own"
        )
    split = record.split or source.split or options.split
    if options.ratio is not None and split is options.divide:
        split = None
    elif split is None and options.ratio is None:
        known = ", ".join(each.value for each in Split)
        raise ConfigError(
            f"no split for the clips of {source.address}; write such as train={source.address} "
            f"({known}), or give --split or --ratio"
        )
    if record.window is None:
        return replace(record, split=split, untrimmed=())
    if not (options.windows or record.is_part):
        return replace(record, split=split, window=None)
    videos = record.untrimmed or record.videos
    return replace(record, split=split, videos=videos, untrimmed=())


def label_set(defined: Sequence[Label], clips: Iterable[Clip]) -> LabelSet:
    """Label set of the task: the defined labels, else those of the clips. Raises DataError."""
    names = {label.name: label for label in defined}
    used = sorted({clip.label for clip in clips})
    if unknown := [name for name in used if defined and name not in names]:
        raise DataError(
            f"labels {unknown[:5]} are not among the defined ones: {', '.join(list(names)[:20])}"
        )
    if len(names or used) == 1:
        raise DataError(
            f"the labels {used} make no task: one label leaves nothing to tell apart; add records "
            "of other labels, or a file that defines them"
        )
    try:
        return LabelSet(labels=tuple(names.values()) or tuple(Label(name=name) for name in used))
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise DataError(
            f"the labels {used[:5]} make no task: {reason}; mend them in the source"
        ) from error


def groups_of_clips(
    clips: Mapping[str, Clip], places: Mapping[str, str], options: ImportOptions
) -> dict[str, str]:
    """Clip id -> what must stay together: clips of one file, and of one value of a column."""
    ties = [{name: places[name] for name in clips}]
    if options.group_by is not None:
        ties.append({name: _group(clip, options.group_by) for name, clip in clips.items()})
    return link(clips, ties)


def _group(clip: Clip, column: str) -> str:
    value = clip.id if column == "id" else clip.columns.get(column)
    if value is None:
        known = ", ".join(["id", *clip.columns])
        raise ConfigError(
            f"clip {clip.id} has no value in {column!r}, which --group-by names; its columns: "
            f"{known}"
        )
    return str(value)


def splits_of_clips(
    clips: Mapping[str, Clip], groups: Mapping[str, str], options: ImportOptions
) -> dict[str, Split]:
    """Clip id -> split. What is to be divided follows its group into a split that is given."""
    splits = {name: clip.split for name, clip in clips.items() if clip.split}
    rest = [name for name, clip in clips.items() if not clip.split]
    if options.ratio and not rest:
        raise ConfigError(
            "--ratio has nothing to divide: every clip has a split of its source; leave it out, "
            "or give --divide train to divide that split further"
        )
    given = _given(splits, groups, options)
    splits |= {name: given[groups[name]] for name in rest if groups[name] in given}
    rest = [name for name in rest if groups[name] not in given]
    if rest and options.ratio:
        labels = {name: clips[name].label for name in rest}
        splits |= divide(labels, options.ratio, options.seed, groups)
    return splits


def _given(
    splits: Mapping[str, Split], groups: Mapping[str, str], options: ImportOptions
) -> dict[str, Split]:
    """Group -> the split that its source gives. Raises DataError if --group-by finds it in two."""
    splits_of: dict[str, set[Split]] = defaultdict(set)
    for name, split in splits.items():
        splits_of[groups[name]].add(split)
    crossing = sorted(group for group, each in splits_of.items() if len(each) > 1)
    if crossing and options.group_by:
        raise DataError(
            f"{len(crossing)} groups of --group-by {options.group_by} are in several splits of the "
            f"source, such as that of {crossing[0]}; drop the source's splits, or --group-by"
        )
    return {group: min(each, key=list(Split).index) for group, each in splits_of.items()}
