"""A folder per class: CLASS/clip.mp4, or SPLIT/CLASS/clip.mp4.

Folders below the class's belong to it. Whether the top folders are splits or classes is told by
their names, and must be the same for all of them.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from rollout.importers.content import Content
from rollout.importers.record import LeftOut, Record
from rollout.importers.rows import is_video, label_in, split_named
from wire.errors import DataError

NO_CLASS = "files left out: they are in no class's folder"
NO_TEXT = "files left out: their names are not UTF-8"
NO_VIDEO = "files left out: they are no videos by their suffix"

_LABELLED = 2  # folders above a clip in SPLIT/CLASS


def is_folder_per_class(content: Content) -> bool:
    """Whether videos lie in the folders of at least two classes."""
    videos = [PurePosixPath(name).parts[:-1] for name in content.files if is_video(name)]
    classes = {
        folders[1:2] if split_named(folders[0]) else folders[:1] for folders in videos if folders
    }
    return len(classes - {()}) > 1


def read_folders(content: Content) -> Iterator[Record | LeftOut]:
    """One record per video. Raises DataError if some top folders are splits and others classes."""
    videos = [PurePosixPath(name) for name in content.files if is_video(name)]
    tops = {path.parts[0] for path in videos if len(path.parts) > 1}
    splits = {top for top in tops if split_named(top)}
    if splits and splits < tops:
        others = ", ".join(sorted(tops - splits)[:5])
        raise DataError(
            f"{content.name} has folders of splits ({', '.join(sorted(splits))}) beside others "
            f"({others}); put every class into a split's folder, or import them one by one"
        )
    for name in content.files:
        path = PurePosixPath(name)
        if not _is_text(name):
            yield LeftOut(id=ascii(name), reason=NO_TEXT)
        elif is_video(name):
            yield _record(content, path, bool(splits))
        else:
            yield LeftOut(id=name, reason=NO_VIDEO)


def _record(content: Content, path: PurePosixPath, has_splits: bool) -> Record | LeftOut:
    folders = path.parts[:-1]
    if len(folders) < (_LABELLED if has_splits else 1):
        return LeftOut(id=str(path), reason=NO_CLASS)
    return Record(
        id=str(path.with_suffix("")),
        where=f"{content.name}/{path}",
        videos=(f"{content.base}/{path}",),
        split=split_named(folders[0]) if has_splits else None,
        label=label_in(folders[1 if has_splits else 0], str(path)),
    )


def _is_text(name: str) -> bool:
    """Whether a file's name can stand in a manifest: the system allows any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
