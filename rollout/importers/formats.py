"""The formats by name, and which of them a source is in.

To add one: a function ``parse(where, row)`` or ``read(content)``, one that says whether a source is
its own, and a line in FORMATS.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rollout.importers.content import Content
from rollout.importers.parsers import (
    answers,
    deepintuit,
    folder,
    kinetics,
    rbft,
    ssv2,
    table,
)
from rollout.importers.record import LeftOut, Record
from rollout.importers.rows import Row, is_video
from rollout.importers.settle import settle
from rollout.manifest import raise_if_any
from wire.errors import ConfigError, DataError

Parse = Callable[[str, Row], Record | LeftOut]


@dataclass(frozen=True, slots=True)
class Format:
    """How a source is recognised and read.

    Example:
        Format("a table", is_its_own, read)
    """

    words: str
    """Description in a few words."""
    is_its_own: Callable[[Content], bool]
    read: Callable[[Content], Iterable[Record | LeftOut]]
    """Raises DataError gathering what cannot be read."""


def _of_rows(words: str, is_its_own: Callable[[Row], bool], parse: Parse) -> Format:
    def recognise(content: Content) -> bool:
        return bool(content.rows) and is_its_own(content.rows[0][1])

    def read(content: Content) -> Iterable[Record | LeftOut]:
        return _parse_all(content, parse)

    return Format(words, recognise, read)


def _has(*columns: str) -> Callable[[Row], bool]:
    return lambda row: set(columns) <= set(row)


FORMATS: Mapping[str, Format] = {
    "folder": Format("a folder per class", folder.is_folder_per_class, folder.read_folders),
    "table": _of_rows("a table with video and label", table.is_table, table.parse),
    "list": _of_rows("lines 'path label'", table.is_list, table.parse_list),
    "kinetics": _of_rows("Kinetics", kinetics.is_kinetics, kinetics.parse),
    "ssv2": _of_rows("Something-Something", ssv2.is_ssv2, ssv2.parse),
    "swift": _of_rows(
        "a chat, as of ms-swift, TRL or LLaVA", answers.is_swift, answers.parse_swift
    ),
    "verl": _of_rows("verl", answers.is_verl, answers.parse_verl),
    "easyr1": _of_rows("EasyR1", answers.is_easyr1, answers.parse_easyr1),
    "video-r1": _of_rows("Video-R1", answers.is_video_r1, answers.parse_video_r1),
    "deepintuit": _of_rows("DeepIntuit", _has("item_id", "conversations"), deepintuit.parse),
    "rbft": _of_rows("RB-FT, LLaVA", _has("id", "video", "conversations"), rbft.parse),
}


def recognise(content: Content, columns: Mapping[str, str] = MappingProxyType({})) -> str:
    """The name of the one format that a source can be in; a table if the user names its ``columns``
    for video and label. Raises ConfigError if it is not one."""
    if content.rows and {"video", "label"} <= set(columns):
        return "table"
    fitting = [name for name, each in FORMATS.items() if each.is_its_own(content)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " or ".join(f"{name} ({FORMATS[name].words})" for name in fitting)
        raise ConfigError(f"{content.name} can be {names}; say which with --format")
    if videos := [name for name in content.files if is_video(name)]:
        raise ConfigError(
            f"{content.name} has videos, {len(videos)} of them, but not in the folders of two "
            f"classes or more, such as {content.name}/CLASS/clip.mp4; give a folder per class, or "
            "a table of videos and labels with --media-root"
        )
    if headless := [name for name in content.columns if is_video(name)]:
        raise ConfigError(
            f"{content.name} has no header: its first line names {headless[0]}; put one above it, "
            "such as video,label,split"
        )
    seen = (
        f"columns {', '.join(content.columns)}" if content.rows else f"{len(content.files)} files"
    )
    raise ConfigError(
        f"{content.name} is in no known format: it has {seen}; name the columns with --columns "
        f"video=NAME,label=NAME, or give one of --format {', '.join(FORMATS)}"
    )


def read(
    content: Content, name: str, *, numbers_have_names: bool = False
) -> list[Record | LeftOut]:
    """The records of a source, each with a label of its own.

    ``numbers_have_names``: the user names the labels that are numbers. Raises DataError gathering
    the rows that cannot be read.
    """
    each = FORMATS[name]
    if (name == "folder" and not content.files) or (name != "folder" and not content.rows):
        what = "a folder of videos" if content.files else "a file of rows"
        raise ConfigError(f"{content.name} is {what}, which --format {name} does not read")
    return settle(each.read(content), numbers_have_names=numbers_have_names)


def _parse_all(content: Content, parse: Parse) -> list[Record | LeftOut]:
    faults = []
    outcomes = []
    for where, row in content.rows:
        try:
            outcomes.append(parse(where, row))
        except DataError as error:
            faults.append(str(error))
    raise_if_any(content.name, faults)
    return outcomes
