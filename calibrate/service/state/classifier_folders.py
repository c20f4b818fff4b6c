"""Folders of the registry's classifiers: each appears whole, with checked bytes, or not at all.

    published directory -> N.partial (links and copies) -> every hash is checked -> rename -> N

Weights are hard links where the disk is the same, else copies; the small files are copies. A link
shares its bytes with the directory it came from: nothing of this project changes weights in place,
and if somebody does, they are newer than classifier.json, so that their hashes are checked, and the
classifier refused, when its engines are next started.
"""

import errno
import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from calibrate.classifier import (
    CARD_FILE,
    DESCRIPTION_FILE,
    PROVENANCE_FILE,
    Classifier,
    load_classifier,
)
from calibrate.classifier_files import is_weights
from wire.disk import naming_full_disk
from wire.errors import DataError
from wire.whole_file import sync_to_disk

log = logging.getLogger(__name__)

_PARTIAL = ".partial"


def take_up(source: Classifier, folder: Path) -> Classifier:
    """Take up a published classifier as ``folder``, which must not be there. Raises DataError if
    bytes are not those published or a file is a symbolic link, DiskFull; then nothing is left."""
    partial = folder.with_name(folder.name + _PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with naming_full_disk(folder.parent):
            partial.mkdir(parents=True)
            for name in (*source.files, DESCRIPTION_FILE):
                _add(source.path, name, partial)
            for name in (PROVENANCE_FILE, CARD_FILE):  # they explain, and may have been removed
                if (source.path / name).is_file():
                    _add(source.path, name, partial)
            checked = load_classifier(partial)
            if checked.version != source.version:
                raise DataError(f"{source.path} was changed while it was read; try again")
            for place in (*(one for one in partial.rglob("*") if one.is_dir()), partial):
                sync_to_disk(place)
            partial.rename(folder)
            sync_to_disk(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return load_classifier(folder, check_weights=False)


def remove_unregistered(folder: Path, versions: Collection[int]) -> list[str]:
    """Remove what a kill has left: half-made folders, and whole ones that have no row. Returns
    their names. Anything else in the folder stays."""
    names = []
    for place in folder.iterdir():
        number = place.name.removesuffix(_PARTIAL)
        half = place.name.endswith(_PARTIAL)
        if number.isdecimal() and (half or int(number) not in versions):
            shutil.rmtree(place)
            names.append(place.name)
    return sorted(names)


def _add(directory: Path, name: str, target: Path) -> None:
    """Link or copy one file. A symbolic link on the way is refused: it may lead anywhere."""
    file = directory / name
    inside = [directory / parent for parent in Path(name).parents]
    if any(place.is_symlink() for place in (file, *inside[:-1])):
        raise DataError(
            f"{file} is, or lies in, a symbolic link; copy the classifier with `cp -rL` and "
            "register the copy"
        )
    place = target / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if not (is_weights(name) and _linked(file, place)):
        shutil.copyfile(file, place)
    sync_to_disk(place)


def _linked(file: Path, place: Path) -> bool:
    try:
        os.link(file, place, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        log.info("%s cannot be linked to %s (%s), so it is copied", file, place, error)
        return False
    return True
